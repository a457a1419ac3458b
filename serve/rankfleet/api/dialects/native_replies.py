"""Native replies: their JSON, and its types for the OpenAPI page. A test compares the two."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from rankfleet.api.dialects.spans import Span, SpansAskedFor
from rankfleet.api.dialects.usage import Meta, meta
from rankfleet.core.messages import Ranking
from rankfleet.core.query_lists import QueryLists
from rankfleet.core.sections import UNSCORED
from rankfleet.core.timing import STEPS, Timing

Document = str | dict[str, Any]  # of a request: a text, or an object with fields to read


class Scored(TypedDict):
    """What every result has."""

    relevance_score: Annotated[
        float,
        Field(
            description="how likely the document is relevant, from the score by which results are sorted: `logit`, "
            "and what `rankfleet.fusion` adds to it; calibrated for the tier that gave it where the fleet has a map, "
            "else its sigmoid; 0 for a document that was not scored",
            ge=0,
            le=1,
        ),
    ]
    logit: Annotated[
        float | None,
        Field(description="raw score by the last tier that read the document; null for one that was not scored"),
    ]
    passages: NotRequired[
        Annotated[int, Field(description="number of passages scored, with `long_documents: max_passage`")]
    ]
    relevant_spans: NotRequired[
        Annotated[list[Span], Field(description="with `relevant_spans`: the passage that scored best")]
    ]


class Result(Scored):
    index: Annotated[
        int, Field(description="the document's place in the request, from 0; with `queries`, among those of its query")
    ]
    document: NotRequired[
        Annotated[
            dict[str, Any],
            Field(description='with `return_documents`: the object as sent, or {"text": …} for a string'),
        ]
    ]


class Retrieval(TypedDict):
    rank: Annotated[int, Field(description="the document's place in the retriever's order, from 1")]
    score: Annotated[float, Field(description="BM25 score")]


class SearchResult(Scored):
    id: Annotated[str, Field(description="the document's id in the index")]
    retrieval: Retrieval
    document: NotRequired[
        Annotated[dict[str, Any], Field(description='{"text": …}, unless `return_documents` is false')]
    ]


class Usage(TypedDict):
    total_tokens: Annotated[int, Field(description="tokens scored, in all stages")]


class TimingMs(TypedDict):
    """The parts add up to the total."""

    read: Annotated[float, Field(description="until the body was received, parsed and checked")]
    retrieve: NotRequired[Annotated[float, Field(description="/v1/search only")]]
    tokenize: float
    plan: float
    transfer: Annotated[float, Field(description="to replicas and back, besides queue and device")]
    queue: Annotated[float, Field(description="wait in a replica's queue, of the slowest chunk of each stage")]
    infer: Annotated[float, Field(description="time on the device, of the slowest chunk of each stage")]
    reply: float
    total: Annotated[float, Field(description="from arrival at the router to the reply")]


class StageReply(TypedDict):
    tier: str
    candidates: Annotated[int, Field(description="number of documents that the stage scores")]


Slo = TypedDict(
    "Slo",
    {
        "class": Annotated[str | None, Field(description="the SLO class that applied")],
        "budget_ms": float,
        "met": Annotated[bool, Field(description="whether the reply was ready within the budget")],
        "degraded": Annotated[bool, Field(description="whether no complete plan fitted the budget")],
        "partial": Annotated[bool, Field(description="whether the second stage was left out or failed")],
    },
)


class FusionReply(TypedDict):
    """What counts beside a tier's scores."""

    by: Annotated[
        Literal["order", "scores"],
        Field(description="`order`: in which the candidates came; `scores`: that the retriever gave them"),
    ]
    weight: Annotated[
        float,
        Field(description="of the tier that answered, in logits per unit of evidence; 0 if none was fitted for it"),
    ]


class ExperimentReply(TypedDict):
    name: str
    arm: str


class Details(TypedDict):
    """How the ranking came about."""

    tier: Annotated[str, Field(description="the tier that answered; `none` for documents in the order sent")]
    reason: Annotated[str, Field(description="why this plan was chosen")]
    quality: Annotated[
        float | None, Field(description="expected nDCG@10 of what was done; null where nothing was found to rank")
    ]
    predicted_ms: Annotated[
        float | None,
        Field(description="predicted 99th percentile from arrival to reply; null before the tier is measured"),
    ]
    timing_ms: Annotated[TimingMs, Field(description="measured")]
    stages: Annotated[list[StageReply], Field(description="in order; empty where nothing was scored")]
    truncated: Annotated[
        list[int | str] | list[list[int]],
        Field(
            description="documents that a stage did not read to the end: `index`, or `id` for /v1/search; with "
            "`queries`, a list for each query"
        ),
    ]
    fusion: NotRequired[Annotated[FusionReply, Field(description="if candidates came ranked, and any was scored")]]
    slo: NotRequired[Annotated[Slo, Field(description="if there was a budget")]]
    degraded: NotRequired[Annotated[str, Field(description="what was left out, if no complete plan fitted")]]
    experiment: NotRequired[Annotated[ExperimentReply, Field(description="if the request was assigned to an arm")]]


class RankedReply(TypedDict):
    """What the replies of all routes that rank have."""

    id: Annotated[str, Field(description="the request's id, as in `x-request-id` and in the log")]
    model: Annotated[str, Field(description="the tier that answered")]
    usage: Usage
    meta: NotRequired[Annotated[Meta, Field(description="what was scored, where clients of Cohere look for it")]]
    rankfleet: Details


class RerankReply(RankedReply):
    results: Annotated[
        list[Result] | list[list[Result]],
        Field(description="best first; with `queries`, a list for each query, in their order"),
    ]


class SearchReply(RankedReply):
    results: Annotated[list[SearchResult], Field(description="best first")]


class ErrorBody(TypedDict):
    code: Annotated[str, Field(description="stable, for programs")]
    message: Annotated[str, Field(description="what is wrong and what to do, for people")]
    request_id: str


class ErrorReply(TypedDict):
    error: ErrorBody


def ranking_json(
    ranking: Ranking,
    documents: Sequence[Document] | None,
    min_score: float = 0.0,
    spans: SpansAskedFor | None = None,
) -> dict[str, Any]:
    """Results best first, and under `rankfleet` how they came about. documents: for the results to contain. min_score:
    results with a lower `relevance_score` are left out. spans: for the results to contain."""
    results: list[dict[str, Any]] = []
    for document in ranking.documents:
        result: dict[str, Any] = {
            "index": document.index,
            "relevance_score": document.relevance,
            "logit": document.logit,
        }
        if document.relevance < min_score:
            continue
        if ranking.passages is not None:
            result["passages"] = ranking.passages[document.index]
        if spans is not None and document.span is not None:
            result |= spans.fields(document.span)
        if documents is not None:
            sent = documents[document.index % len(documents)]
            result["document"] = {"text": sent} if isinstance(sent, str) else sent
        results.append(result)
    content: dict[str, Any] = {
        "id": ranking.request_id,
        "model": ranking.plan.tier or UNSCORED,
        "results": results,
        "usage": {"total_tokens": ranking.tokens},
        "meta": meta(ranking),
        "rankfleet": details_json(ranking),
    }
    if ranking.counts:
        content["results"], content["rankfleet"]["truncated"] = by_query(ranking, results)
    return content


def by_query(ranking: Ranking, results: list[dict[str, Any]]) -> tuple[list[list[dict[str, Any]]], list[list[int]]]:
    """The results of each query, and the documents of each that were not read to the end. Documents are numbered within
    their query."""
    lists = QueryLists(ranking.counts)
    own: list[list[dict[str, Any]]] = [[] for _ in ranking.counts]
    truncated: list[list[int]] = [[] for _ in ranking.counts]
    for result in results:
        query, place = lists.locate(result["index"])
        own[query].append(result | {"index": place})
    for index in ranking.truncated:
        query, place = lists.locate(index)
        truncated[query].append(place)
    return own, truncated


def details_json(ranking: Ranking) -> dict[str, Any]:
    """Which tier answered, why, what was predicted and what it took."""
    plan = ranking.plan
    details: dict[str, Any] = {
        "tier": plan.tier or UNSCORED,
        "reason": plan.reason,
        "quality": plan.quality,
        "predicted_ms": finite_ms(plan.predicted_ms),
        "timing_ms": timing_json(ranking.timing),
        "stages": [{"tier": stage.tier, "candidates": stage.candidates} for stage in ranking.stages],
        "truncated": ranking.truncated,
    }
    if ranking.fused is not None:
        details["fusion"] = ranking.fused._asdict()
    if plan.budget_ms is not None:
        details["slo"] = {
            "class": ranking.slo_class,
            "budget_ms": plan.budget_ms,
            "met": ranking.met,
            "degraded": not plan.fits,
            "partial": ranking.partial,
        }
    if plan.degraded is not None:
        details["degraded"] = plan.degraded
    if ranking.assignment is not None:
        details["experiment"] = {"name": ranking.assignment.experiment, "arm": ranking.assignment.arm}
    return details


def nothing_found_json(request_id: str, timing: Timing) -> dict[str, Any]:
    """The reply of a search that has nothing to rank."""
    details: dict[str, Any] = {
        "tier": UNSCORED,
        "reason": "no document shares a word with the query",
        "quality": None,
        "predicted_ms": None,
        "timing_ms": timing_json(timing),
        "stages": [],
        "truncated": [],
    }
    return {"id": request_id, "model": UNSCORED, "results": [], "usage": {"total_tokens": 0}, "rankfleet": details}


def finite_ms(ms: float) -> float | None:
    """None for the infinity of a tier that has not been measured."""
    return round(ms, 2) if math.isfinite(ms) else None


def timing_json(timing: Timing) -> dict[str, float]:
    """Milliseconds by step, and in total."""
    steps = {step: round(timing.ms[step], 2) for step in STEPS if step in timing.ms}
    return steps | {"total": round(timing.total_ms, 2)}


def server_timing(timing: Timing) -> str:
    """The Server-Timing header (W3C), which browsers and proxies can show."""
    return ", ".join(f"{step};dur={ms:.2f}" for step, ms in timing_json(timing).items())
