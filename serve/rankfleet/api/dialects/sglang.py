"""SGLang's rerank, below `/sglang`: a bare list."""

from typing import NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from rankfleet.api.dialects.dialect import Dialect, Reply, Route
from rankfleet.api.dialects.rerank_body import EXAMPLE, ModelBody, ParsedRerank, Texts, TopN
from rankfleet.api.dialects.rerank_reply import reply_with_plan
from rankfleet.api.dialects.scores import rows
from rankfleet.api.dialects.text_fields import Instruction, text_options
from rankfleet.api.dialects.vllm import OpenAiError, openai_error
from rankfleet.api.headers import RequestHeaders
from rankfleet.core.errors import RankfleetError
from rankfleet.core.messages import Ranking


class SglangBody(ModelBody):
    query: str
    documents: Texts
    top_n: TopN = None
    return_documents: bool | None = Field(None, description="whether results contain their documents; true if null")
    instruct: Instruction = None


class SglangMeta(TypedDict):
    id: str


class SglangResult(TypedDict):
    index: int
    score: float
    document: NotRequired[str]
    meta_info: SglangMeta


class SglangError(OpenAiError):
    object: str


def parse(body: bytes, headers: RequestHeaders) -> ParsedRerank:
    """Raises InvalidRequest."""
    sent = SglangBody.parse(body)
    returned = sent.return_documents is not False
    documents, options = ("documents", sent.documents), text_options(instruction=sent.instruct)
    return sent.parsed(sent.query, documents, headers, sent.top_n, returned, options=options)


def reply(ranking: Ranking, parsed: ParsedRerank) -> Reply:
    results = rows(ranking, parsed, "score", as_text=True)
    return reply_with_plan([{**row, "meta_info": {"id": ranking.request_id}} for row in results], ranking)


def error_json(error: RankfleetError, status: int, request_id: str) -> SglangError:
    return {"object": "error", **openai_error(error, status, request_id)}


RERANK = Route("/sglang/v1/rerank", "Rank as SGLang", SglangBody, EXAMPLE, list[SglangResult], parse, reply)
SGLANG = Dialect(
    name="sglang",
    base="/sglang",
    error=error_json,
    error_type=SglangError,
    statuses={413: 400, 422: 400},
    rerank=[RERANK],
)
