"""Cohere's rerank: /v2/rerank, and /v1/rerank below `/cohere` (bare, that path is the native one)."""

from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from rankfleet.api.dialects.dialect import Dialect, Reply, Route
from rankfleet.api.dialects.documents import RankFields, StructuredDocuments
from rankfleet.api.dialects.rerank_body import EXAMPLE, ModelBody, ParsedRerank, TopN
from rankfleet.api.dialects.rerank_reply import reply_with_plan
from rankfleet.api.dialects.scores import ObjectRow, rows
from rankfleet.api.dialects.spans import RelevantSpans, Span, spans_wanted
from rankfleet.api.dialects.text_fields import text_options
from rankfleet.api.dialects.usage import Meta, meta
from rankfleet.api.headers import RequestHeaders
from rankfleet.core.errors import RankfleetError
from rankfleet.core.messages import Ranking
from rankfleet.core.text_options import TextOptions


class CohereBody(ModelBody):
    """What both versions have. The second has no `return_documents` and no `rank_fields`, but clients (LiteLLM) send
    them there, too."""

    query: str
    documents: StructuredDocuments
    rank_fields: RankFields = None
    top_n: TopN = None
    return_documents: bool | None = Field(None, description="whether results contain their documents; false if null")


class CohereV1Body(CohereBody):
    """The body of Cohere's /v1/rerank."""

    max_chunks_per_doc: int | None = Field(
        None,
        ge=1,
        description="long documents are scored by the best of at most so many passages, whatever the fleet's default",
    )

    @property
    def options(self) -> TextOptions:
        return text_options(max_passages=self.max_chunks_per_doc)


class CohereV2Body(CohereBody):
    """The body of Cohere's /v2/rerank."""

    max_tokens_per_doc: int | None = Field(
        None, ge=1, description="a longer document keeps its first tokens; as many as the tier reads if null"
    )

    relevant_spans: RelevantSpans = None

    unsupported: ClassVar = {"priority": (0,)}

    @property
    def options(self) -> TextOptions:
        return text_options(document_tokens=self.max_tokens_per_doc)


class CohereV1Reply(TypedDict):
    id: str
    results: list[ObjectRow]
    meta: Meta


class CohereRow(ObjectRow):
    relevant_spans: NotRequired[list[Span]]


class CohereV2Reply(TypedDict):
    id: str
    results: list[CohereRow]
    meta: Meta


class CohereError(TypedDict):
    id: str
    message: str


def parse(format: type[CohereV1Body | CohereV2Body], body: bytes, headers: RequestHeaders) -> ParsedRerank:
    """Raises InvalidRequest and TooLarge."""
    sent = format.parse(body)
    how: dict[str, Any] = {"options": sent.options, "rank_fields": sent.rank_fields}
    documents = ("documents", sent.documents)
    parsed = sent.parsed(sent.query, documents, headers, sent.top_n, sent.return_documents, **how)
    if isinstance(sent, CohereV2Body) and (spans := sent.relevant_spans) is not None:
        parsed.request, parsed.spans = replace(parsed.request, **spans_wanted(spans)), spans
    return parsed


def reply(version: str, ranking: Ranking, parsed: ParsedRerank) -> Reply:
    content = {
        "id": ranking.request_id,
        "results": rows(ranking, parsed, "relevance_score"),
        "meta": {"api_version": {"version": version}, **meta(ranking)},
    }
    return reply_with_plan(content, ranking)


def error_json(error: RankfleetError, status: int, request_id: str) -> CohereError:
    return {"id": request_id, "message": str(error)}


def route(version: str, format: type[CohereV1Body | CohereV2Body], replied: type) -> Route[ParsedRerank, Ranking]:
    path, summary = f"/cohere/v{version}/rerank", f"Rank as Cohere v{version}"
    return Route(path, summary, format, EXAMPLE, replied, partial(parse, format), partial(reply, version))


COHERE = Dialect(
    name="cohere",
    base="/cohere",
    error=error_json,
    error_type=CohereError,
    statuses={413: 400, 422: 400},
    rerank=[
        route("1", CohereV1Body, CohereV1Reply),
        *route("2", CohereV2Body, CohereV2Reply).also_at("/v2/rerank"),
    ],
)
