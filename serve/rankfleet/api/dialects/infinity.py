"""infinity's rerank, below `/infinity`."""

import time

from pydantic import Field
from typing_extensions import TypedDict

from rankfleet.api.dialects.dialect import Dialect, Reply, Route
from rankfleet.api.dialects.rerank_body import EXAMPLE, ModelBody, ParsedRerank, Texts, TopN
from rankfleet.api.dialects.rerank_reply import reply_with_plan
from rankfleet.api.dialects.scores import TextRow, rows
from rankfleet.api.dialects.usage import TokenUsage, usage
from rankfleet.api.dialects.vllm import VllmError, error_json
from rankfleet.api.headers import RequestHeaders
from rankfleet.core.messages import Ranking
from rankfleet.core.sections import UNSCORED


class InfinityBody(ModelBody):
    query: str
    documents: Texts
    top_n: TopN = None
    return_documents: bool | None = Field(None, description="whether results contain their documents; false if null")
    raw_scores: bool | None = Field(None, description="scores as they are, in place of 0 to 1")


class InfinityReply(TypedDict):
    object: str
    results: list[TextRow]
    model: str
    usage: TokenUsage
    id: str
    created: int


def parse(body: bytes, headers: RequestHeaders) -> ParsedRerank:
    """Raises InvalidRequest."""
    sent = InfinityBody.parse(body)
    documents, returned = ("documents", sent.documents), sent.return_documents
    return sent.parsed(sent.query, documents, headers, sent.top_n, returned, raw_scores=sent.raw_scores)


def reply(ranking: Ranking, parsed: ParsedRerank) -> Reply:
    content = {
        "object": "rerank",
        "results": rows(ranking, parsed, "relevance_score", as_text=True),
        "model": ranking.plan.tier or UNSCORED,
        "usage": usage(ranking),
        "id": ranking.request_id,
        "created": int(time.time()),
    }
    return reply_with_plan(content, ranking)


RERANK = Route("/infinity/rerank", "Rank as infinity", InfinityBody, EXAMPLE, InfinityReply, parse, reply)
INFINITY = Dialect(
    name="infinity",
    base="/infinity",
    error=error_json,
    error_type=VllmError,
    rerank=RERANK.also_at("/infinity/v1/rerank"),
)
