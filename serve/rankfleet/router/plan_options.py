"""The plans that a request may be given, each with its predicted time and expected quality."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Literal, NamedTuple

from rankfleet.core.decisions import Stage
from rankfleet.core.work import Work
from rankfleet.estimates.lengths import Lengths
from rankfleet.router.snapshot import FleetSnapshot, TierState, cheapest_ms, spread

MAX_STAGES = 2  # passes of a plan that `router/execution.py` carries out
MIN_CUT_TOKENS = 64  # pairs are not cut to fewer tokens when no complete plan fits
MIN_TEXT_TOKENS = 32  # tokens of query and document that a pair must keep for its score to mean anything


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What the planner needs to know of a request.

    work: by tier, because vocabularies and length limits differ. Tiers that are missing are not considered.
    arrived_s: seconds on the clock of `now_s`; the budget counts from here.
    pinned: what fixed the one tier in `work`, or `cascade`: the request (by name), the arm of an experiment, or the
        fleet's default model; None if the planner chooses.
    min_quality: the lowest acceptable nDCG@10.
    lengths: of the pairs, by tier; None rules out plans that cut pairs.
    max_stages: how many passes the caller can carry out.
    may_cut: False rules out plans that cut pairs.
    over_share: whether the request is above its tenant's share, so that all work in flight is ahead of it.
    cascade: the first and second tier of a fixed cascade, and how many of the best the second scores.
    """

    work: Mapping[str, Work]
    arrived_s: float
    budget_ms: float | None = None
    pinned: Literal["name", "arm", "default"] | None = None
    when_none_fits: Literal["degrade", "refuse"] = "degrade"
    min_quality: float = 0.0
    lengths: Mapping[str, Lengths] | None = None
    max_stages: int = 1
    may_cut: bool = True
    over_share: bool = False
    cascade: tuple[str, str, int] | None = None

    @property
    def documents(self) -> int:
        """How many are to be ranked, of the query that has the most; without `lengths`, one per pair."""
        if self.lengths is not None:
            return next(iter(self.lengths.values())).candidates
        return next(iter(self.work.values())).pairs

    @property
    def tokens(self) -> int:
        """Of all its pairs, by the tier that makes the most of them."""
        return max(work.tokens for work in self.work.values())

    def share(self, documents: int) -> float:
        """The share of the pairs that so many documents of each query are."""
        if self.lengths is not None:
            return next(iter(self.lengths.values())).share(documents)
        return documents / self.documents


class PlanOption(NamedTuple):
    """One plan that could be taken.

    stages: as in `Plan`. group: that of the first stage. engine_ms: device time on one replica, 99th percentile.
    how: what is left out, or the second stage; empty for one tier on everything.
    """

    stages: tuple[Stage, ...]
    group: str
    quality: float
    predicted_ms: float
    engine_ms: float
    how: str = ""
    max_tokens: int | None = None

    @property
    def tier(self) -> str:
        """The tier that would answer."""
        return self.stages[-1].tier


class GivenOrderOption(NamedTuple):
    """Leaving the documents in the order given: takes no device time."""

    quality: float
    predicted_ms: float
    how: str = "the order as given"

    @property
    def tier(self) -> None:
        return None


QUALITY = attrgetter("quality")


def quality_floor(request: PlanRequest, fleet: FleetSnapshot) -> float:
    """The lowest quality that a plan may have: what the request asks for and, unless its tier is pinned, that of the
    order in which its documents came."""
    given = fleet.quality.retriever if request.pinned is None else 0.0
    return max(request.min_quality, given)


def engine_ms(tier: TierState, work: Work, fleet: FleetSnapshot, whole: bool = False) -> float:
    """99th percentile of the device time; infinity for a tier not measured yet.

    whole: whether the work goes to one replica, which selects the tier late. Else it is spread over the group's.
    """
    if tier.latency is None:
        return math.inf
    parts = 1 if whole else spread(work, fleet.groups[tier.group].replicas)
    return tier.latency.p99_ms(work if parts == 1 else work.share(parts))


def complete_options(request: PlanRequest, fleet: FleetSnapshot, now_s: float) -> list[PlanOption]:
    """Every tier on everything, best first: predicted = elapsed + network + transfer + work ahead + engine.

    In place of the work ahead, a group that is asleep has the time until a replica has started.
    """
    tiers = [tier for tier in fleet.tiers if tier.name in request.work]
    waits, late = {}, {}
    for name in {tier.group for tier in tiers}:
        ahead_ms = ahead_of(request, fleet, name, now_s)
        waits[name] = (now_s - request.arrived_s) * 1e3 + fleet.network_ms + fleet.transfer_ms + ahead_ms
        late[name] = late_tiers(request, fleet, name)
    found, documents = [], request.documents
    for tier in tiers:
        choices = late[tier.group] if tier.name in late[tier.group] else (tier.name,)
        ms = engine_ms(tier, request.work[tier.name], fleet, whole=len(choices) > 1)
        stages = (Stage(tier.name, documents, choices),)
        found.append(PlanOption(stages, tier.group, tier.quality, waits[tier.group] + ms, ms))
    found.sort(key=QUALITY, reverse=True)
    return found


def ahead_of(request: PlanRequest, fleet: FleetSnapshot, group: str, now_s: float) -> float:
    """Predicted milliseconds that a request waits for a group: for the work ahead of it, or for a replica to start."""
    state = fleet.groups[group]
    if state.asleep:
        return fleet.start_s * 1e3
    if request.budget_ms is None or request.over_share:
        return state.ahead_ms(math.inf, math.inf, now_s)
    measured = (
        (tier.latency, request.work[tier.name], fleet.groups[tier.group].batch_tokens)
        for tier in fleet.tiers
        if tier.latency is not None and tier.name in request.work
    )
    return state.ahead_ms(request.arrived_s + request.budget_ms / 1e3, cheapest_ms(measured), now_s)


def late_tiers(request: PlanRequest, fleet: FleetSnapshot, group: str) -> tuple[str, ...]:
    """The tiers of a group that the replica may choose from when a request leaves its queue: those that are measured
    and rank well enough. None if the tier is pinned, or the request is too large to go to one replica whole."""
    whole_tokens = fleet.groups[group].whole_tokens
    if request.pinned is not None or not whole_tokens:
        return ()
    floor = quality_floor(request, fleet)
    return tuple(
        tier.name
        for tier in fleet.tiers
        if tier.group == group
        and tier.latency is not None
        and tier.quality >= floor
        and (work := request.work.get(tier.name)) is not None
        and work.tokens <= whole_tokens
    )


def partial_options(
    request: PlanRequest, fleet: FleetSnapshot, complete: list[PlanOption], now_s: float
) -> Iterator[PlanOption]:
    """Cascades, first candidates and cut pairs whose quality is in the table: plans like any other.

    complete: the options that score everything.
    """
    table = fleet.table
    if table is None:
        return
    bases = {option.tier: option for option in complete if math.isfinite(option.predicted_ms)}
    states = {tier.name: tier for tier in fleet.tiers if tier.name in bases}
    for (small, large), by_depth in table.cascades.items() if request.max_stages > 1 else ():
        if small in bases and large in bases:
            yield from cascades(states[small], states[large], bases[small], request, by_depth, fleet, now_s)
    for name, state in states.items():
        for depth in table.depths.get(name, ()):
            if depth < request.documents:
                yield first_candidates(request, fleet, state, bases[name], depth)
        for length in table.tokens.get(name, ()):
            if (cut := cut_pairs(request, fleet, state, bases[name], length)) is not None:
                yield cut


def cascades(
    small: TierState,
    large: TierState,
    base: PlanOption,
    request: PlanRequest,
    by_depth: Mapping[int, float],
    fleet: FleetSnapshot,
    now_s: float,
) -> Iterator[PlanOption]:
    """`small` on everything, then `large` on the best k, for each k in `by_depth` (k → nDCG@10). base: `small` alone.

    If `large` is in another group, the second stage waits in that group's queue as well.
    """
    first_ms = engine_ms(small, request.work[small.name], fleet)
    wait_ms = base.predicted_ms - base.engine_ms + fleet.transfer_ms
    if large.group != small.group:
        wait_ms += ahead_of(request, fleet, large.group, now_s)
    for k, quality in by_depth.items():
        if k < request.documents:
            ms = first_ms + engine_ms(large, part_of(request.work[large.name], k, request), fleet)
            stages = (Stage.of(small.name, request.documents), Stage.of(large.name, k))
            yield PlanOption(stages, small.group, quality, wait_ms + ms, ms, f"best {k} by {small.name}")


def fixed_cascade(
    request: PlanRequest, fleet: FleetSnapshot, complete: Sequence[PlanOption], now_s: float
) -> list[PlanOption]:
    """The cascade that `request.cascade` names, or its second tier alone if that would score all documents. complete:
    as in `partial_options`."""
    assert request.cascade is not None
    first, second, k = request.cascade
    bases = {option.tier: option for option in complete}
    if k >= request.documents:
        return [bases[second]]
    states = {tier.name: tier for tier in fleet.tiers}
    by_depth = {k: fleet.quality.of_cascade(first, second, k)}
    return [*cascades(states[first], states[second], bases[first], request, by_depth, fleet, now_s)]


def part_of(work: Work, documents: int, request: PlanRequest) -> Work:
    """The work of so many of each query's documents, if all were of the mean size."""
    share = request.share(documents)
    return Work(math.ceil(work.pairs * share), math.ceil(work.tokens * share), math.ceil(work.squares * share))


def first_candidates(
    request: PlanRequest, fleet: FleetSnapshot, tier: TierState, base: PlanOption, depth: int
) -> PlanOption:
    """`tier` scores the first `depth` candidates; the others follow in the order given. base: `tier` on everything."""
    ms = engine_ms(tier, first_work(request, tier, depth), fleet)
    quality = fleet.quality.at_depth(tier.name, depth, request.documents)
    how = f"first {depth} of {request.documents}"
    stages = (Stage.of(tier.name, depth),)
    return PlanOption(stages, tier.group, quality, base.predicted_ms - base.engine_ms + ms, ms, how)


def first_work(request: PlanRequest, tier: TierState, depth: int) -> Work:
    """The work of the first `depth` documents of each query."""
    if request.lengths is None:
        return part_of(request.work[tier.name], depth, request)
    return request.lengths[tier.name].first(depth)


def cut_pairs(
    request: PlanRequest, fleet: FleetSnapshot, tier: TierState, base: PlanOption, max_tokens: int
) -> PlanOption | None:
    """`tier` scores everything with pairs cut to `max_tokens`. base: `tier` on everything.

    None if no pair is longer, if less than MIN_TEXT_TOKENS of text would be left, if lengths are not known, or if none
    may be cut.
    """
    if request.lengths is None or not request.may_cut:
        return None
    lengths = request.lengths[tier.name]
    if lengths.longest <= max_tokens or max_tokens < lengths.template_tokens + MIN_TEXT_TOKENS:
        return None
    work = lengths.cut(max_tokens)
    ms = engine_ms(tier, work, fleet)
    quality = fleet.quality.at_length(tier.name, max_tokens, work.tokens / request.work[tier.name].tokens)
    how = f"{max_tokens} tokens a pair"
    stages = (Stage.of(tier.name, request.documents),)
    return PlanOption(stages, tier.group, quality, base.predicted_ms - base.engine_ms + ms, ms, how, max_tokens)


def degraded_options(
    request: PlanRequest, fleet: FleetSnapshot, complete: list[PlanOption], budget_ms: float
) -> list[PlanOption]:
    """What can be done when no complete plan fits, best first: for each tier, pairs cut to what it has time for; if
    that is less than MIN_CUT_TOKENS for all of them, as many of the first candidates as it has time for."""
    measured = [
        (tier, option)
        for tier in fleet.tiers
        for option in complete
        if option.tier == tier.name and math.isfinite(option.engine_ms)
    ]
    left_ms = {tier.name: budget_ms - (option.predicted_ms - option.engine_ms) for tier, option in measured}
    tried = []
    if request.lengths is not None:
        for tier, option in measured:
            lengths = request.lengths[tier.name]
            sizes = range(max(MIN_CUT_TOKENS, lengths.template_tokens + MIN_TEXT_TOKENS), lengths.longest)
            length = largest_that_fits(sizes, lengths.cut, tier, fleet, left_ms[tier.name])
            if length and (cut := cut_pairs(request, fleet, tier, option, length)) is not None:
                tried.append(cut)
    if not tried:
        for tier, option in measured:
            work = partial(first_work, request, tier)
            depth = largest_that_fits(range(1, request.documents), work, tier, fleet, left_ms[tier.name])
            if depth:
                tried.append(first_candidates(request, fleet, tier, option, depth))
    tried.sort(key=lambda option: -option.quality)
    return tried


def largest_that_fits(
    sizes: range, work: Callable[[int], Work], tier: TierState, fleet: FleetSnapshot, left_ms: float
) -> int:
    """The largest of these sizes whose work the tier can do in `left_ms`, by bisection: time grows with size. 0 if it
    can do none."""
    fitting = bisect_right(sizes, left_ms, key=lambda size: engine_ms(tier, work(size), fleet))
    return sizes[fitting - 1] if fitting else 0
