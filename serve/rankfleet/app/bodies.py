"""Wire formats: the JSON a client sends and gets."""

import math
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rankfleet.app.http import Wishes
from rankfleet.core.config import explain
from rankfleet.core.errors import InvalidRequest
from rankfleet.core.layout import LongDocuments
from rankfleet.core.messages import Plan, Ranking, RerankRequest, Stage
from rankfleet.routing.planner import Refusal

Body = TypeVar("Body", bound=BaseModel)


class TextDocument(BaseModel):
    """A document as an object."""

    model_config = ConfigDict(strict=True)
    text: str


class RerankBody(BaseModel):
    """POST /v1/rerank. Explicit nulls mean the default."""

    model_config = ConfigDict(strict=True)

    query: str
    documents: list[str | TextDocument]
    model: str | None = Field(None, description="a tier, `auto`, or an SLO class")
    top_n: int | None = Field(None, ge=1, description="how many results to return; all by default")
    return_documents: bool | None = None
    slo_ms: float | None = Field(None, gt=0, allow_inf_nan=False, description="latency budget in milliseconds")
    slo_class: str | None = Field(None, description="an SLO class; a budget of its own comes before the class's")
    min_quality: float | None = Field(None, ge=0, le=1, description="nDCG@10 below which an answer is of no use")
    long_documents: LongDocuments | None = Field(
        None, description="`truncate`: score the beginning; `max_passage`: the best passage; the fleet's own by default"
    )
    user: str | None = Field(None, description="unit of experiments by user")
    session: str | None = Field(None, description="unit of experiments by session")

    def to_request(self, headers: Wishes = Wishes()) -> RerankRequest:  # noqa: B008  (frozen)
        return RerankRequest(
            query=self.query,
            documents=[d if isinstance(d, str) else d.text for d in self.documents],
            top_n=self.top_n,
            model=self.model,
            slo_ms=self.slo_ms if self.slo_ms is not None else headers.slo_ms,
            slo_class=self.slo_class or headers.slo_class,
            min_quality=self.min_quality or 0.0,
            api_key=headers.api_key,
            user=self.user,
            session=self.session,
            long_documents=self.long_documents,
        )


def parse(model: type[Body], body: bytes) -> Body:
    """Read the JSON of a request. Raises InvalidRequest that says where it is wrong."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise InvalidRequest(explain(error, "request body", most=5) + "\nsee /docs for the format") from None


def sigmoid(logit: float) -> float:
    """In float64, so that high scores stay apart: in bf16 the sigmoids of 10.8 and 9.9 are equal."""
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))


def ranking_reply(ranking: Ranking, return_documents: bool) -> dict[str, Any]:
    """The native reply: results best first, and what the fleet did."""
    results = []
    for document in ranking.documents:
        result: dict[str, Any] = {
            "index": document.index,
            "relevance_score": 0.0 if document.logit is None else sigmoid(document.logit),
            "logit": document.logit,
        }
        if ranking.passages is not None:
            result["passages"] = ranking.passages[document.index]
        if return_documents:
            result["document"] = {"text": ranking.texts[document.index]}
        results.append(result)
    plan, timing = ranking.plan, ranking.timing
    fleet: dict[str, Any] = {
        "tier": plan.tier,
        "reason": plan.reason,
        "quality": plan.quality,
        "predicted_ms": round(plan.predicted_ms, 2),
        "timing_ms": {
            "tokenize": round(timing.tokenize_ms, 2),
            "queue": round(timing.queue_ms, 2),
            "infer": round(timing.infer_ms, 2),
            "total": round(timing.total_ms, 2),
        },
        "stages": [{"tier": stage.tier, "candidates": stage.candidates} for stage in ranking.stages],
        "truncated": ranking.truncated,
    }
    if plan.budget_ms is not None:
        fleet["slo"] = {
            "class": ranking.slo_class,
            "budget_ms": plan.budget_ms,
            "met": ranking.met,
            "degraded": not plan.fits,
            "partial": ranking.partial,
        }
    if plan.degraded is not None:
        fleet["degraded"] = plan.degraded
    if ranking.assignment is not None:
        fleet["experiment"] = {"name": ranking.assignment.experiment, "arm": ranking.assignment.arm}
    return {
        "id": ranking.request_id,
        "model": plan.tier,
        "results": results,
        "usage": {"total_tokens": ranking.tokens},
        "rankfleet": fleet,
    }


def plan_reply(decision: Plan | Refusal) -> dict[str, Any]:
    """What would be done, and what else was looked at, best first."""
    reply: dict[str, Any] = {"refused": isinstance(decision, Refusal), "reason": decision.reason}
    if isinstance(decision, Refusal):
        reply["retry_after_s"] = round(decision.retry_after_s, 3)
    else:
        stages = decision.stages or (Stage(decision.tier, -1),)
        reply |= {
            "tier": decision.tier,
            "quality": decision.quality,
            "predicted_ms": finite_ms(decision.predicted_ms),
            "budget_ms": decision.budget_ms,
            "fits": decision.fits,
            "degraded": decision.degraded,
            "stages": [
                {"tier": stage.tier, "candidates": "all" if stage.candidates < 0 else stage.candidates}
                for stage in stages
            ],
            "candidates": decision.candidates,
            "max_tokens": decision.max_tokens,
            "bound_late_among": decision.allowed,
        }
    reply["considered"] = [
        {
            "tier": each.tier,
            "how": each.how or "everything",
            "quality": round(each.quality, 5),
            "predicted_ms": finite_ms(each.predicted_ms),
            "verdict": each.verdict,
        }
        for each in decision.considered
    ]
    return reply


def finite_ms(ms: float) -> float | None:
    """None for a tier that has not been measured."""
    return round(ms, 2) if math.isfinite(ms) else None


def server_timing(ranking: Ranking) -> str:
    """The Server-Timing header, which browsers and proxies know how to show."""
    timing = ranking.timing
    parts = (
        ("tokenize", timing.tokenize_ms),
        ("queue", timing.queue_ms),
        ("infer", timing.infer_ms),
        ("total", timing.total_ms),
    )
    return ", ".join(f"{name};dur={ms:.2f}" for name, ms in parts)
