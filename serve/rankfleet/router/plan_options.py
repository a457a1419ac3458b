"""The plans that a request may be given, each with its predicted time and quality."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Literal, NamedTuple

from rankfleet.core.messages import Stage, Work
from rankfleet.core.pairs import MIN_CHUNK_TOKENS
from rankfleet.core.sections import NONE, Routing
from rankfleet.estimates.arrivals import ArrivalStats
from rankfleet.estimates.frontier import quality_range
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.lengths import Lengths
from rankfleet.estimates.quality import QualityTable

LENGTHS = (256, 128, 64)  # tokens to which pairs are cut, where the table has a figure or nothing whole fits
MIN_TEXT_TOKENS = 32  # tokens of query and document that a pair must keep for its score to mean anything


@dataclass(frozen=True, slots=True)
class TierState:
    """What the planner knows of a tier. `latency` is None until its group has reported."""

    name: str
    quality: float
    group: str
    latency: LatencyModel | None


@dataclass(frozen=True, slots=True)
class GroupState:
    """backlog_s: predicted seconds of queued and running work ÷ ready replicas; ahead_s: of that, what goes before
    the request that is planned (None: all of it); whole_tokens: requests up to so many tokens go to one replica,
    which binds the tier late (0 where a group has one tier); pace: of arrivals at one replica; asleep: whether no
    replica runs, so that a request would wait for one to start; batch_tokens: of a full batch."""

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
        """Into how many chunks a request is cut."""
        return 1 if work.tokens <= self.whole_tokens else spread(work, self.replicas)


@dataclass(frozen=True, slots=True)
class FleetSnapshot:
    """The fleet as a router sees it at one instant. overhead_ms: what a request costs outside of queue and
    engine (HTTP, tokens, transfer); table: what is known of quality beyond one figure per tier; start_s: until a
    group that is asleep would answer."""

    tiers: tuple[TierState, ...]
    groups: Mapping[str, GroupState]
    overhead_ms: float
    table: QualityTable | None = None
    rule: Routing = field(default_factory=Routing)
    start_s: float = 20.0

    @property
    def idle(self) -> "FleetSnapshot":
        """The same fleet with every group awake and nothing to do."""
        groups = {name: replace(group, backlog_s=0.0, ahead_s=0.0, asleep=False) for name, group in self.groups.items()}
        return replace(self, groups=groups)

    @property
    def asleep(self) -> bool:
        """Whether no group has a replica."""
        return all(group.asleep for group in self.groups.values())

    @property
    def quality(self) -> QualityTable:
        return self.table or QualityTable({tier.name: tier.quality for tier in self.tiers})

    @property
    def scale(self) -> float:
        """The range of the tiers' qualities: the unit of prices."""
        return quality_range(tier.quality for tier in self.tiers)


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What is to be planned.

    work: by tier, since vocabularies and limits differ; tiers that are not in it are not considered. budget_ms
    counts from `arrived_s`, seconds on the same clock as `now_s`. pinned: who has chosen the one tier, if
    anybody: the request by name, the arm of an experiment, or the fleet's default model. min_quality: nDCG@10 below
    which an answer is of no use. lengths: of the pairs by tier; without them no plan cuts pairs. stages: the most
    passes the caller can carry out.
    """

    work: Mapping[str, Work]
    arrived_s: float
    budget_ms: float | None = None
    pinned: Literal["name", "arm", "default"] | None = None
    when_none_fits: Literal["degrade", "refuse"] = "degrade"
    min_quality: float = 0.0
    lengths: Mapping[str, Lengths] | None = None
    stages: int = 1

    @property
    def documents(self) -> int:
        """How many are to be ranked; where lengths are not known, one a pair."""
        if self.lengths is not None:
            return next(iter(self.lengths.values())).documents
        return next(iter(self.work.values())).pairs


class PlanOption(NamedTuple):
    """One plan. engine_ms: its device time on one replica; the other fields are those of `Plan`."""

    tier: str
    group: str
    quality: float
    predicted_ms: float
    engine_ms: float
    how: str = ""
    stages: tuple[Stage, ...] = ()
    candidates: int | None = None
    max_tokens: int | None = None


QUALITY = attrgetter("quality")


def spread(work: Work, replicas: int) -> int:
    """Into how many chunks a request is cut: one for each ready replica, while each is worth its transfer."""
    return max(1, min(replicas, work.tokens // MIN_CHUNK_TOKENS))


def engine_ms(tier: TierState, work: Work, fleet: FleetSnapshot) -> float:
    """99th percentile of device time, spread over the group's replicas; infinity for a tier not measured."""
    if tier.latency is None:
        return math.inf
    parts = fleet.groups[tier.group].parts(work)
    return tier.latency.p99_ms(work if parts == 1 else work.share(parts))


def whole(ask: PlanRequest, fleet: FleetSnapshot, elapsed_ms: float) -> list[PlanOption]:
    """Every tier on everything, best first: elapsed + overhead + what is ahead + engine. A group that is asleep has to
    start first."""
    waits = {
        name: elapsed_ms + fleet.overhead_ms + (fleet.start_s * 1e3 if group.asleep else group.ahead_ms)
        for name, group in fleet.groups.items()
    }
    found = []
    for tier in fleet.tiers:
        if (work := ask.work.get(tier.name)) is not None:
            ms = engine_ms(tier, work, fleet)
            found.append(PlanOption(tier.name, tier.group, tier.quality, waits[tier.group] + ms, ms))
    found.sort(key=QUALITY, reverse=True)
    return found


def known_parts(ask: PlanRequest, fleet: FleetSnapshot, base: list[PlanOption]) -> Iterator[PlanOption]:
    """Cascades, first candidates and cut pairs whose quality stands in the table: plans like any other."""
    table = fleet.table
    if table is None:
        return
    tiers = {c.tier: c for c in base if math.isfinite(c.predicted_ms)}
    states = {tier.name: tier for tier in fleet.tiers if tier.name in tiers}
    for (small, large), steps in table.cascades.items() if ask.stages > 1 else ():
        if small in tiers and large in tiers:
            yield from cascades(states[large], tiers[small], ask, steps, fleet)
    for name, state in states.items():
        for depth in table.depths.get(name, ()):
            if depth < ask.documents:
                yield first_candidates(ask, fleet, state, tiers[name], depth)
        for length in table.tokens.get(name, ()):
            if (cut := cut_pairs(ask, fleet, state, tiers[name], length)) is not None:
                yield cut


def cascades(
    large: TierState, first: PlanOption, ask: PlanRequest, steps: Mapping[int, float], fleet: FleetSnapshot
) -> Iterator[PlanOption]:
    """`first` on everything, then `large` on the best k. The second stage waits in its group's queue as well,
    where that is another group."""
    again_ms = fleet.overhead_ms
    if large.group != first.group:
        again_ms += fleet.groups[large.group].ahead_ms
    for k, quality in steps.items():
        if k < ask.documents:
            ms = engine_ms(large, part_of(ask.work[large.name], k, ask), fleet)
            stages = (Stage(first.tier, ask.documents), Stage(large.name, k))
            yield PlanOption(
                large.name,
                first.group,
                quality,
                first.predicted_ms + again_ms + ms,
                first.engine_ms + ms,
                f"best {k} by {first.tier}",
                stages,
            )


def part_of(work: Work, documents: int, ask: PlanRequest) -> Work:
    """Of all work of a request, that of so many documents of the mean size."""
    share = documents / ask.documents
    return Work(math.ceil(work.pairs * share), math.ceil(work.tokens * share), math.ceil(work.squares * share))


def first_candidates(
    ask: PlanRequest, fleet: FleetSnapshot, tier: TierState, base: PlanOption, depth: int
) -> PlanOption:
    """The first `depth` candidates scored, the others behind them as given."""
    ms = engine_ms(tier, first_work(ask, tier, depth), fleet)
    quality = fleet.quality.at_depth(tier.name, depth, ask.documents)
    how = f"first {depth} of {ask.documents}"
    return PlanOption(
        tier.name, tier.group, quality, base.predicted_ms - base.engine_ms + ms, ms, how, candidates=depth
    )


def first_work(ask: PlanRequest, tier: TierState, depth: int) -> Work:
    """Of the first `depth` documents."""
    if ask.lengths is None:
        return part_of(ask.work[tier.name], depth, ask)
    return ask.lengths[tier.name].first(depth)


def cut_pairs(
    ask: PlanRequest, fleet: FleetSnapshot, tier: TierState, base: PlanOption, max_tokens: int
) -> PlanOption | None:
    """Pairs cut to `max_tokens`; None where none is longer, nothing to speak of would be left beside a prompt, or
    lengths are not known."""
    if ask.lengths is None:
        return None
    lengths = ask.lengths[tier.name]
    if lengths.longest <= max_tokens or max_tokens < lengths.template_tokens + MIN_TEXT_TOKENS:
        return None
    work = lengths.cut(max_tokens)
    ms = engine_ms(tier, work, fleet)
    quality = fleet.quality.at_length(tier.name, max_tokens, work.tokens / ask.work[tier.name].tokens)
    how = f"{max_tokens} tokens a pair"
    return PlanOption(
        tier.name, tier.group, quality, base.predicted_ms - base.engine_ms + ms, ms, how, max_tokens=max_tokens
    )


def degraded(
    ask: PlanRequest, fleet: FleetSnapshot, base: list[PlanOption], budget_ms: float, elapsed_ms: float
) -> list[PlanOption]:
    """What can be done when nothing whole fits: the best cut of tokens that fits; else the best share of the
    candidates that does; else the order as given, which always comes last."""
    measured = [(tier, c) for tier in fleet.tiers for c in base if c.tier == tier.name and math.isfinite(c.engine_ms)]
    tried = [cut for tier, c in measured for n in LENGTHS if (cut := cut_pairs(ask, fleet, tier, c, n)) is not None]
    if not any(cut.predicted_ms <= budget_ms for cut in tried):
        for tier, c in measured:
            depth = affordable(ask, fleet, tier, budget_ms - (c.predicted_ms - c.engine_ms))
            if 0 < depth < ask.documents:
                tried.append(first_candidates(ask, fleet, tier, c, depth))
    tried.sort(key=lambda c: -c.quality)
    waits_ms = elapsed_ms + fleet.overhead_ms
    given = PlanOption(NONE, base[0].group, fleet.quality.retriever, waits_ms, 0.0, "the order as given", candidates=0)
    return [*tried, given]


def affordable(ask: PlanRequest, fleet: FleetSnapshot, tier: TierState, left_ms: float) -> int:
    """How many of the first candidates `tier` can score in `left_ms`, by halving: time grows with their number."""
    low, high = 0, ask.documents
    while low < high:
        middle = (low + high + 1) // 2
        if engine_ms(tier, first_work(ask, tier, middle), fleet) <= left_ms:
            low = middle
        else:
            high = middle - 1
    return low
