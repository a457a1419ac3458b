"""Jina's rerank, below `/jina`."""

from typing import ClassVar

from pydantic import Field
from typing_extensions import TypedDict

from rankfleet.api.dialects.dialect import Dialect, Reply, Route
from rankfleet.api.dialects.documents import Documents, check_media
from rankfleet.api.dialects.rerank_body import EXAMPLE, ModelBody, ParsedRerank, TopN
from rankfleet.api.dialects.rerank_reply import reply_with_plan
from rankfleet.api.dialects.scores import ObjectRow, rows
from rankfleet.api.dialects.text_fields import DocumentTokens, text_options
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
    truncation: bool | None = Field(
        None, description="false refuses texts that would have to be cut; they are cut if null"
    )
    max_doc_length: DocumentTokens = None

    unsupported: ClassVar = {"return_embeddings": (False,)}


class JinaReply(TypedDict):
    model: str
    object: str
    usage: TokenUsage
    results: list[ObjectRow]


class DetailError(TypedDict):
    detail: str


def parse(body: bytes, headers: RequestHeaders) -> ParsedRerank:
    """Raises InvalidRequest, also for an image beside a text: the document is both."""
    sent = JinaBody.parse(body)
    for i, document in enumerate(sent.documents):
        check_media(i, document, "documents")
    documents, returned = ("documents", sent.documents), sent.return_documents is not False
    options = text_options(document_tokens=sent.max_doc_length, may_cut=sent.truncation)
    return sent.parsed(sent.query, documents, headers, sent.top_n, returned, options=options)


def reply(ranking: Ranking, parsed: ParsedRerank) -> Reply:
    content = {
        "model": ranking.plan.tier or UNSCORED,
        "object": "list",
        "usage": usage(ranking),
        "results": rows(ranking, parsed, "relevance_score"),
    }
    return reply_with_plan(content, ranking)


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
