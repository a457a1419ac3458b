"""What a request would get from an idle fleet, whatever it gets now: the offered load that autoscaling sizes for."""

import math
from collections.abc import Iterable

from rankfleet.core.decisions import Plan, UnloadedPlan
from rankfleet.core.work import Work
from rankfleet.router.plan_options import GivenOrderOption, PlanOption, PlanRequest, part_of, quality_floor
from rankfleet.router.snapshot import FleetSnapshot


def unloaded_plan(
    found: Iterable[PlanOption | GivenOrderOption], request: PlanRequest, fleet: FleetSnapshot, now_s: float
) -> UnloadedPlan | None:
    """The best option that an idle fleet could carry out in time; None if it could score nothing in time.

    found: the options, best first. On an idle fleet all groups are awake and nothing is ahead.
    """
    left_ms = math.inf if request.budget_ms is None else request.budget_ms - (now_s - request.arrived_s) * 1e3
    floor = quality_floor(request, fleet)
    for option in found:
        if isinstance(option, GivenOrderOption):
            return None
        idle_ms = fleet.network_ms + len(option.stages) * fleet.transfer_ms + option.engine_ms
        if option.quality >= floor and idle_ms <= left_ms:
            return device_time(option, request, fleet)
    return None


def device_time(option: PlanOption, request: PlanRequest, fleet: FleetSnapshot) -> UnloadedPlan | None:
    """The device time of an option by group; None if one of its tiers has not been measured."""
    work_ms = []
    for tier, work in stage_work(option, request):
        state = next(state for state in fleet.tiers if state.name == tier)
        if state.latency is None:
            return None
        cost = state.latency.cost(work, fleet.groups[state.group].batch_tokens)
        work_ms.append((state.group, cost.mean_amortized_ms))
    return UnloadedPlan(option.tier if len(option.stages) == 1 else None, tuple(work_ms))


def stage_work(option: PlanOption | Plan, request: PlanRequest) -> list[tuple[str, Work]]:
    """Tier and work of each stage."""
    if option.max_tokens is not None and request.lengths is not None:
        return [(option.tier, request.lengths[option.tier].cut(option.max_tokens))]
    return [
        (stage.tier, part_of(request.work[stage.tier], stage.candidates, request))
        if stage.candidates < request.documents
        else (stage.tier, request.work[stage.tier])
        for stage in option.stages
    ]
