"""Which tier answers: the best one whose predicted time, behind the work already waiting, fits the budget."""

from dataclasses import dataclass
from typing import Literal

from rankfleet.core.messages import Considered, Plan, Work
from rankfleet.routing.latency import LatencyModel


@dataclass(frozen=True)
class TierState:
    """What the planner knows of a tier. `latency` is None until its group has reported."""

    name: str
    quality: float
    group: str
    latency: LatencyModel | None


@dataclass(frozen=True)
class GroupState:
    """backlog_s: predicted seconds of queued and running work ÷ ready replicas."""

    replicas: int
    backlog_s: float


@dataclass(frozen=True)
class FleetSnapshot:
    """The fleet as a router sees it at one instant. overhead_ms: what a request costs outside of queue and
    engine (HTTP, tokens, transfer)."""

    tiers: tuple[TierState, ...]
    groups: dict[str, GroupState]
    overhead_ms: float


@dataclass(frozen=True)
class Ask:
    """What is to be planned. budget_ms counts from `arrived_s`, seconds on the same clock as `now_s`."""

    work: Work
    arrived_s: float
    budget_ms: float | None = None
    pinned: str | None = None
    when_none_fits: Literal["degrade", "refuse"] = "degrade"


@dataclass(frozen=True)
class Refusal:
    """No plan fits and the class prefers an early no. retry_after_s: until the backlog would have drained."""

    retry_after_s: float
    reason: str


def plan(ask: Ask, fleet: FleetSnapshot, now_s: float) -> Plan | Refusal:
    """Decide for one request.

    predicted = elapsed + overhead + backlog of the tier's group + p99 of the engine on this work, spread over
    the group's replicas. Without a budget the best tier answers, whatever is waiting.
    """
    elapsed_ms = (now_s - ask.arrived_s) * 1e3
    candidates = [t for t in fleet.tiers if ask.pinned in (None, t.name)]
    best_first = sorted(candidates, key=lambda t: -t.quality)
    predicted = {t.name: elapsed_ms + predict_ms(t, ask.work, fleet) for t in best_first}
    budget = ask.budget_ms
    considered: list[Considered] = []
    chosen: TierState | None = None
    for tier in best_first:
        ms = predicted[tier.name]
        fits = budget is None or ms <= budget
        if chosen is None and fits:
            chosen = tier
            verdict = "chosen"
        elif not fits:
            verdict = f"too slow by {ms - (budget or 0.0):.0f} ms"
        else:
            verdict = "fits, but ranks worse"
        considered.append(Considered(tier.name, tier.quality, ms, verdict))

    if chosen is not None:
        reason = reason_for(chosen, ask, considered, predicted[chosen.name])
        return Plan(chosen.name, chosen.quality, predicted[chosen.name], budget, True, reason, tuple(considered))

    cheapest = min(best_first, key=lambda t: predicted[t.name])
    late_ms = predicted[cheapest.name] - (budget or 0.0)
    reason = f"no tier fits {budget:.0f} ms; the fastest, {cheapest.name}, would take {predicted[cheapest.name]:.0f} ms"
    if ask.when_none_fits == "refuse":
        backlog_ms = fleet.groups[cheapest.group].backlog_s * 1e3
        return Refusal(max(0.05, min(late_ms, backlog_ms) / 1e3), reason)
    return Plan(cheapest.name, cheapest.quality, predicted[cheapest.name], budget, False, reason, tuple(considered))


def predict_ms(tier: TierState, work: Work, fleet: FleetSnapshot) -> float:
    """Overhead + backlog + engine, for a request that is planned now."""
    group = fleet.groups[tier.group]
    engine_ms = tier.latency.p99_ms(work.share(max(1, group.replicas))) if tier.latency else 0.0
    return fleet.overhead_ms + group.backlog_s * 1e3 + engine_ms


def reason_for(chosen: TierState, ask: Ask, considered: list[Considered], predicted_ms: float) -> str:
    """One sentence for people."""
    if ask.pinned is not None:
        return f"{chosen.name} was asked for by name"
    if ask.budget_ms is None:
        return f"no budget: {chosen.name} ranks best"
    within = f"predicted {predicted_ms:.0f} of {ask.budget_ms:.0f} ms"
    better = [c.tier for c in considered if c.quality > chosen.quality]
    if not better:
        return f"{chosen.name} ranks best and fits: {within}"
    return f"{chosen.name} is the best that fits: {within}; too slow: {', '.join(better)}"
