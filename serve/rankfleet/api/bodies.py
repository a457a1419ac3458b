"""Our own wire format: the JSON a client sends and gets."""

import difflib
import math
from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError, WithJsonSchema

from rankfleet.api.http import RequestHeaders
from rankfleet.core.config import explain
from rankfleet.core.errors import InvalidRequest, quote
from rankfleet.core.messages import GivenOrder, Plan, Ranking, Refusal, RerankRequest
from rankfleet.core.passages import LongDocuments
from rankfleet.core.sections import MAX_SLO_MS, MIN_SLO_MS, UNSCORED, SloMs

Document = str | dict[str, Any]
Documents = Annotated[
    list[Document],
    FailFast(),  # or a body of a few megabytes could hold millions of errors
    WithJsonSchema(
        {
            "type": "array",
            "minItems": 1,
            "items": {
                "anyOf": [
                    {"type": "string"},
                    {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
                ]
            },
        }
    ),
]
BUDGET = {"anyOf": [{"type": "number", "minimum": MIN_SLO_MS, "maximum": MAX_SLO_MS}, {"type": "null"}]}


class Body(BaseModel):
    """What every request of ours may say. Explicit nulls mean the default; a key that is not known is an error, since
    somebody expects something of it."""

    # Extra keys are kept, so that `parse` can name the nearest one, and tell one that is null from a wish.
    model_config = ConfigDict(strict=True, extra="allow", json_schema_extra={"additionalProperties": False})

    query: str = Field(description="the text that documents are ranked for")
    model: str | None = Field(None, description="a tier, `auto`, or an SLO class")
    top_n: int | None = Field(None, ge=1, description="how many results to return")
    return_documents: bool | None = Field(None, description="whether results carry their documents, as they were sent")
    slo_ms: Annotated[SloMs | None, WithJsonSchema(BUDGET)] = Field(None, description="latency budget in milliseconds")
    slo_class: str | None = Field(None, description="an SLO class; a budget of its own comes before the class's")
    min_quality: float | None = Field(None, ge=0, le=1, description="nDCG@10 below which an answer is of no use")
    long_documents: LongDocuments | None = Field(
        None, description="`truncate`: score the beginning; `max_passage`: the best passage; the fleet's own by default"
    )
    user: str | None = Field(None, description="unit of experiments by user")
    session: str | None = Field(None, description="unit of experiments by session")

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read the JSON of a request. Raises InvalidRequest that says where it is wrong."""
        try:
            parsed = cls.model_validate_json(body)
        except ValidationError as error:
            raise InvalidRequest(explain(error, "request body", max_lines=5) + "\nsee /docs for the format") from None
        if unknown := [name for name, value in (parsed.model_extra or {}).items() if value is not None]:
            raise InvalidRequest("\n".join(unknown_key(name, [*cls.model_fields]) for name in unknown[:5]))
        return parsed

    @classmethod
    def openapi(cls) -> dict[str, Any]:
        """Of a route. Bodies are parsed here, in one step from bytes, so FastAPI does not see them."""
        return {"requestBody": {"required": True, "content": {"application/json": {"schema": cls.model_json_schema()}}}}

    def request(self, documents: list[str], headers: RequestHeaders, top_n: int | None) -> RerankRequest:
        return RerankRequest(
            query=self.query,
            documents=documents,
            top_n=top_n,
            model=self.model,
            slo_ms=self.slo_ms if self.slo_ms is not None else headers.slo_ms,
            slo_class=self.slo_class or headers.slo_class,
            min_quality=self.min_quality or 0.0,
            api_key=headers.api_key,
            user=self.user,
            session=self.session,
            long_documents=self.long_documents,
            request_id=headers.request_id,
        )


class RerankBody(Body):
    """POST /v1/rerank, and /v1/plan."""

    documents: Documents = Field(description="strings, or objects with their text under `text`")

    def to_request(self, headers: RequestHeaders = RequestHeaders()) -> RerankRequest:  # noqa: B008  (frozen)
        """Raises InvalidRequest for a document without a text."""
        return self.request([text_of(i, document) for i, document in enumerate(self.documents)], headers, self.top_n)


def text_of(place: int, document: Document) -> str:
    """Raises InvalidRequest where there is none, or the document could not be given back as it was sent."""
    if isinstance(document, str):
        return document
    text = document.get("text")
    if not isinstance(text, str):
        raise InvalidRequest(f'request body: documents.{place}: must be a string or {{"text": string}}')
    if not is_json(document):
        raise InvalidRequest(f"request body: documents.{place}: NaN and infinity are not JSON; send null")
    return text


def is_json(value: Any) -> bool:
    """Whether all numbers in it are finite."""
    if isinstance(value, dict):
        return all(map(is_json, value.values()))
    if isinstance(value, list):
        return all(map(is_json, value))
    return not isinstance(value, float) or math.isfinite(value)


def unknown_key(name: str, known: Sequence[str]) -> str:
    """What is wrong with it, and which one may be meant."""
    near = difflib.get_close_matches(name[:80], known, 1, 0.5)
    meant = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    return f"request body: {quote(name)} is unknown; {meant}"


def sigmoid(logit: float) -> float:
    """In float64, so that high scores stay apart: in bf16 the sigmoids of 10.8 and 9.9 are equal."""
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))


def ranking_reply(ranking: Ranking, documents: Sequence[Document] | None) -> dict[str, Any]:
    """The native reply: results best first, and what the fleet did. documents: as they were sent, where the results
    are to carry them."""
    results = []
    for document in ranking.documents:
        result: dict[str, Any] = {
            "index": document.index,
            "relevance_score": 0.0 if document.logit is None else sigmoid(document.logit),
            "logit": document.logit,
        }
        if ranking.passages is not None:
            result["passages"] = ranking.passages[document.index]
        if documents is not None:
            sent = documents[document.index]
            result["document"] = {"text": sent} if isinstance(sent, str) else sent
        results.append(result)
    plan, timing = ranking.plan, ranking.timing
    fleet: dict[str, Any] = {
        "tier": plan.tier or UNSCORED,
        "reason": plan.reason,
        "quality": plan.quality,
        "predicted_ms": finite_ms(plan.predicted_ms),
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
        "model": plan.tier or UNSCORED,
        "results": results,
        "usage": {"total_tokens": ranking.tokens},
        "rankfleet": fleet,
    }


def plan_reply(decision: Plan | GivenOrder | Refusal) -> dict[str, Any]:
    """What would be done, and what else was looked at, best first."""
    reply: dict[str, Any] = {"refused": isinstance(decision, Refusal), "reason": decision.reason}
    if isinstance(decision, Refusal):
        reply["cause"] = decision.cause
        reply["retry_after_s"] = round(decision.retry_after_s, 3) if decision.cause == "load" else None
    else:
        stages, max_tokens = (decision.stages, decision.max_tokens) if isinstance(decision, Plan) else ((), None)
        candidates = [stage.candidates for stage in stages]
        complete = isinstance(decision, Plan) and candidates == [decision.documents]
        reply |= {
            "tier": decision.tier or UNSCORED,
            "quality": decision.quality,
            "predicted_ms": finite_ms(decision.predicted_ms),
            "budget_ms": decision.budget_ms,
            "fits": decision.fits,
            "degraded": decision.degraded,
            "stages": [{"tier": stage.tier, "candidates": "all" if complete else stage.candidates} for stage in stages],
            "candidates": None if complete or len(stages) > 1 else candidates[0] if candidates else 0,
            "max_tokens": max_tokens,
            "late_binding_tiers": stages[0].tiers if stages and len(stages[0].tiers) > 1 else (),
        }
    reply["considered"] = [
        {
            "tier": each.tier or UNSCORED,
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
