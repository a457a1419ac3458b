"""What a request would get on an idle fleet, whatever it gets today: the demand that replicas are started for."""

import math
from collections.abc import Iterable

from rankfleet.core.messages import UnloadedPlan, Work
from rankfleet.router.plan_options import FleetSnapshot, PlanOption, PlanRequest, part_of


def unloaded_plan(
    found: Iterable[PlanOption], ask: PlanRequest, fleet: FleetSnapshot, now_s: float
) -> UnloadedPlan | None:
    """found: best first. None where not even an idle fleet, all groups awake, could score anything in time."""
    spare_ms = math.inf if ask.budget_ms is None else ask.budget_ms - (now_s - ask.arrived_s) * 1e3
    for candidate in found:
        passes = max(1, len(candidate.stages))
        if candidate.quality >= ask.min_quality and passes * fleet.overhead_ms + candidate.engine_ms <= spare_ms:
            return None if candidate.candidates == 0 else device_time(candidate, ask, fleet)
    return None


def device_time(candidate: PlanOption, ask: PlanRequest, fleet: FleetSnapshot) -> UnloadedPlan | None:
    """The device time of a plan by group; None for one that has not been measured. A cascade has no one tier that
    its parts could fall short of."""
    work_ms = []
    for tier, work in parts(candidate, ask):
        state = next(state for state in fleet.tiers if state.name == tier)
        if state.latency is None:
            return None
        share = min(1.0, work.tokens / fleet.groups[state.group].batch_tokens)
        work_ms.append((state.group, state.latency.amortized_ms(work, share)))
    return UnloadedPlan("" if candidate.stages else candidate.tier, tuple(work_ms))


def parts(candidate: PlanOption, ask: PlanRequest) -> list[tuple[str, Work]]:
    """Tier and work of each pass."""
    if candidate.stages:
        return [(stage.tier, part_of(ask.work[stage.tier], stage.candidates, ask)) for stage in candidate.stages]
    work = ask.work[candidate.tier]
    if candidate.candidates is not None:
        work = part_of(work, candidate.candidates, ask)
    elif candidate.max_tokens is not None and ask.lengths is not None:
        work = ask.lengths[candidate.tier].cut(candidate.max_tokens)
    return [(candidate.tier, work)]
