"""A replica in the simulator, and the requests that are at it."""

from dataclasses import dataclass, field

from rankfleet.core.messages import Work
from rankfleet.estimates.load import ReplicaLoad
from rankfleet.replica.batching import Waiting
from rankfleet.replica.queue import TokenQueue


@dataclass(slots=True)
class Job:
    """A request under way. left: chunks not scored yet; preferred: the tier of an idle fleet, and the device time
    there of each chunk."""

    request: int
    group: str
    entry_id: int
    left: int
    unloaded_tier: str | None = None
    unloaded_ms: float = 0.0
    lost: bool = False


@dataclass(slots=True)
class SimulatedReplica:
    """One device: its queue, and what it is scoring. free_s: when the batch on it ends; load: its books."""

    name: str
    queue: TokenQueue[tuple[Job, Work]]
    ready_s: float = 0.0
    free_s: float = 0.0
    running: list[Waiting[tuple[Job, Work]]] = field(default_factory=list)
    tier: str = ""
    load: ReplicaLoad = field(default_factory=ReplicaLoad)

    def forget(self, job: Job) -> None:
        """Take out what waits of a request that is lost."""
        for _ in self.queue.drop(job.request):
            self.load.left(job.unloaded_ms)

    def backlog_ms(self, now_s: float) -> float:
        return self.queue.backlog_ms + max(0.0, max(self.free_s, self.ready_s) - now_s) * 1e3
