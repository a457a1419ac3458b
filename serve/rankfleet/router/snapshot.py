"""The fleet as a router sees it at one instant: everything that a decision uses besides the request."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from rankfleet.core.pairs import MIN_CHUNK_TOKENS
from rankfleet.core.sections import Routing
from rankfleet.core.work import Work
from rankfleet.estimates.arrivals import ArrivalStats
from rankfleet.estimates.frontier import quality_range
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.quality import QualityTable

BURST_BUDGETS = 2.0  # in budgets: a group that has been busy for longer is overloaded, not hit by a burst
SIMILAR_SIZE = 1.25  # work up to this many times as large as a request is of about its size


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
    in_flight: (predicted ms, deadline) of each chunk that this router has in flight there; infinity for best-effort
        work, and for work above a tenant's share.
    busy_since_s: since when it has had any there without a break.
    whole_tokens: requests up to this size go to one replica, which selects the tier late; 0 if a group has one tier.
    arrivals: at one replica.
    asleep: no replica runs, so a request would wait for one to start.
    batch_tokens: size of a full batch.
    """

    replicas: int
    backlog_s: float
    in_flight: tuple[tuple[float, float], ...] = ()
    busy_since_s: float = 0.0
    whole_tokens: int = 0
    arrivals: ArrivalStats = field(default_factory=ArrivalStats)
    asleep: bool = False
    batch_tokens: int = 1

    @property
    def urgent_backlog_s(self) -> float:
        """The part of the backlog that has deadlines to keep, if that of other routers is like this one's."""
        in_flight_ms = sum(ms for ms, _ in self.in_flight)
        if in_flight_ms <= 0:
            return self.backlog_s
        return self.backlog_s * sum(ms for ms, deadline_s in self.in_flight if deadline_s < math.inf) / in_flight_ms

    def ahead_ms(self, deadline_s: float, min_ms: float, now_s: float) -> float:
        """The part of the backlog that is served before a request of this deadline. min_ms: as `cheapest_ms` of it.

        With late binding, that is the share of work in flight with an earlier deadline that is smaller: work of the
        same size may be dropped in favour of the request (`replica/batching.py`), and accepted work can still be given
        smaller tiers. That is right during a burst. If the group has been busy for longer, work of about the request's
        size would be dropped as well, only later, so it counts too. With a single tier the prediction has to hold even
        if more urgent work arrives, so all work with a deadline counts. That of other routers is taken to be like this
        router's own.
        """
        in_flight_ms = sum(ms for ms, _ in self.in_flight)
        if deadline_s == math.inf or in_flight_ms <= 0:
            return self.backlog_s * 1e3
        if not self.whole_tokens:
            return self.urgent_backlog_s * 1e3
        burst = now_s - self.busy_since_s <= BURST_BUDGETS * (deadline_s - now_s)
        max_ms = min_ms - 1e-9 if burst else min_ms * SIMILAR_SIZE
        ahead_ms = sum(ms for ms, deadline in self.in_flight if deadline <= deadline_s and ms <= max_ms)
        return self.backlog_s * 1e3 * min(1.0, ahead_ms / in_flight_ms)


@dataclass(frozen=True, slots=True)
class FleetSnapshot:
    """The fleet as a router sees it at one instant: everything that a decision uses besides the request.

    network_ms: time per request between client and router, there and back.
    transfer_ms: of a chunk between router and replica, there and back; 98th percentile.
    table: quality of cascades, depths and cut pairs; None if only one figure per tier is known.
    start_s: seconds until a group that is asleep would answer.
    """

    tiers: tuple[TierState, ...]
    groups: Mapping[str, GroupState]
    network_ms: float
    transfer_ms: float = 0.0
    table: QualityTable | None = None
    rule: Routing = field(default_factory=Routing)
    start_s: float = 20.0

    @property
    def idle(self) -> "FleetSnapshot":
        """The same fleet with every group awake and no backlog."""
        groups = self.groups.items()
        idle = {name: replace(group, backlog_s=0.0, in_flight=(), asleep=False) for name, group in groups}
        return replace(self, groups=idle)

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


def cheapest_ms(tiers: Iterable[tuple[LatencyModel, Work, int]]) -> float:
    """Device time at the cheapest of these tiers, with its share of a batch's fixed cost, at the 99th percentile: what
    a queue counts for some work.

    tiers: latency model, size of the work in the tier's tokens, and tokens of a full batch. Infinity for no tiers.
    """
    return min((model.cost(work, batch_tokens).amortized_ms for model, work, batch_tokens in tiers), default=math.inf)
