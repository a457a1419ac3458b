"""Text Embeddings Inference: /rerank, whose body has `texts`, and /info."""

from typing import Annotated, Any, Literal, NotRequired, cast

from pydantic import Field, WithJsonSchema
from typing_extensions import TypedDict

from rankfleet import __version__
from rankfleet.api.admission import MAX_REQUESTS
from rankfleet.api.dialects.dialect import About, Dialect, Reply, Route
from rankfleet.api.dialects.native import QUERY
from rankfleet.api.dialects.rerank_body import DOCUMENTS, ModelBody, ParsedRerank, Texts, TopN
from rankfleet.api.dialects.rerank_reply import plan_headers
from rankfleet.api.dialects.scores import rows
from rankfleet.api.dialects.text_fields import text_options
from rankfleet.api.headers import RequestHeaders
from rankfleet.core.errors import RankfleetError
from rankfleet.core.messages import Ranking
from rankfleet.core.text_options import Side
from rankfleet.router.service import RankingService

ERROR_TYPES = {424: "Backend", 429: "Overloaded", 503: "Unhealthy", 504: "Backend"}


class TeiBody(ModelBody):
    query: str
    texts: Texts
    top_n: TopN = None
    truncate: bool | None = Field(
        None, description="false refuses texts that would have to be cut; they are cut if null"
    )
    raw_scores: bool | None = Field(None, description="scores as they are, in place of 0 to 1")
    return_text: bool | None = Field(None, description="whether results contain their texts; false if null")

    truncation_direction: Annotated[
        Literal["left", "Left", "right", "Right"] | None,
        WithJsonSchema({"anyOf": [{"enum": ["Left", "Right"], "type": "string"}, {"type": "null"}]}),
    ] = Field(None, description="side of texts that is cut off where a pair is too long; `Right` if null")


class TeiResult(TypedDict):
    index: int
    score: float
    text: NotRequired[str]


class TeiError(TypedDict):
    error: str
    error_type: str


class TeiLabels(TypedDict):
    id2label: dict[str, str]
    label2id: dict[str, int]


class TeiModelType(TypedDict):
    reranker: TeiLabels


class TeiInfo(TypedDict):
    model_id: str
    model_sha: str | None
    model_dtype: str
    model_type: TeiModelType
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str
    sha: str | None
    docker_label: str | None


def parse(body: bytes, headers: RequestHeaders) -> ParsedRerank:
    """Raises InvalidRequest."""
    sent = TeiBody.parse(body)
    return sent.parsed(
        sent.query,
        ("texts", sent.texts),
        headers,
        sent.top_n,
        returned=sent.return_text,
        raw_scores=sent.raw_scores,
        options=text_options(
            cut_side=cast(Side, (sent.truncation_direction or "right").lower()), may_cut=sent.truncate
        ),
    )


def reply(ranking: Ranking, parsed: ParsedRerank) -> Reply:
    content = rows(ranking, parsed, "score", "text", as_text=True)
    return Reply(content, {"x-compute-tokens": str(ranking.tokens), **plan_headers(ranking)})


def error_json(error: RankfleetError, status: int, request_id: str) -> TeiError:
    return {"error": str(error), "error_type": ERROR_TYPES.get(status, "Validation")}


def info(service: RankingService) -> TeiInfo:
    """What clients check before they send: that a reranker answers, and how much it takes."""
    config = service.config
    return {
        "model_id": config.default_model,
        "model_sha": None,
        "model_dtype": "/".join(sorted({group.dtype for group in config.groups.values()})),
        "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
        "max_concurrent_requests": MAX_REQUESTS,
        "max_input_length": max(service.reader.pair_limits(tuple(config.tiers)).values()),
        "max_batch_tokens": max(group.batch_tokens for group in config.groups.values()),
        "max_batch_requests": None,
        "max_client_batch_size": config.limits.max_documents,
        "auto_truncate": True,
        "tokenization_workers": 1,
        "version": __version__,
        "sha": None,
        "docker_label": None,
    }


EXAMPLE: dict[str, Any] = {"query": QUERY, "texts": DOCUMENTS}
RERANK = Route("/tei/rerank", "Rank as Text Embeddings Inference", TeiBody, EXAMPLE, list[TeiResult], parse, reply)
TEI = Dialect(
    name="tei",
    base="/tei",
    error=error_json,
    error_type=TeiError,
    statuses={500: 424},
    rerank=[RERANK],
    about=[About(path, "What TEI says of itself", TeiInfo, info) for path in ("/info", "/tei/info")],
)
