"""Voyage's rerank, below `/voyage`."""

from pydantic import Field
from typing_extensions import TypedDict

from rankfleet.api.dialects.dialect import Dialect, Reply, Route
from rankfleet.api.dialects.jina import DetailError, error_json
from rankfleet.api.dialects.rerank_body import EXAMPLE, ModelBody, ParsedRerank, Texts, TopN
from rankfleet.api.dialects.rerank_reply import reply_with_plan
from rankfleet.api.dialects.scores import TextRow, rows
from rankfleet.api.dialects.text_fields import text_options
from rankfleet.api.dialects.usage import TokenUsage, usage
from rankfleet.api.headers import RequestHeaders
from rankfleet.core.messages import Ranking
from rankfleet.core.sections import UNSCORED


class VoyageBody(ModelBody):
    query: str
    documents: Texts
    top_k: TopN = None
    return_documents: bool | None = Field(None, description="whether results contain their documents; false if null")
    truncation: bool | None = Field(
        None, description="false refuses texts that would have to be cut; they are cut if null"
    )


class VoyageReply(TypedDict):
    object: str
    data: list[TextRow]
    model: str
    usage: TokenUsage


def parse(body: bytes, headers: RequestHeaders) -> ParsedRerank:
    """Raises InvalidRequest."""
    sent = VoyageBody.parse(body)
    documents = ("documents", sent.documents)
    options = text_options(may_cut=sent.truncation)
    return sent.parsed(sent.query, documents, headers, sent.top_k, sent.return_documents, options=options)


def reply(ranking: Ranking, parsed: ParsedRerank) -> Reply:
    content = {
        "object": "list",
        "data": rows(ranking, parsed, "relevance_score", as_text=True),
        "model": ranking.plan.tier or UNSCORED,
        "usage": usage(ranking),
    }
    return reply_with_plan(content, ranking)


RERANK = Route("/voyage/v1/rerank", "Rank as Voyage", VoyageBody, EXAMPLE, VoyageReply, parse, reply)
VOYAGE = Dialect(
    name="voyage",
    base="/voyage",
    error=error_json,
    error_type=DetailError,
    statuses={413: 400, 422: 400},
    rerank=RERANK.also_at("/voyage/rerank"),
)
