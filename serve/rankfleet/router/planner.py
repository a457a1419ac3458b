"""Which plan a request gets: the best one that fits its budget without making those behind it late.

`plan` is a pure function of (request, snapshot, now); `choose` is `plan` without the words.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rankfleet.core.decisions import Considered, Decision, GivenOrder, Plan, Refusal, UnloadedPlan
from rankfleet.estimates.frontier import upper_hull
from rankfleet.router.plan_options import (
    QUALITY,
    GivenOrderOption,
    PlanOption,
    PlanRequest,
    complete_options,
    degraded_options,
    fixed_cascade,
    partial_options,
    quality_floor,
)
from rankfleet.router.snapshot import FleetSnapshot
from rankfleet.router.unloaded import unloaded_plan

Option = PlanOption | GivenOrderOption
MAX_WAIT_S = 5.0  # of work above its tenant's share for what is ahead of it; more would only make queues long


@dataclass(frozen=True, slots=True)
class Choice:
    """A decision without the words.

    chosen: None for a refusal.
    fits: whether `chosen` is complete and within the budget.
    found: all options that were looked at, best first.
    deferred: the options better than `chosen` that would have made others late.
    fastest: of the options that rank well enough, the first to be done; of all options if none does.
    """

    chosen: Option | None
    fits: bool
    found: Sequence[Option]
    deferred: Sequence[PlanOption]
    fastest: PlanOption


def plan(request: PlanRequest, fleet: FleetSnapshot, now_s: float) -> Decision:
    """Decide for one request, and say why. The rules are those of `choose`."""
    choice = choose(request, fleet, now_s)
    chosen, floor = choice.chosen, quality_floor(request, fleet)
    behind = ABOVE_SHARE if request.over_share else ""
    considered = tuple(
        Considered(each.tier, each.quality, each.predicted_ms, verdict(each, choice, request, floor), each.how)
        for each in choice.found
    )
    unloaded = unloaded_plan(choice.found, request, fleet, now_s)
    if chosen is None:
        refused = refusal(choice, request, fleet, considered, unloaded)
        return replace(refused, reason=refused.reason + behind)
    if isinstance(chosen, GivenOrderOption):
        none_fits = "" if choice.fits else reason_why_none_fits(choice.fastest, request, fleet)
        return GivenOrder(
            quality=chosen.quality,
            predicted_ms=chosen.predicted_ms,
            budget_ms=request.budget_ms,
            reason=f"{none_fits}; {chosen.how} instead{behind}" if none_fits else NONE_BETTER,
            degraded=None if choice.fits else chosen.how,
            considered=considered,
            unloaded=unloaded,
        )
    degraded = chosen.how if not choice.fits and request.pinned is None else None
    if choice.fits:
        reason = reason_for(chosen, request, choice.found, fleet)
    else:
        reason = reason_why_none_fits(choice.fastest, request, fleet)
        reason += f"; {chosen.how} by {chosen.tier} instead" if degraded else ""
    return Plan(
        stages=chosen.stages,
        documents=request.documents,
        quality=chosen.quality,
        predicted_ms=chosen.predicted_ms,
        budget_ms=request.budget_ms,
        fits=choice.fits,
        reason=reason + behind,
        max_tokens=chosen.max_tokens,
        degraded=degraded,
        considered=considered,
        unloaded=unloaded,
    )


def choose(request: PlanRequest, fleet: FleetSnapshot, now_s: float) -> Choice:
    """Decide for one request.

    predicted = elapsed + network + transfer + work ahead in the tier's group + p99 of the engine on this work.

    - With a budget: the best option that fits it and with which the group's backlog still drains within its horizon
      (`estimates/arrivals.py`). If only the horizon rules options out, the fastest that fits.
    - Without a budget: the best option, whatever the backlog.
    - Above its tenant's share: none if the work ahead takes longer than MAX_WAIT_S, whatever the budget.
    - Never an option that ranks worse than the order in which the candidates come, unless the request's tier is pinned.
      If none ranks as well, that order is the plan.
    - A tier that has not been measured fits a budget only while no other has been measured either.
    - If nothing fits: see `when_none_fits`.
    """
    elapsed_ms = (now_s - request.arrived_s) * 1e3
    found = complete_options(request, fleet, now_s)
    measured = any(option.predicted_ms < math.inf for option in found)
    if request.cascade is not None:
        found = fixed_cascade(request, fleet, found, now_s)
    elif request.pinned is None and fleet.table is not None and fleet.table.detailed:
        found = sorted([*found, *partial_options(request, fleet, found, now_s)], key=QUALITY, reverse=True)
    budget_ms = math.inf if request.budget_ms is None else request.budget_ms
    floor = quality_floor(request, fleet)
    good = [option for option in found if option.quality >= floor]
    fastest = min(good or found, key=lambda option: option.predicted_ms)
    given = GivenOrderOption(fleet.quality.retriever, elapsed_ms + fleet.network_ms)
    if request.pinned is None and found[0].quality < given.quality:
        return none_ranks_better(request, given, found, fastest, budget_ms)
    if request.over_share and fleet.groups[fastest.group].backlog_s > MAX_WAIT_S:
        return Choice(None, False, found, (), fastest)
    fitting = [option for option in good if option.predicted_ms <= budget_ms]
    if not measured and not fitting:
        fitting = [option for option in good if not fleet.groups[option.group].asleep]
    if not fitting:
        return when_none_fits(request, fleet, found, fastest, budget_ms, given)
    chosen, deferred = fitting[0], list[PlanOption]()
    if request.budget_ms is not None and measured:
        chosen, deferred = best_within_horizon(fitting, fastest, fleet, request)
    return Choice(chosen, True, found, deferred, fastest)


def best_within_horizon(
    fitting: Sequence[PlanOption], fastest: PlanOption, fleet: FleetSnapshot, request: PlanRequest
) -> tuple[PlanOption, list[PlanOption]]:
    """The best option with which the group's backlog drains within its horizon, and the better ones that were passed
    over because it would not.

    The horizon grows with the price of device time up to which an option is worth taking: its gain in quality per
    millisecond over the next cheaper one on the concave frontier. The fastest option is never passed over.
    Best-effort work and what is above shares counts only for a request that is above one itself (`over_share`).
    """
    tokens = request.tokens
    deferred: list[PlanOption] = []
    prices: dict[str, dict[int, float]] = {}  # group → place in `fitting` → price per typical budget
    for place, option in enumerate(fitting):
        group = fleet.groups[option.group]
        if (
            option is fastest or group.arrivals.burst_rate_per_s(tokens) <= 0
        ):  # or no other request has been seen to come
            return option, deferred
        if option.group not in prices:
            here = [i for i, other in enumerate(fitting) if other.group == option.group]
            corners = upper_hull([fitting[i].engine_ms for i in here], [fitting[i].quality for i in here])
            unit = fleet.scale / group.arrivals.typical_budget_ms
            prices[option.group] = {here[i]: price / unit for i, price in corners}
        horizon_ms = group.arrivals.horizon_ms(prices[option.group].get(place, 0.0), fleet.rule, tokens)
        backlog_s = group.backlog_s if request.over_share else group.urgent_backlog_s
        if backlog_s * 1e3 + option.engine_ms <= horizon_ms:
            return option, deferred
        deferred.append(option)
    return fastest, deferred


def none_ranks_better(
    request: PlanRequest,
    given: GivenOrderOption,
    found: Sequence[PlanOption],
    fastest: PlanOption,
    budget_ms: float,
) -> Choice:
    """The order as given, which no option improves; a refusal if it is not good enough, or too late and the SLO class
    says so."""
    options: list[Option] = [given, *found]
    fits = given.predicted_ms <= budget_ms
    if given.quality < request.min_quality or (not fits and request.when_none_fits == "refuse"):
        return Choice(None, False, options, (), fastest)
    return Choice(given, fits, options, (), fastest)


def when_none_fits(
    request: PlanRequest,
    fleet: FleetSnapshot,
    found: Sequence[PlanOption],
    fastest: PlanOption,
    budget_ms: float,
    given: GivenOrderOption,
) -> Choice:
    """A refusal if the SLO class says so or nothing ranks well enough; the pinned tier, late, if there is one; else
    the best degraded option that fits and ranks better than the order as given, or that order."""
    refused = Choice(None, False, found, (), fastest)
    if request.when_none_fits == "refuse" or fastest.quality < request.min_quality:
        return refused
    if request.pinned is not None:
        return Choice(fastest, False, found, (), fastest)
    less = degraded_options(request, fleet, list(found), budget_ms)
    good = (option for option in less if option.quality > given.quality and option.predicted_ms <= budget_ms)
    chosen = next(good, given)
    if chosen.quality < request.min_quality:
        return refused
    return Choice(chosen, False, [*found, *less, given], (), fastest)


def refusal(
    choice: Choice,
    request: PlanRequest,
    fleet: FleetSnapshot,
    considered: tuple[Considered, ...],
    unloaded: UnloadedPlan | None,
) -> Refusal:
    """Why the request is refused, and whether retrying helps."""
    fastest = choice.fastest
    best, by = best_quality(request, fleet)
    if best < request.min_quality:
        reason = f"min_quality {request.min_quality:.10g} is out of reach: the best here is {best:.10g}, by {by}"
        return Refusal("quality", 0.0, reason, considered, unloaded)
    idle = choose(request, fleet.idle, request.arrived_s) if unloaded is None else None
    if idle is not None and idle.chosen is None:
        reason = f"{reason_why_none_fits(idle.fastest, request, fleet.idle)} even on an idle fleet"
        return Refusal("budget", 0.0, reason, considered)
    reason = reason_why_none_fits(fastest, request, fleet)
    if fleet.groups[fastest.group].asleep:
        return Refusal("load", fleet.start_s, reason, considered, unloaded)
    over_ms = math.inf if request.budget_ms is None else fastest.predicted_ms - request.budget_ms
    drained_ms = fleet.groups[fastest.group].backlog_s * 1e3
    return Refusal("load", max(0.05, min(over_ms, drained_ms) / 1e3), reason, considered, unloaded)


def best_quality(request: PlanRequest, fleet: FleetSnapshot) -> tuple[float, str]:
    """The best quality of any plan, whatever it takes and whatever is asleep, and the tier that gives it."""
    known = [(tier.quality, tier.name) for tier in fleet.tiers if tier.name in request.work]
    if request.pinned is None and fleet.table is not None:
        known.append((fleet.table.retriever, "the order given"))
        for (small, large), by_depth in fleet.table.cascades.items() if request.max_stages > 1 else ():
            if small in request.work and large in request.work:
                known.append((max(by_depth.values()), large))
        for by_tier in (fleet.table.depths, fleet.table.tokens if request.may_cut else {}):
            known += [(max(figures.values()), tier) for tier, figures in by_tier.items() if tier in request.work]
    return max(known)


def verdict(option: Option, choice: Choice, request: PlanRequest, floor: float) -> str:
    """In a few words, why an option was taken or not. floor: as `quality_floor`."""
    if option is choice.chosen:
        return "chosen"
    if math.isinf(option.predicted_ms):
        return "not measured yet"
    if option.quality < request.min_quality:
        return f"below the quality of {request.min_quality:g} asked for"
    if option.quality < floor:
        return "ranks worse than the order given"
    if request.budget_ms is not None and option.predicted_ms > request.budget_ms:
        return f"too slow by {math.ceil(option.predicted_ms - request.budget_ms)} ms"
    if option in choice.deferred:
        return "would hold up those behind"
    return "fits, but ranks worse"


NONE_BETTER = "no tier ranks better than the order that came in"
ABOVE_SHARE = "; above the share of its tenant, so behind the work of others"
STARTING = "no replica runs; one is being started"
PINNED = {"name": "asked for by name", "arm": "given by the experiment", "default": "this fleet's default model"}


def reason_for(chosen: PlanOption, request: PlanRequest, found: Sequence[Option], fleet: FleetSnapshot) -> str:
    """One sentence on why a plan that fits was chosen."""
    waits = f"; {STARTING}, and the answer waits for it" if fleet.groups[chosen.group].asleep else ""
    if request.pinned is not None:
        return f"{chosen.tier} is {PINNED[request.pinned]}{waits}"
    name = f"{chosen.tier} ({chosen.how})" if chosen.how else chosen.tier
    if waits:
        return f"{name} ranks best{waits}"
    if math.isinf(chosen.predicted_ms):
        return f"{name} ranks best; how long it takes has not been measured yet"
    if request.budget_ms is None:
        return f"no budget: {name} ranks best"
    within = f"predicted {chosen.predicted_ms:.0f} of {request.budget_ms:.0f} ms"
    better = [option for option in found if option.quality > chosen.quality and option.tier is not None]
    if not better:
        return f"{name} ranks best and fits: {within}"
    complete = [option for option in better if not option.how]
    slow = [str(option.tier) for option in complete if request.budget_ms < option.predicted_ms < math.inf]
    unready = [str(option.tier) for option in complete if math.isinf(option.predicted_ms)]
    held = [str(option.tier) for option in complete if option.predicted_ms <= request.budget_ms]
    parts = [f"{name} is the best that fits: {within}"]
    parts += [f"too slow: {', '.join(slow)}"] if slow else []
    parts += [f"not ready: {', '.join(unready)}"] if unready else []
    parts += [f"would hold up others: {', '.join(held)}"] if held else []
    return "; ".join(parts)


def reason_why_none_fits(fastest: PlanOption, request: PlanRequest, fleet: FleetSnapshot) -> str:
    """One sentence on why no complete plan fits."""
    backlog_s = fleet.groups[fastest.group].backlog_s
    if request.over_share and backlog_s > MAX_WAIT_S:
        return f"{backlog_s:.0f} s of work are ahead"
    if fastest.quality < request.min_quality:
        return f"no plan that ranks as well as {request.min_quality:g} can be had now"
    if fastest.quality < quality_floor(request, fleet):
        return f"{NONE_BETTER}, and {request.budget_ms:.0f} ms are not enough to return it"
    if fleet.groups[fastest.group].asleep:
        return f"{STARTING}, and {request.budget_ms:.0f} ms are not enough to wait for it"
    if math.isinf(fastest.predicted_ms):
        return f"how long {fastest.tier} takes has not been measured yet"
    takes_ms = math.ceil(fastest.predicted_ms)  # rounded up, so that it never reads like a time that fits
    if request.pinned is not None:
        late = f"though {takes_ms} ms are predicted and {request.budget_ms:.0f} allowed"
        return f"{fastest.tier} is {PINNED[request.pinned]}, {late}"
    some_rank_worse = any(tier.quality < fleet.quality.retriever for tier in fleet.tiers)
    which = "tier that ranks as well as the order given" if some_rank_worse else "tier"
    return f"no {which} fits {request.budget_ms:.0f} ms; the fastest, {fastest.tier}, would take {takes_ms} ms"
