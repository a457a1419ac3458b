"""The reply of `/v1/plan`: a decision as JSON."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from rankfleet.api.dialects.native_replies import StageReply, finite_ms
from rankfleet.core.decisions import Decision, Plan, Refusal
from rankfleet.core.sections import UNSCORED


class ConsideredReply(TypedDict):
    tier: str
    how: Annotated[str, Field(description="what is left out, or the second stage; `everything` for neither")]
    quality: float
    predicted_ms: float | None
    verdict: Annotated[str, Field(description="why it was or was not chosen")]


class PlanReply(TypedDict):
    refused: bool
    reason: str
    considered: Annotated[list[ConsideredReply], Field(description="every plan that was considered, best first")]
    cause: NotRequired[
        Annotated[
            Literal["quality", "budget", "load"],
            Field(
                description="of a refusal: no tier reaches `min_quality`, not even an idle fleet meets the budget, "
                "or the fleet is too busy now"
            ),
        ]
    ]
    retry_after_s: NotRequired[Annotated[float | None, Field(description="of a refusal; null unless `cause` is load")]]
    tier: NotRequired[str]
    quality: NotRequired[float]
    predicted_ms: NotRequired[float | None]
    budget_ms: NotRequired[float | None]
    fits: NotRequired[Annotated[bool, Field(description="whether the predicted time is within the budget")]]
    degraded: NotRequired[Annotated[str | None, Field(description="what is left out, if no complete plan fits")]]
    stages: NotRequired[list[StageReply]]
    max_tokens: NotRequired[Annotated[int | None, Field(description="pairs are cut to this length; null for no cut")]]
    late_binding_tiers: NotRequired[
        Annotated[list[str], Field(description="tiers a replica may choose from; empty where the tier is final")]
    ]


def plan_json(decision: Decision) -> dict[str, Any]:
    """The decision, and every plan that was considered, best first."""
    content: dict[str, Any] = {"refused": isinstance(decision, Refusal), "reason": decision.reason}
    if isinstance(decision, Refusal):
        content["cause"] = decision.cause
        content["retry_after_s"] = round(decision.retry_after_s, 3) if decision.cause == "load" else None
    else:
        stages = decision.stages if isinstance(decision, Plan) else ()
        content |= {
            "tier": decision.tier or UNSCORED,
            "quality": decision.quality,
            "predicted_ms": finite_ms(decision.predicted_ms),
            "budget_ms": decision.budget_ms,
            "fits": decision.fits,
            "degraded": decision.degraded,
            "stages": [{"tier": stage.tier, "candidates": stage.candidates} for stage in stages],
            "max_tokens": decision.max_tokens if isinstance(decision, Plan) else None,
            "late_binding_tiers": stages[0].tiers if stages and len(stages[0].tiers) > 1 else (),
        }
    content["considered"] = [
        {
            "tier": considered.tier or UNSCORED,
            "how": considered.how or "everything",
            "quality": round(considered.quality, 5),
            "predicted_ms": finite_ms(considered.predicted_ms),
            "verdict": considered.verdict,
        }
        for considered in decision.considered
    ]
    return content
