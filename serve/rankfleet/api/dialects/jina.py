"""Jina's rerank, below `/jina`."""

from typing import ClassVar

from pydantic import Field
from typing_extensions import TypedDict

from rankfleet.api.dialects.dialect import Dialect, Reply, Route
from rankfleet.api.dialects.native_queries import Documents
from rankfleet.api.dialects.rerank_body import EXAMPLE, ModelBody, ParsedRerank, TopN
from rankfleet.api.dialects.rerank_reply import reply_with_plan
from rankfleet.api.dialects.scores import ObjectRow, rows
from rankfleet.api.dialects.usage import TokenUsage, usage
from rankfleet.api.headers import RequestHeaders
from rankfleet.core.errors import RankfleetError
from rankfleet.core.messages import Ranking
from rankfleet.core.sections import UNSCORED


class JinaBody(ModelBody):
    query: str
    documents: Documents
    top_n: TopN = None
    return_documents: bool | None = Field(None, description="whether results contain their documents; true if null")

    unsupported: ClassVar = {"max_doc_length": (), "return_embeddings": (False,), "truncation": (True,)}


class JinaReply(TypedDict):
    model: str
    object: str
    usage: TokenUsage
    results: list[ObjectRow]


class DetailError(TypedDict):
    detail: str


def parse(body: bytes, headers: RequestHeaders) -> ParsedRerank:
    """Raises InvalidRequest."""
    sent = JinaBody.parse(body)
    returned = sent.return_documents is not False
    return sent.parsed(sent.query, ("documents", sent.documents), headers, sent.top_n, returned)


def reply(ranking: Ranking, parsed: ParsedRerank) -> Reply:
    content = {
        "model": ranking.plan.tier or UNSCORED,
        "object": "list",
        "usage": usage(ranking),
        "results": rows(ranking, parsed, "relevance_score"),
    }
    return reply_with_plan(content, ranking, parsed)


def error_json(error: RankfleetError, status: int, request_id: str) -> DetailError:
    return {"detail": str(error)}


RERANK = Route("/jina/v1/rerank", "Rank as Jina", JinaBody, EXAMPLE, JinaReply, parse, reply)
JINA = Dialect(
    name="jina",
    base="/jina",
    error=error_json,
    error_type=DetailError,
    rerank=RERANK.also_at("/jina/rerank"),
)
