"""Ways to run a fleet, to be compared on the same queue: which tiers a request may get, and how work is bound."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import ConfigError
from rankfleet.core.messages import Stage
from rankfleet.core.sections import Routing
from rankfleet.estimates.arrivals import ArrivalStats
from rankfleet.estimates.latency import LatencyModel
from rankfleet.replica.batching import AT_ONCE_MS, BatchDecision, Waiting, feasible, select_batch
from rankfleet.replica.queue import SelectBatch
from rankfleet.router.plan_options import FleetSnapshot, PlanOption, PlanRequest
from rankfleet.router.planner import Choice, choose

FORMS = "slo, static:TIER, table:FRACTION, slackfit or oracle"
BUCKETS = 16  # of latency, as SlackFit cuts them

Choose = Callable[[PlanRequest, FleetSnapshot, float], Choice]


@dataclass(frozen=True)
class Policy:
    """choose: what the router does with a request; bind: what a replica does with its queue; looks: whether the
    choice depends on the state of the fleet."""

    name: str
    choose: Choose
    select_batch: SelectBatch[Any] = select_batch
    looks: bool = False


def policy_of(spec: str, fleet: FleetConfig, models: Mapping[str, LatencyModel]) -> Policy:
    """Raises ConfigError for one that does not exist."""
    name, _, value = spec.partition(":")
    if spec == "slo":
        return Policy(spec, choose, looks=True)
    if spec == "slackfit":
        return Policy(spec, anything(fleet), slackfit)
    if name == "static" and value in fleet.tiers:
        return Policy(spec, static(fleet, value))
    if name == "table":
        try:
            share = float(value)
        except ValueError:
            share = 0.0
        if share > 0:
            return Policy(spec, table(fleet, models, share))
    raise ConfigError(f"policy {spec!r} does not exist; write {FORMS}, with a tier of {', '.join(fleet.tiers)}")


def given(fleet: FleetConfig, tiers: tuple[str, ...], documents: int) -> Choice:
    """A choice that asks nobody: one stage, by any of these tiers."""
    stage = Stage(tiers[0], documents, tiers)
    option = PlanOption((stage,), fleet.group_of(tiers[0]), fleet.tiers[tiers[0]].quality, 0.0, 0.0)
    return Choice(option, True, (), (), option)


def static(fleet: FleetConfig, tier: str) -> Choose:
    """Every request gets the same tier."""
    return lambda ask, snapshot, now_s: given(fleet, (tier,), ask.documents)


def table(fleet: FleetConfig, models: Mapping[str, LatencyModel], share: float) -> Choose:
    """The best tier that takes at most a share of the request's budget on an idle device; else the fastest."""
    best_first = sorted(fleet.tiers, key=lambda name: -fleet.tiers[name].quality)

    def pick(ask: PlanRequest, snapshot: FleetSnapshot, now_s: float) -> Choice:
        times = {name: models[name].p99_ms(ask.work[name]) for name in best_first}
        max_ms = float("inf") if ask.budget_ms is None else share * ask.budget_ms
        tier = next((name for name in best_first if times[name] <= max_ms), min(times, key=times.__getitem__))
        return given(fleet, (tier,), ask.documents)

    return pick


def anything(fleet: FleetConfig) -> Choose:
    """All tiers of the first group."""
    tiers = tuple(next(iter(fleet.groups.values())).tiers)
    return lambda ask, snapshot, now_s: given(fleet, tiers, ask.documents)


def slackfit(
    waiting: Sequence[Waiting[Any]],
    arrivals: ArrivalStats,
    rule: Routing,
    max_tokens: int,
    now_s: float,
    deficit_ms: float,
) -> BatchDecision[Any]:
    """SlackFit (SuperServe, NSDI 2025): the least slack picks a bucket of latency, and in the bucket the largest
    batch is taken, then the best tier.

    The buckets part the range from the fastest batch of one to the slowest full batch of what waits.
    """
    kept = feasible(waiting, now_s)
    infeasible = tuple(sorted(set(range(len(waiting))).difference(kept)))
    if not kept:
        return BatchDecision("", (), infeasible, 0.0, 0.0, 0.0)
    head = waiting[kept[0]]
    left_ms = (head.deadline_s - now_s) * 1e3 + AT_ONCE_MS
    choices: list[tuple[float, int, float, str]] = []  # ms, chunks, quality, tier
    for point in head.frontier.points:
        ms, tokens = point.fixed_ms, 0
        for count, place in enumerate(kept, start=1):
            step = waiting[place].frontier.by_tier.get(point.tier)
            tokens += waiting[place].tokens
            if step is None or (count > 1 and tokens > max_tokens):
                break
            ms += waiting[place].frontier.points[step].ms
            choices.append((ms, count, point.quality, point.tier))
    low, high = min(choices)[0], max(choices)[0]
    width = (high - low) / BUCKETS or 1.0
    fits = [choice for choice in choices if choice[0] <= left_ms] or [min(choices)]
    top = max(int((ms - low) / width) for ms, *_ in fits)
    ms, count, _, tier = max((c for c in fits if int((c[0] - low) / width) == top), key=lambda c: (c[1], c[2]))
    return BatchDecision(tier, tuple(kept[:count]), infeasible, 0.0, ms, left_ms)
