"""Whether a router still answers: by the outcome of its last requests, and by a probe if that does not tell."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from rankfleet.core.probe import probed

SUSPECT_FAILURES = 3  # in a row, after which a router is probed
RECENT_S = 10.0  # a router is ready without a probe if it has answered a ranking within this time


class RouterHealth:
    """Counts outcomes, and probes on suspicion."""

    def __init__(self, probe: Callable[[], Awaitable[None]], clock: Callable[[], float] = time.perf_counter) -> None:
        """probe: ranks something as any request is ranked, and raises if that fails."""
        self._probe = probe
        self._clock = clock
        self._answered_s = float("-inf")
        self._failures = 0
        self._probing: asyncio.Task[None] | None = None

    def answered(self) -> None:
        """A ranking was answered with scores."""
        self._answered_s = self._clock()
        self._failures = 0

    def failed(self) -> None:
        """A request has failed by an unexpected error."""
        self._failures += 1

    async def check(self) -> None:
        """Raises RuntimeError if the last requests failed and a probe fails too."""
        if self._failures >= SUSPECT_FAILURES:
            await self._ask(f"{self._failures} requests in a row have failed inside the router, and so has a probe")

    async def ready(self) -> None:
        """Returns if a ranking was answered lately, or is answered now as a probe. Raises RuntimeError otherwise."""
        if self._clock() - self._answered_s > RECENT_S:
            await self._ask("a probe was not ranked")

    async def _ask(self, what: str) -> None:
        """Probe; callers at the same time share one probe."""
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(probed(self._probe, what))
        await asyncio.shield(self._probing)
        self.answered()
