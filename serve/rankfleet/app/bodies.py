"""Wire formats: the JSON a client sends and gets."""

import math
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rankfleet.core.config import explain
from rankfleet.core.errors import InvalidRequest
from rankfleet.core.messages import Ranking, RerankRequest

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
    user: str | None = Field(None, description="unit of experiments by user")
    session: str | None = Field(None, description="unit of experiments by session")

    def to_request(self, header_slo_ms: float | None = None) -> RerankRequest:
        return RerankRequest(
            query=self.query,
            documents=[d if isinstance(d, str) else d.text for d in self.documents],
            top_n=self.top_n,
            model=self.model,
            slo_ms=self.slo_ms if self.slo_ms is not None else header_slo_ms,
            user=self.user,
            session=self.session,
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
        "truncated": ranking.truncated,
    }
    if plan.budget_ms is not None:
        fleet["slo"] = {"budget_ms": plan.budget_ms, "met": ranking.met, "degraded": not plan.fits}
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
