"""Which plan a request gets: the best one that fits its budget and does not hold up those behind it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rankfleet.core.messages import Considered, Plan, UnloadedPlan
from rankfleet.estimates.frontier import upper_hull
from rankfleet.router.plan_options import FleetSnapshot, PlanOption, PlanRequest, degraded, known_parts, whole
from rankfleet.router.unloaded import unloaded_plan


@dataclass(frozen=True)
class Refusal:
    """Nothing that is asked for can be had. cause: `quality`, no plan of this fleet ranks so well, whatever the time;
    `budget`, not even an idle fleet could do it in time; `load`, an idle fleet could. retry_after_s: until the backlog
    would have drained, for the last of these; for the others trying again does not help."""

    cause: Literal["quality", "budget", "load"]
    retry_after_s: float
    reason: str
    considered: tuple[Considered, ...] = ()
    unloaded: UnloadedPlan | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """What is done, without the words. chosen: None for a refusal; found: all that was looked at, best first;
    crowded: those better than chosen that would hold up others; fastest: of those good enough, if any, the first to be
    done; allowed: the tiers a replica may bind late."""

    chosen: PlanOption | None
    fits: bool
    found: Sequence[PlanOption]
    crowded: Sequence[PlanOption]
    fastest: PlanOption
    allowed: tuple[str, ...] = ()


def plan(ask: PlanRequest, fleet: FleetSnapshot, now_s: float) -> Plan | Refusal:
    """Decide for one request, and say why. See `choose`."""
    choice = choose(ask, fleet, now_s)
    considered = explain(choice, ask)
    chosen, fastest = choice.chosen, choice.fastest
    unloaded = unloaded_plan(choice.found, ask, fleet, now_s)
    if chosen is None:
        return refusal(choice, ask, fleet, considered, unloaded)
    degraded_to = chosen.how if not choice.fits and ask.pinned is None else None
    if choice.fits:
        reason = reason_for(chosen, ask, choice.found, fleet)
    else:
        by = "" if chosen.candidates == 0 else f" by {chosen.tier}"
        reason = reason_why_not(fastest, ask, fleet) + (f"; {chosen.how}{by} instead" if degraded_to else "")
    return Plan(
        chosen.tier,
        chosen.quality,
        chosen.predicted_ms,
        ask.budget_ms,
        choice.fits,
        reason,
        considered,
        choice.allowed,
        chosen.stages,
        chosen.candidates,
        chosen.max_tokens,
        degraded_to,
        unloaded,
    )


def refusal(
    choice: Choice,
    ask: PlanRequest,
    fleet: FleetSnapshot,
    considered: tuple[Considered, ...],
    unloaded: UnloadedPlan | None,
) -> Refusal:
    """What is wrong, and whether it will pass."""
    fastest = choice.fastest
    best, by = reach(ask, fleet)
    if best < ask.min_quality:
        reason = f"min_quality {ask.min_quality:.10g} is out of reach: the best here is {best:.10g}, by {by}"
        return Refusal("quality", 0.0, reason, considered, unloaded)
    idle = choose(ask, fleet.idle, ask.arrived_s) if unloaded is None else None
    if idle is not None and idle.chosen is None:
        return Refusal(
            "budget", 0.0, f"{reason_why_not(idle.fastest, ask, fleet.idle)} even on an idle fleet", considered
        )
    why = reason_why_not(fastest, ask, fleet)
    if fleet.groups[fastest.group].asleep:
        return Refusal("load", fleet.start_s, why, considered, unloaded)
    over_ms = math.inf if ask.budget_ms is None else fastest.predicted_ms - ask.budget_ms
    drained_ms = fleet.groups[fastest.group].backlog_s * 1e3
    return Refusal("load", max(0.05, min(over_ms, drained_ms) / 1e3), why, considered, unloaded)


def reach(ask: PlanRequest, fleet: FleetSnapshot) -> tuple[float, str]:
    """The best quality that any plan has, whatever it takes and whatever sleeps, and the tier that gives it."""
    known = [(tier.quality, tier.name) for tier in fleet.tiers if tier.name in ask.work]
    if ask.pinned is None and fleet.table is not None:
        for (small, large), steps in fleet.table.cascades.items() if ask.stages > 1 else ():
            if small in ask.work and large in ask.work:
                known.append((max(steps.values()), large))
        for by_step in (fleet.table.depths, fleet.table.tokens):
            known += [(max(steps.values()), tier) for tier, steps in by_step.items() if tier in ask.work]
    return max(known)


def choose(ask: PlanRequest, fleet: FleetSnapshot, now_s: float) -> Choice:
    """Decide for one request.

    predicted = elapsed + overhead + what is ahead in the tier's group + p99 of the engine on this work. Taken is the
    best plan that fits the budget and with which the group's backlog still drains within its horizon
    (`estimates/arrivals.py`); where only the horizon is in the way, the fastest that fits. Without a budget the best
    answers, whatever is waiting. A tier that has not been measured fits a budget only as long as no other has been
    measured either.
    """
    elapsed_ms = (now_s - ask.arrived_s) * 1e3
    found = whole(ask, fleet, elapsed_ms)
    known = any(c.predicted_ms < math.inf for c in found)
    if ask.pinned is None and fleet.table is not None and fleet.table.detailed:
        found = sorted([*found, *known_parts(ask, fleet, found)], key=lambda c: -c.quality)
    budget_ms = math.inf if ask.budget_ms is None else ask.budget_ms
    good = [c for c in found if c.quality >= ask.min_quality]
    fastest = min(good or found, key=lambda c: c.predicted_ms)
    fitting = [c for c in good if c.predicted_ms <= budget_ms]
    if not known and not fitting:
        fitting = [c for c in good if not fleet.groups[c.group].asleep]
        if fitting:
            return Choice(fitting[0], True, found, (), fastest, late_binding(fitting[0], ask, fleet))
    if not fitting:
        return none_fits(ask, fleet, found, fastest, budget_ms, elapsed_ms)
    chosen, crowded = (fitting[0], []) if ask.budget_ms is None else considerate(fitting, fastest, fleet)
    return Choice(chosen, True, found, crowded, fastest, late_binding(chosen, ask, fleet))


def considerate(
    fitting: Sequence[PlanOption], fastest: PlanOption, fleet: FleetSnapshot
) -> tuple[PlanOption, list[PlanOption]]:
    """The best plan that does not hold up those behind, and the better ones that would: with them the group's whole
    backlog is more than its horizon, at the price up to which the plan is taken. The fastest holds up nobody."""
    crowded: list[PlanOption] = []
    prices: dict[str, dict[int, float]] = {}  # group → place in `fitting` → price per typical budget
    for place, candidate in enumerate(fitting):
        group = fleet.groups[candidate.group]
        if candidate is fastest or group.arrivals.burst_rate_per_s <= 0:  # or nobody else has been seen to come
            return candidate, crowded
        if candidate.group not in prices:
            here = [i for i, c in enumerate(fitting) if c.group == candidate.group]
            corners = upper_hull([fitting[i].engine_ms for i in here], [fitting[i].quality for i in here])
            unit = fleet.scale / group.arrivals.typical_budget_ms
            prices[candidate.group] = {here[i]: price / unit for i, price in corners}
        max_ms = group.arrivals.horizon_ms(prices[candidate.group].get(place, 0.0), fleet.rule)
        if group.backlog_s * 1e3 + candidate.engine_ms <= max_ms:
            return candidate, crowded
        crowded.append(candidate)
    return fastest, crowded


def none_fits(
    ask: PlanRequest,
    fleet: FleetSnapshot,
    found: Sequence[PlanOption],
    fastest: PlanOption,
    budget_ms: float,
    elapsed_ms: float,
) -> Choice:
    """Late where the tier was asked for by name, else less than everything, or a refusal, as the class wishes. What
    ranks below the quality asked for is no answer to anybody."""
    refused = Choice(None, False, found, (), fastest)
    if ask.when_none_fits == "refuse" or fastest.quality < ask.min_quality:
        return refused
    if ask.pinned is not None:
        return Choice(fastest, False, found, (), fastest)
    less = degraded(ask, fleet, list(found), budget_ms, elapsed_ms)
    chosen = next((c for c in less if c.predicted_ms <= budget_ms), less[-1])
    if chosen.quality < ask.min_quality:
        return refused
    return Choice(chosen, False, [*found, *less], (), fastest)


def late_binding(chosen: PlanOption, ask: PlanRequest, fleet: FleetSnapshot) -> tuple[str, ...]:
    """Where nothing is left out and the group keeps the request whole, all tiers that are good enough."""
    group = fleet.groups[chosen.group]
    if chosen.how or ask.pinned is not None or ask.work[chosen.tier].tokens > group.whole_tokens:
        return ()
    return tuple(
        t.name
        for t in fleet.tiers
        if t.group == chosen.group and t.latency is not None and t.quality >= ask.min_quality and t.name in ask.work
    )


def explain(choice: Choice, ask: PlanRequest) -> tuple[Considered, ...]:
    """A few words on every plan."""
    return tuple(Considered(c.tier, c.quality, c.predicted_ms, verdict(c, choice, ask), c.how) for c in choice.found)


def verdict(candidate: PlanOption, choice: Choice, ask: PlanRequest) -> str:
    if candidate is choice.chosen:
        return "chosen"
    if math.isinf(candidate.predicted_ms):
        return "not measured yet"
    if candidate.quality < ask.min_quality:
        return f"below the quality of {ask.min_quality:g} asked for"
    if ask.budget_ms is not None and candidate.predicted_ms > ask.budget_ms:
        return f"too slow by {candidate.predicted_ms - ask.budget_ms:.0f} ms"
    if candidate in choice.crowded:
        return "would hold up those behind"
    return "fits, but ranks worse"


STARTING = "no replica runs; one is being started"
PINNED = {"name": "asked for by name", "arm": "given by the experiment", "default": "this fleet's default model"}


def reason_for(chosen: PlanOption, ask: PlanRequest, found: Sequence[PlanOption], fleet: FleetSnapshot) -> str:
    """One sentence for people."""
    waits = f"; {STARTING}, and the answer waits for it" if fleet.groups[chosen.group].asleep else ""
    if ask.pinned is not None:
        return f"{chosen.tier} is {PINNED[ask.pinned]}{waits}"
    name = f"{chosen.tier} ({chosen.how})" if chosen.how else chosen.tier
    if waits:
        return f"{name} ranks best{waits}"
    if math.isinf(chosen.predicted_ms):
        return f"{name} ranks best; how long it takes has not been measured yet"
    if ask.budget_ms is None:
        return f"no budget: {name} ranks best"
    within = f"predicted {chosen.predicted_ms:.0f} of {ask.budget_ms:.0f} ms"
    better = [c for c in found if c.quality > chosen.quality]
    if not better:
        return f"{name} ranks best and fits: {within}"
    slow = [c.tier for c in better if not c.how and ask.budget_ms < c.predicted_ms < math.inf]
    unready = [c.tier for c in better if not c.how and math.isinf(c.predicted_ms)]
    held = [c.tier for c in better if not c.how and c.predicted_ms <= ask.budget_ms]
    parts = [f"{name} is the best that fits: {within}"]
    parts += [f"too slow: {', '.join(slow)}"] if slow else []
    parts += [f"not ready: {', '.join(unready)}"] if unready else []
    parts += [f"would hold up others: {', '.join(held)}"] if held else []
    return "; ".join(parts)


def reason_why_not(fastest: PlanOption, ask: PlanRequest, fleet: FleetSnapshot) -> str:
    """One sentence on why nothing fits."""
    if fastest.quality < ask.min_quality:
        return f"no plan that ranks as well as {ask.min_quality:g} can be had now"
    if fleet.groups[fastest.group].asleep:
        return f"{STARTING}, and {ask.budget_ms:.0f} ms are not enough to wait for it"
    if ask.pinned is not None:
        late = f"though {fastest.predicted_ms:.0f} ms are predicted and {ask.budget_ms:.0f} allowed"
        return f"{fastest.tier} is {PINNED[ask.pinned]}, {late}"
    return f"no tier fits {ask.budget_ms:.0f} ms; the fastest, {fastest.tier}, would take {fastest.predicted_ms:.0f} ms"
