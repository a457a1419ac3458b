"""Whether reading texts takes so long that a thread has to do it, so that the event loop can serve others meanwhile."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

# Fewer characters take less than a millisecond; handing them to a thread and back takes about a tenth of one.
INLINE_ENCODED = 4000
INLINE_HASHED = 200_000
INLINE_BUILT = 200_000  # tokens, put together to pairs

T = TypeVar("T")


async def run(call: Callable[[], T], size: int, inline: int) -> T:
    """The result of a call that reads so many characters or tokens; in a thread if they are more than `inline`."""
    if size <= inline:
        return call()
    return await asyncio.get_running_loop().run_in_executor(None, call)
