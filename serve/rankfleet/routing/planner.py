"""Which tier answers: the best one whose predicted time, behind the work already waiting, fits the budget."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rankfleet.core.messages import Considered, Plan, Work
from rankfleet.routing.latency import LatencyModel

MIN_CHUNK_TOKENS = 2048  # below this a second replica costs more in transfer than it saves in scoring


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
    """What is to be planned.

    work: by tier, since vocabularies and limits differ; tiers that are not in it are not considered. budget_ms
    counts from `arrived_s`, seconds on the same clock as `now_s`. pinned: who has chosen the one tier, if
    anybody: the request by name, the arm of an experiment, or the fleet's default model.
    """

    work: Mapping[str, Work]
    arrived_s: float
    budget_ms: float | None = None
    pinned: Literal["name", "arm", "default"] | None = None
    when_none_fits: Literal["degrade", "refuse"] = "degrade"


@dataclass(frozen=True)
class Refusal:
    """No plan fits and the class prefers an early no. retry_after_s: until the backlog would have drained."""

    retry_after_s: float
    reason: str


def spread(work: Work, replicas: int) -> int:
    """Into how many chunks a request is cut: one for each ready replica, while each is worth its transfer."""
    return max(1, min(replicas, work.tokens // MIN_CHUNK_TOKENS))


def plan(ask: Ask, fleet: FleetSnapshot, now_s: float) -> Plan | Refusal:
    """Decide for one request.

    predicted = elapsed + overhead + backlog of the tier's group + p99 of the engine on this work, spread over
    the group's replicas. Without a budget the best tier answers, whatever is waiting. A tier that has not been
    measured fits a budget only as long as no other has been measured either.
    """
    elapsed_ms = (now_s - ask.arrived_s) * 1e3
    best_first = sorted((t for t in fleet.tiers if t.name in ask.work), key=lambda t: -t.quality)
    predicted = {t.name: elapsed_ms + predict_ms(t, ask.work[t.name], fleet) for t in best_first}
    if all(math.isinf(ms) for ms in predicted.values()):
        predicted = dict.fromkeys(predicted, elapsed_ms)
    budget = math.inf if ask.budget_ms is None else ask.budget_ms
    chosen = next((t for t in best_first if predicted[t.name] <= budget), None)
    fits = chosen is not None
    if chosen is None:
        chosen = min(best_first, key=lambda t: predicted[t.name])
    considered = tuple(
        Considered(t.name, t.quality, predicted[t.name], verdict(t, chosen, predicted[t.name], budget))
        for t in best_first
    )
    ms = predicted[chosen.name]
    reason = reason_for(chosen, fits, ask, considered, ms)
    if not fits and ask.when_none_fits == "refuse":
        backlog_ms = fleet.groups[chosen.group].backlog_s * 1e3
        return Refusal(max(0.05, min(ms - budget, backlog_ms) / 1e3), reason)
    return Plan(chosen.name, chosen.quality, ms, ask.budget_ms, fits, reason, considered)


def predict_ms(tier: TierState, work: Work, fleet: FleetSnapshot) -> float:
    """Overhead + backlog + engine, for a request that is planned now; infinity for a tier not measured."""
    if tier.latency is None:
        return math.inf
    group = fleet.groups[tier.group]
    engine_ms = tier.latency.p99_ms(work.share(spread(work, group.replicas)))
    return fleet.overhead_ms + group.backlog_s * 1e3 + engine_ms


def verdict(tier: TierState, chosen: TierState, predicted_ms: float, budget_ms: float) -> str:
    """A few words on one tier."""
    if tier is chosen:
        return "chosen"
    if math.isinf(predicted_ms):
        return "not measured yet"
    if predicted_ms > budget_ms:
        return f"too slow by {predicted_ms - budget_ms:.0f} ms"
    return "fits, but ranks worse"


def reason_for(chosen: TierState, fits: bool, ask: Ask, considered: tuple[Considered, ...], predicted_ms: float) -> str:
    """One sentence for people."""
    if ask.pinned is not None:
        by = {"name": "asked for by name", "arm": "given by the experiment", "default": "this fleet's default model"}
        late = "" if fits else f", though {predicted_ms:.0f} ms are predicted and {ask.budget_ms:.0f} allowed"
        return f"{chosen.name} is {by[ask.pinned]}{late}"
    if ask.budget_ms is None:
        return f"no budget: {chosen.name} ranks best"
    if not fits:
        return f"no tier fits {ask.budget_ms:.0f} ms; the fastest, {chosen.name}, would take {predicted_ms:.0f} ms"
    within = f"predicted {predicted_ms:.0f} of {ask.budget_ms:.0f} ms"
    better = [c.tier for c in considered if c.quality > chosen.quality]
    if not better:
        return f"{chosen.name} ranks best and fits: {within}"
    return f"{chosen.name} is the best that fits: {within}; too slow: {', '.join(better)}"
