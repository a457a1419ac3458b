"""Whether a replica still scores what it is sent. Serve replaces a replica whose check fails three times in a row."""

from typing import Protocol

from rankfleet.core.probe import probed
from rankfleet.replica.collector import CollectorWatchdog

MAX_HELD_S = 10.0  # a working collector submits a chunk in the next round of the event loop


class WorkerHealth(Protocol):
    """What the check needs of a `Worker`."""

    @property
    def stuck(self) -> bool:
        """Whether the batch on the device will not come back."""
        ...

    @property
    def halted(self) -> bool:
        """Whether chunks wait and nothing scores them."""
        ...

    @property
    def busy(self) -> bool:
        """Whether a batch is on the device."""
        ...

    @property
    def failures(self) -> int:
        """Batches in a row that have failed."""
        ...

    async def probe(self) -> None:
        """Score ordinary pairs. Raises what scoring raises; else clears the failures."""
        ...


async def check(worker: WorkerHealth, collector: CollectorWatchdog) -> None:
    """Raise RuntimeError that says what does not work any more."""
    if worker.stuck:
        raise RuntimeError("the batch on the device does not come back")
    if worker.halted:
        raise RuntimeError("chunks wait and nothing scores them: the worker's task has ended")
    if collector.held_s > MAX_HELD_S:
        raise RuntimeError(f"chunks have not been submitted for {collector.held_s:.0f} s: the batching task has ended")
    if worker.failures and not worker.busy:  # behind a long batch a probe could time out
        await probed(worker.probe, f"{worker.failures} batches in a row have failed, and so has a probe")
