"""What replies look like, for the OpenAPI page. Tests hold the replies themselves against it."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

DOCUMENT = "the document as it was sent, a string as {text}; only where `return_documents` asks for it"


class Result(TypedDict):
    index: Annotated[int, Field(description="place of the document in the request")]
    relevance_score: Annotated[
        float, Field(description="sigmoid of the logit, 0 for a document left unscored", ge=0, le=1)
    ]
    logit: Annotated[float | None, Field(description="raw score; null for a document left unscored")]
    passages: NotRequired[
        Annotated[int, Field(description="pairs that were scored of the document, with `max_passage`")]
    ]
    document: NotRequired[Annotated[dict[str, Any], Field(description=DOCUMENT)]]


class Retrieval(TypedDict):
    rank: Annotated[int, Field(description="place in the first stage, from 1")]
    score: Annotated[float, Field(description="BM25")]


class SearchResult(TypedDict):
    id: str
    relevance_score: Annotated[float, Field(ge=0, le=1)]
    logit: float | None
    retrieval: Retrieval
    passages: NotRequired[Annotated[int, Field(description="as for /v1/rerank")]]
    document: NotRequired[Annotated[dict[str, Any], Field(description="{text}, unless `return_documents` is false")]]


class Usage(TypedDict):
    total_tokens: int


class TimingMs(TypedDict):
    tokenize: float
    queue: float
    infer: float
    total: float
    retrieve: NotRequired[Annotated[float, Field(description="of /v1/search")]]


class StageReply(TypedDict):
    tier: str
    candidates: Annotated[int | Literal["all"], Field(description="how many it scored")]


Slo = TypedDict(
    "Slo",
    {
        "class": Annotated[str | None, Field(description="the SLO class that applied")],
        "budget_ms": float,
        "met": bool,
        "degraded": Annotated[bool, Field(description="whether nothing whole fitted")],
        "partial": Annotated[bool, Field(description="whether the second stage was left out")],
    },
)


class ExperimentReply(TypedDict):
    name: str
    arm: str


class Served(TypedDict):
    """How the answer came about."""

    tier: Annotated[str, Field(description="who answered; `none` for the order as given")]
    reason: str
    quality: Annotated[float | None, Field(description="nDCG@10 to be expected; null where there was nothing to rank")]
    predicted_ms: Annotated[
        float | None, Field(description="99th percentile from arrival to answer; null where not known")
    ]
    timing_ms: TimingMs
    stages: list[StageReply]
    truncated: Annotated[list[int | str], Field(description="documents of which something was not read, in any stage")]
    slo: NotRequired[Annotated[Slo, Field(description="where there was a budget")]]
    degraded: NotRequired[Annotated[str, Field(description="what was left out")]]
    experiment: NotRequired[Annotated[ExperimentReply, Field(description="where the request belongs to an arm")]]


class RerankReply(TypedDict):
    id: Annotated[str, Field(description="as in the header x-request-id, and in logs")]
    model: str
    results: Annotated[list[Result], Field(description="best first")]
    usage: Usage
    rankfleet: Served


class SearchReply(TypedDict):
    id: str
    model: str
    results: Annotated[list[SearchResult], Field(description="best first")]
    usage: Usage
    rankfleet: Served


class ConsideredReply(TypedDict):
    tier: str
    how: str
    quality: float
    predicted_ms: float | None
    verdict: str


class PlanReply(TypedDict):
    refused: bool
    reason: str
    considered: list[ConsideredReply]
    cause: NotRequired[Annotated[Literal["quality", "budget", "load"], Field(description="of a refusal")]]
    retry_after_s: NotRequired[Annotated[float | None, Field(description="of a refusal for load")]]
    tier: NotRequired[str]
    quality: NotRequired[float]
    predicted_ms: NotRequired[float | None]
    budget_ms: NotRequired[float | None]
    fits: NotRequired[bool]
    degraded: NotRequired[str | None]
    stages: NotRequired[list[StageReply]]
    candidates: NotRequired[int | None]
    max_tokens: NotRequired[int | None]
    late_binding_tiers: NotRequired[list[str]]


class ModelReply(TypedDict):
    id: str
    object: Literal["model"]
    kind: Literal["planner", "tier", "slo_class"]
    model: NotRequired[Annotated[str, Field(description="of a tier: where it comes from")]]
    quality: NotRequired[Annotated[float, Field(description="of a tier: nDCG@10")]]
    group: NotRequired[Annotated[str, Field(description="of a tier: who hosts it")]]
    slo_ms: NotRequired[Annotated[float | None, Field(description="of an SLO class")]]


class ModelsReply(TypedDict):
    object: Literal["list"]
    data: list[ModelReply]


class StatusReply(TypedDict):
    status: Literal["ok", "ready", "asleep", "starting", "failing"]
    reason: NotRequired[str]
    not_changed: NotRequired[
        Annotated[list[str], Field(description="why the newest fleet file is not served; the one before still is")]
    ]


class RootReply(TypedDict):
    name: Literal["rankfleet"]
    version: str
    about: str
    paths: dict[str, str]


class ErrorBody(TypedDict):
    code: Annotated[str, Field(description="for programs")]
    message: Annotated[str, Field(description="what is wrong and what to do, for people")]
    request_id: str


class ErrorReply(TypedDict):
    error: ErrorBody


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route: which errors it answers with."""
    return {status: {"model": ErrorReply, "description": ERRORS[status]} for status in statuses}


ERRORS = {
    404: "no tier, SLO class or path of that name",
    405: "the path does not take this method",
    408: "the body did not come in time",
    413: "more documents or bytes than the limits",
    422: "a field is missing, unknown or out of range; or what it asks for is beyond this fleet, however idle",
    429: "not now: `Retry-After` and `retry-after-ms` say when",
    499: "the client went away",
    500: "failed inside the fleet; the message says where the log is",
    503: "no replica could answer",
    504: "the budget ended before any work was done",
}
RANKING_ERRORS = errors(404, 408, 413, 422, 429, 500, 503, 504)
