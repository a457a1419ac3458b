"""Whether a replica of a group still scores what it is sent."""

import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from rankfleet.core.probe import probed

T = TypeVar("T")

HELD_S = 10.0  # `@serve.batch` hands chunks on in the next round of the event loop; its task has ended if it does not


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
