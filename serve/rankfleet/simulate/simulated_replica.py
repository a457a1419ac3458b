"""Replicas and groups in the simulator, and the requests that are in them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from rankfleet.core.work import Work
from rankfleet.estimates.load import LoadCounters, ReplicaLoad
from rankfleet.replica.batching import QueuedChunk
from rankfleet.replica.queue import TokenQueue
from rankfleet.simulate.scaling import GroupSnapshot


@dataclass(slots=True)
class SimulatedRequest:
    """A request in progress.

    number: its index among all requests
    entry_id: in the router's in-flight ledger
    chunks_left: chunks that are not scored yet
    unloaded_tier, unloaded_ms: tier of its unloaded plan, and the device time of each of its chunks there
    lost: whether one of its chunks has expired
    """

    number: int
    group: str
    entry_id: int
    chunks_left: int
    unloaded_tier: str | None = None
    unloaded_ms: float = 0.0
    lost: bool = False


class SimulatedChunk(NamedTuple):
    """A chunk of a request."""

    request: SimulatedRequest
    work: Work


Queued = QueuedChunk[SimulatedChunk]


@dataclass(slots=True)
class SimulatedReplica:
    """One replica with its device.

    ready_s: when it has started
    free_s: when the batch on the device ends
    running, tier: that batch, empty if there is none, and what scores it
    """

    name: str
    queue: TokenQueue[SimulatedChunk]
    ready_s: float = 0.0
    free_s: float = 0.0
    running: list[Queued] = field(default_factory=list)
    tier: str = ""
    load: ReplicaLoad = field(default_factory=ReplicaLoad)

    def remove(self, request: SimulatedRequest) -> None:
        """Remove the waiting chunks of a lost request."""
        for _ in self.queue.remove_request(request.number):
            self.load.left(request.unloaded_ms)

    def backlog_ms(self, now_s: float) -> float:
        """Predicted time until a chunk that arrives now would start, at the cheapest tiers."""
        return self.queue.backlog_ms + max(0.0, max(self.free_s, self.ready_s) - now_s) * 1e3


@dataclass(slots=True)
class SimulatedGroup:
    """The replicas of one group.

    replicas: that take work, or will when they have started
    draining: that take no more and still finish what they have
    parked: chunks that came while there was no replica, each with the number of times it is to be placed
    """

    new_replica: Callable[[float], SimulatedReplica]  # when it is ready → replica
    replicas: list[SimulatedReplica] = field(default_factory=list)
    draining: list[SimulatedReplica] = field(default_factory=list)
    parked: list[tuple[Queued, int]] = field(default_factory=list)

    @property
    def all_replicas(self) -> list[SimulatedReplica]:
        """Draining ones too."""
        return self.replicas + self.draining

    def grow_to(self, target: int, ready_s: float) -> None:
        """Start replicas up to the target."""
        while len(self.replicas) < target:
            self.replicas.append(self.new_replica(ready_s))

    def shrink_to(self, target: int) -> None:
        """Let the newest replicas drain down to the target."""
        self.draining += self.replicas[target:]
        del self.replicas[target:]

    def forget_drained(self) -> None:
        """Stop the draining replicas that have nothing left to do."""
        self.draining = [replica for replica in self.draining if replica.running or len(replica.queue)]

    def ready_names(self, now_s: float) -> frozenset[str]:
        """Names of the replicas that have started and take work."""
        return frozenset(replica.name for replica in self.replicas if replica.ready_s <= now_s)

    def snapshot(self, offered: LoadCounters, now_s: float) -> GroupSnapshot:
        """What a scaler may see. Draining replicas still report. offered: the router's counters."""
        every = self.all_replicas
        sources = {f"replica {replica.name}": replica.load.counters for replica in every}
        return GroupSnapshot(
            ready=sum(replica.ready_s <= now_s for replica in self.replicas),
            all=len(self.replicas),
            sources=sources | {"router": offered},
            backlog_s=sum(replica.load.backlog_s for replica in every),
            ongoing=sum(len(replica.queue) + len(replica.running) for replica in every) + len(self.parked),
        )
