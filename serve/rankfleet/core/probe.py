"""A probe: one ordinary piece of work, asked for to see whether a process still does what it is there for.

Serve checks the health of each process, and replaces one that fails three checks in a row. A request that fails may be
at fault itself, so a failure is only a suspicion, and a probe decides: without it one client could have healthy
processes replaced.
"""

import asyncio
from collections.abc import Awaitable, Callable

PROBE_TIMEOUT_S = 10.0  # Serve waits 15 s for a check


async def probed(probe: Callable[[], Awaitable[None]], what: str) -> None:
    """Raises RuntimeError where the probe does not succeed in time."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            await probe()
    except Exception as error:
        raise RuntimeError(f"{what}: {type(error).__name__}: {error}") from error
