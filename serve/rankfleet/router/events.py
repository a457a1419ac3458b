"""Makes the event of a request, from its ranking or its error."""

import asyncio
import math
from collections.abc import Callable
from typing import Any

from rankfleet.core.decisions import GivenOrder, Plan
from rankfleet.core.errors import (
    ClientGone,
    Expired,
    Infeasible,
    Overloaded,
    RankfleetError,
    ScoringFailed,
    Unavailable,
)
from rankfleet.core.events import MAX_RANKED, RequestEvent
from rankfleet.core.messages import Assignment, Ranking, RerankRequest
from rankfleet.core.quiet import quietly
from rankfleet.router.resolve import Target

OWN_WORDS = (Overloaded, Infeasible, Expired, Unavailable, ScoringFailed)  # messages that quote nothing that was sent


@quietly
def tell(listener: Callable[[RequestEvent], object], make: Callable[..., RequestEvent], *facts: object) -> None:
    """Make an event of these facts and hand it over. An error of either fails no request."""
    listener(make(*facts))


def answered(request: RerankRequest, assignment: Assignment | None, at_s: float, ranking: Ranking) -> RequestEvent:
    """The event of an answer. at_s: as in `RequestEvent`."""
    plan = ranking.plan
    return event_of(
        request,
        assignment,
        at_s=at_s,
        tier=plan.tier,
        plan=plan_text(plan),
        reason=plan.reason,
        tokens=ranking.tokens,
        slo_class=ranking.slo_class,
        budget_ms=plan.budget_ms,
        predicted_ms=plan.predicted_ms if math.isfinite(plan.predicted_ms) else None,
        total_ms=ranking.timing.total_ms,
        degraded=plan.degraded,
        met=ranking.met,
        quality=plan.quality,
        ranking=[document.index for document in ranking.documents[:MAX_RANKED]],
    )


def failed(
    request: RerankRequest,
    assignment: Assignment | None,
    at_s: float,
    error: BaseException,
    target: Target | None,
    total_ms: float,
) -> RequestEvent:
    """The event of a request that ended in an error. target: None where the error came before there was one.

    A request that its client broke off counts for no arm: only the client knows why it left.
    """
    if isinstance(error, asyncio.CancelledError):
        error, assignment = ClientGone(), None
    kind = type(error) if isinstance(error, RankfleetError) else RankfleetError
    return event_of(
        request,
        assignment,
        at_s=at_s,
        status=kind.status,
        error=kind.code,
        reason=str(error) if isinstance(error, OWN_WORDS) else "",
        slo_class=target and target.slo_name,
        budget_ms=target.budget_ms if target else request.slo_ms,
        total_ms=total_ms,
    )


def event_of(request: RerankRequest, assignment: Assignment | None, **outcome: Any) -> RequestEvent:
    """outcome: fields that neither the request nor its assignment has."""
    if assignment is not None:
        outcome |= {name: getattr(assignment, name) for name in ("experiment", "arm", "unit", "step")}
    return RequestEvent(
        request_id=request.request_id,
        tenant=request.tenant,
        queries=len(request.each_query),
        candidates=sum(request.lists.counts),
        **outcome,
    )


def plan_text(plan: Plan | GivenOrder) -> str:
    """The stages of a plan, with the number of candidates where it is not all of them."""
    if isinstance(plan, GivenOrder):
        return "as given"
    return " > ".join(
        stage.tier if stage.candidates >= plan.documents else f"{stage.tier} on {stage.candidates}"
        for stage in plan.stages
    )
