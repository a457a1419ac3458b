"""Cohere's rerank: /v2/rerank, and /v1/rerank below `/cohere` (bare, that path is the native one)."""

from dataclasses import replace
from functools import partial
from typing import ClassVar, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from rankfleet.api.dialects.dialect import Dialect, Reply, Route
from rankfleet.api.dialects.native_queries import Documents
from rankfleet.api.dialects.rerank_body import EXAMPLE, ModelBody, ParsedRerank, TopN
from rankfleet.api.dialects.rerank_reply import reply_with_plan
from rankfleet.api.dialects.scores import ObjectRow, rows
from rankfleet.api.dialects.spans import RelevantSpans, Span, spans_wanted
from rankfleet.api.dialects.usage import Meta, meta
from rankfleet.api.headers import RequestHeaders
from rankfleet.core.errors import RankfleetError
from rankfleet.core.messages import Ranking


class CohereBody(ModelBody):
    """What both versions have. The second has no `return_documents`, but clients (LiteLLM) send it there, too."""

    query: str
    documents: Documents
    top_n: TopN = None
    return_documents: bool | None = Field(None, description="whether results contain their documents; false if null")


class CohereV1Body(CohereBody):
    """The body of Cohere's /v1/rerank."""

    unsupported: ClassVar = {"rank_fields": (["text"],), "max_chunks_per_doc": (10,)}


class CohereV2Body(CohereBody):
    """The body of Cohere's /v2/rerank."""

    relevant_spans: RelevantSpans = None

    unsupported: ClassVar = {
        "max_tokens_per_doc": (4096,),  # Cohere's default, which clients (Haystack) send, too
        "priority": (0,),
        "rank_fields": (["text"],),
    }


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


def parse(format: type[CohereBody], body: bytes, headers: RequestHeaders) -> ParsedRerank:
    """Raises InvalidRequest."""
    sent = format.parse(body)
    parsed = sent.parsed(sent.query, ("documents", sent.documents), headers, sent.top_n, sent.return_documents)
    if isinstance(sent, CohereV2Body) and (spans := sent.relevant_spans) is not None:
        parsed.request, parsed.spans = replace(parsed.request, **spans_wanted(spans)), spans
    return parsed


def reply(version: str, ranking: Ranking, parsed: ParsedRerank) -> Reply:
    content = {
        "id": ranking.request_id,
        "results": rows(ranking, parsed, "relevance_score"),
        "meta": {"api_version": {"version": version}, **meta(ranking)},
    }
    return reply_with_plan(content, ranking, parsed)


def error_json(error: RankfleetError, status: int, request_id: str) -> CohereError:
    return {"id": request_id, "message": str(error)}


def route(version: str, format: type[CohereBody], replied: type) -> Route[ParsedRerank, Ranking]:
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
