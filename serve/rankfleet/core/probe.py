"""A probe: one ordinary piece of work that shows whether a process still works.

Serve checks the health of each process and replaces one that fails three checks in a row. A request may fail because
of its own content, so failures only raise a suspicion, and a probe decides. Otherwise one client could have healthy
processes replaced.
"""

import asyncio
from collections.abc import Awaitable, Callable

PROBE_TIMEOUT_S = 10.0  # below the 15 s that Serve waits for a health check


async def probed(probe: Callable[[], Awaitable[None]], what: str) -> None:
    """Run a probe. Raises RuntimeError, which begins with `what`, if it fails or takes too long."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            await probe()
    except Exception as error:
        raise RuntimeError(f"{what}: {type(error).__name__}: {error}") from error
