"""Cohere's rerank: /v2/rerank, and /v1/rerank below `/cohere` (bare, that path is the native one)."""

from typing import ClassVar

from pydantic import Field
from typing_extensions import TypedDict

from rankfleet.api.dialects.dialect import Dialect, Reply, Route
from rankfleet.api.dialects.native import Documents
from rankfleet.api.dialects.rerank_body import EXAMPLE, ModelBody, ParsedRerank, Texts, TopN
from rankfleet.api.dialects.rerank_reply import reply_with_plan
from rankfleet.api.dialects.scores import ObjectRow, rows
from rankfleet.api.dialects.usage import Meta, meta
from rankfleet.api.headers import RequestHeaders
from rankfleet.core.errors import RankfleetError
from rankfleet.core.messages import Ranking


class CohereV1Body(ModelBody):
    """The body of Cohere's /v1/rerank."""

    query: str
    documents: Documents
    top_n: TopN = None
    return_documents: bool | None = Field(None, description="whether results contain their documents; false if null")

    unsupported: ClassVar = {"rank_fields": (["text"],), "max_chunks_per_doc": (10,)}


class CohereV2Body(ModelBody):
    """The body of Cohere's /v2/rerank."""

    query: str
    documents: Texts
    top_n: TopN = None

    unsupported: ClassVar = {
        "max_tokens_per_doc": (4096,),  # Cohere's default, which its clients send, too
        "priority": (0,),
        "rank_fields": (),
        "relevant_spans": ({"mode": "disabled"},),
        "return_documents": (False,),
    }


class CohereReply(TypedDict):
    id: str
    results: list[ObjectRow]
    meta: Meta


class CohereError(TypedDict):
    id: str
    message: str


def parse_v1(body: bytes, headers: RequestHeaders) -> ParsedRerank:
    """Raises InvalidRequest."""
    sent = CohereV1Body.parse(body)
    return sent.parsed(sent.query, ("documents", sent.documents), headers, sent.top_n, sent.return_documents)


def parse_v2(body: bytes, headers: RequestHeaders) -> ParsedRerank:
    """Raises InvalidRequest."""
    sent = CohereV2Body.parse(body)
    return sent.parsed(sent.query, ("documents", sent.documents), headers, sent.top_n)


def reply_v1(ranking: Ranking, parsed: ParsedRerank) -> Reply:
    return cohere_reply(ranking, parsed, "1")


def reply_v2(ranking: Ranking, parsed: ParsedRerank) -> Reply:
    return cohere_reply(ranking, parsed, "2")


def cohere_reply(ranking: Ranking, parsed: ParsedRerank, version: str) -> Reply:
    content = {
        "id": ranking.request_id,
        "results": rows(ranking, parsed, "relevance_score"),
        "meta": {"api_version": {"version": version}, **meta(ranking)},
    }
    return reply_with_plan(content, ranking, parsed)


def error_json(error: RankfleetError, status: int, request_id: str) -> CohereError:
    return {"id": request_id, "message": str(error)}


V1 = Route("/cohere/v1/rerank", "Rank as Cohere v1", CohereV1Body, EXAMPLE, CohereReply, parse_v1, reply_v1)
V2 = Route("/cohere/v2/rerank", "Rank as Cohere v2", CohereV2Body, EXAMPLE, CohereReply, parse_v2, reply_v2)
COHERE = Dialect(
    name="cohere",
    base="/cohere",
    error=error_json,
    error_type=CohereError,
    statuses={413: 400, 422: 400},
    rerank=[V1, *V2.at("/v2/rerank", "/cohere/v2/rerank")],
)
