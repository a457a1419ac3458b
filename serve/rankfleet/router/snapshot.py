"""The fleet as a router sees it at one instant: everything that a decision uses besides the request."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from rankfleet.core.pairs import MIN_CHUNK_TOKENS
from rankfleet.core.sections import Routing
from rankfleet.core.work import Work
from rankfleet.estimates.arrivals import ArrivalStats
from rankfleet.estimates.frontier import quality_range
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.quality import QualityTable


@dataclass(frozen=True, slots=True)
class TierState:
    """What the planner knows of a tier. `latency` is None until its group has reported."""

    name: str
    quality: float
    group: str
    latency: LatencyModel | None


@dataclass(frozen=True, slots=True)
class GroupState:
    """What the planner knows of a replica group.

    replicas: how many are ready.
    backlog_s: predicted seconds of queued and running work ÷ ready replicas.
    ahead_s: the part of `backlog_s` that is served before the request being planned; None for all of it.
    whole_tokens: requests up to this size go to one replica, which selects the tier late; 0 if a group has one tier.
    arrivals: at one replica.
    asleep: no replica runs, so a request would wait for one to start.
    batch_tokens: size of a full batch.
    """

    replicas: int
    backlog_s: float
    ahead_s: float | None = None
    whole_tokens: int = 0
    arrivals: ArrivalStats = field(default_factory=ArrivalStats)
    asleep: bool = False
    batch_tokens: int = 1

    @property
    def ahead_ms(self) -> float:
        return (self.backlog_s if self.ahead_s is None else self.ahead_s) * 1e3

    def parts(self, work: Work) -> int:
        """How many chunks a request of this size is cut into."""
        return 1 if work.tokens <= self.whole_tokens else spread(work, self.replicas)


@dataclass(frozen=True, slots=True)
class FleetSnapshot:
    """The fleet as a router sees it at one instant: everything that a decision uses besides the request.

    overhead_ms: time per request outside of queue and engine (HTTP, tokenizing, transfer).
    table: quality of cascades, depths and cut pairs; None if only one figure per tier is known.
    start_s: seconds until a group that is asleep would answer.
    """

    tiers: tuple[TierState, ...]
    groups: Mapping[str, GroupState]
    overhead_ms: float
    table: QualityTable | None = None
    rule: Routing = field(default_factory=Routing)
    start_s: float = 20.0

    @property
    def idle(self) -> "FleetSnapshot":
        """The same fleet with every group awake and no backlog."""
        groups = {name: replace(group, backlog_s=0.0, ahead_s=0.0, asleep=False) for name, group in self.groups.items()}
        return replace(self, groups=groups)

    @property
    def quality(self) -> QualityTable:
        return self.table or QualityTable({tier.name: tier.quality for tier in self.tiers})

    @property
    def scale(self) -> float:
        """The range of the tiers' qualities: the unit in which prices of device time are stated."""
        return quality_range(tier.quality for tier in self.tiers)


def spread(work: Work, replicas: int) -> int:
    """How many chunks to cut work into: one per ready replica, while each has at least MIN_CHUNK_TOKENS."""
    return max(1, min(replicas, work.tokens // MIN_CHUNK_TOKENS))
