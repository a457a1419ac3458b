"""Whether a process still does what it is there for. Serve asks, and replaces one that says no three times.

A request that fails may be at fault itself. So a failure is only a suspicion, and a probe, which asks for nothing
unusual, decides: without it one client could have healthy processes replaced.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

T = TypeVar("T")

HELD_S = 10.0  # `@serve.batch` hands chunks on in the next round of the event loop; its task has ended if it does not
SUSPECT_FAILURES = 3  # in a row, after which a router is probed
RECENT_S = 10.0  # how old the last answered ranking may be for a router to be ready
PROBE_TIMEOUT_S = 10.0  # Serve waits 15 s for a check


class Device(Protocol):
    """What is asked of a worker. busy: whether a batch is on the device; failures: batches that have failed since the
    last that did not."""

    @property
    def stuck(self) -> bool: ...

    @property
    def halted(self) -> bool: ...

    @property
    def busy(self) -> bool: ...

    @property
    def failures(self) -> int: ...

    async def probe(self) -> None:
        """Score an ordinary batch. Raises what that raises; else the failures are forgotten."""
        ...


class Entrance:
    """Chunks on their way into the queue, from arrival until `@serve.batch` has handed them on."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._since: dict[int, float] = {}  # in order of arrival
        self._next = 0

    async def through(self, handed: Awaitable[T]) -> T:
        """handed: done once the chunk has been handed on."""
        number = self._next
        self._next += 1
        self._since[number] = self._clock()
        try:
            return await handed
        finally:
            del self._since[number]

    @property
    def held_s(self) -> float:
        """For how long the oldest has been held; 0 for none."""
        return self._clock() - next(iter(self._since.values())) if self._since else 0.0


async def check(device: Device, entrance: Entrance) -> None:
    """Raises RuntimeError that says what no longer works."""
    if device.stuck:
        raise RuntimeError("the batch on the device does not come back")
    if device.halted:
        raise RuntimeError("work waits and nothing takes it: the worker's task has ended")
    if entrance.held_s > HELD_S:
        raise RuntimeError(f"chunks are not handed on for {entrance.held_s:.0f} s: the batching task has ended")
    if device.failures and not device.busy:  # behind a long batch a probe could time out
        await probed(device.probe, f"{device.failures} batches in a row have failed, and so has a probe")


async def probed(probe: Callable[[], Awaitable[None]], what: str) -> None:
    """Raises RuntimeError where the probe does not succeed in time."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            await probe()
    except Exception as error:
        raise RuntimeError(f"{what}: {type(error).__name__}: {error}") from error


class RouterHealth:
    """Whether a router answers: what its last requests came to, and a probe where that does not tell."""

    def __init__(self, probe: Callable[[], Awaitable[None]], clock: Callable[[], float] = time.perf_counter) -> None:
        """probe: ranks something as any request is ranked, and raises where that fails."""
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
        """A request failed in a way that nobody expected."""
        self._failures += 1

    async def check(self) -> None:
        """Raises RuntimeError where requests keep failing, and a probe fails too."""
        if self._failures >= SUSPECT_FAILURES:
            await self._ask(f"{self._failures} requests in a row have failed inside the router, and so has a probe")

    async def ready(self) -> None:
        """Returns where a ranking has just been answered, a probe's if need be. Raises RuntimeError otherwise."""
        if self._clock() - self._answered_s > RECENT_S:
            await self._ask("a probe was not ranked")

    async def _ask(self, what: str) -> None:
        """One probe at a time, however many ask."""
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(probed(self._probe, what))
        await asyncio.shield(self._probing)
        self.answered()
