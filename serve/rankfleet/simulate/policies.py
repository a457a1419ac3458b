"""Routing policies to compare on the same queue: which tiers a request may get, and how batches are selected."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rankfleet.core.config import FleetConfig
from rankfleet.core.decisions import Plan, Stage
from rankfleet.core.errors import ConfigError
from rankfleet.core.sections import Routing
from rankfleet.estimates.arrivals import ArrivalStats
from rankfleet.estimates.latency import LatencyModel
from rankfleet.replica.batching import ROUNDING_MS, BatchDecision, QueuedChunk, feasible_chunks, select_batch
from rankfleet.replica.queue import SelectBatch
from rankfleet.router.fleet_router import Decide
from rankfleet.router.plan_options import PlanOption, PlanRequest
from rankfleet.router.planner import plan
from rankfleet.router.snapshot import FleetSnapshot
from rankfleet.router.unloaded import device_time

FORMS = "slo, static:TIER, table:FRACTION, slackfit or oracle"
BUCKETS = 16  # of latency, as many as SlackFit has


@dataclass(frozen=True)
class Policy:
    """A routing policy.

    decide: what the router does with a request
    select_batch: what a replica does with its queue
    """

    name: str
    decide: Decide
    select_batch: SelectBatch[Any] = select_batch


def policy_of(spec: str, fleet: FleetConfig, models: Mapping[str, LatencyModel]) -> Policy:
    """The policy of a command line. Raises ConfigError if there is none."""
    name, _, value = spec.partition(":")
    if spec == "slo":
        return Policy(spec, plan)
    if spec == "slackfit":
        return Policy(spec, all_tiers(fleet), slackfit)
    if name == "static" and value in fleet.tiers:
        return Policy(spec, static(value))
    if name == "table":
        try:
            share = float(value)
        except ValueError:
            share = 0.0
        if share > 0:
            return Policy(spec, table(fleet, models, share))
    raise ConfigError(f"policy {spec!r} does not exist; write {FORMS}, with a tier of {', '.join(fleet.tiers)}")


def fixed_plan(tiers: tuple[str, ...], request: PlanRequest, fleet: FleetSnapshot, second: Stage | None = None) -> Plan:
    """A plan that is made without planning: one stage, for which the replica may select among `tiers`, and perhaps a
    second."""
    stages = (Stage(tiers[0], request.documents, tiers), *([second] if second else []))
    state = next(state for state in fleet.tiers if state.name == stages[-1].tier)
    option = PlanOption(stages, state.group, state.quality, 0.0, 0.0)
    return Plan(
        stages=stages,
        documents=request.documents,
        quality=state.quality,
        predicted_ms=0.0,
        budget_ms=request.budget_ms,
        fits=True,
        reason="fixed",
        unloaded=device_time(option, request, fleet),
    )


def static(tier: str) -> Decide:
    """Give every request the same tier."""
    return lambda request, snapshot, now_s: fixed_plan((tier,), request, snapshot)


def cascade(small: str, large: str, kept: int) -> Decide:
    """Let `small` score every request, and `large` the `kept` most promising candidates again."""
    second = Stage.of(large, kept)
    return lambda request, snapshot, now_s: fixed_plan((small,), request, snapshot, second)


def table(fleet: FleetConfig, models: Mapping[str, LatencyModel], share: float) -> Decide:
    """Give a request the best tier that takes at most `share` of its budget on an idle device, else the fastest."""
    best_first = sorted(fleet.tiers, key=lambda name: -fleet.tiers[name].quality)

    def decide_by_table(request: PlanRequest, snapshot: FleetSnapshot, now_s: float) -> Plan:
        times_ms = {name: models[name].p99_ms(request.work[name]) for name in best_first}
        max_ms = float("inf") if request.budget_ms is None else share * request.budget_ms
        fitting = (name for name in best_first if times_ms[name] <= max_ms)
        tier = next(fitting, min(times_ms, key=times_ms.__getitem__))
        return fixed_plan((tier,), request, snapshot)

    return decide_by_table


def all_tiers(fleet: FleetConfig) -> Decide:
    """Let the replica select among all tiers of the first group."""
    tiers = tuple(next(iter(fleet.groups.values())).tiers)
    return lambda request, snapshot, now_s: fixed_plan(tiers, request, snapshot)


def slackfit(
    waiting: Sequence[QueuedChunk[Any]],
    arrivals: ArrivalStats,
    routing: Routing,
    max_tokens: int,
    now_s: float,
    deficit_ms: float,
) -> BatchDecision:
    """SlackFit (SuperServe, NSDI 2025), with the arguments of `select_batch`.

    The least slack selects a bucket of latency; in it the largest batch is taken, then the best tier. The buckets
    divide the range from the fastest batch of one chunk to the slowest full batch of the waiting chunks.
    """
    feasible = feasible_chunks(waiting, now_s)
    infeasible = tuple(sorted(set(range(len(waiting))).difference(feasible)))
    if not feasible:
        return BatchDecision(None, (), infeasible)
    first = waiting[feasible[0]]
    left_ms = (first.deadline_s - now_s) * 1e3 + ROUNDING_MS
    options: list[tuple[float, int, float, str]] = []  # ms, chunks, quality, tier
    for point in first.frontier.points:
        ms, tokens = point.fixed_ms, 0
        for count, i in enumerate(feasible, start=1):
            index = waiting[i].frontier.index_by_tier.get(point.tier)
            tokens += waiting[i].tokens
            if index is None or (count > 1 and tokens > max_tokens):
                break
            ms += waiting[i].frontier.points[index].marginal_ms
            options.append((ms, count, point.quality, point.tier))
    fastest_ms, slowest_ms = min(options)[0], max(options)[0]
    width_ms = (slowest_ms - fastest_ms) / BUCKETS or 1.0

    def bucket(option: tuple[float, int, float, str]) -> int:
        return int((option[0] - fastest_ms) / width_ms)

    in_time = [option for option in options if option[0] <= left_ms] or [min(options)]
    top = max(bucket(option) for option in in_time)
    ms, count, _, tier = max((o for o in in_time if bucket(o) == top), key=lambda option: (option[1], option[2]))
    return BatchDecision(tier, tuple(feasible[:count]), infeasible, 0.0, ms, left_ms)
