"""vLLM: /rerank, whose body has `documents`, and /score; with a version in front, below `/vllm`."""

import time
from dataclasses import replace
from http import HTTPStatus
from typing import Annotated, Any, ClassVar

from pydantic import AliasChoices, Field, WithJsonSchema
from typing_extensions import TypedDict

from rankfleet.api.dialects.dialect import Dialect, Reply, Route
from rankfleet.api.dialects.documents import Documents
from rankfleet.api.dialects.json_body import Strings
from rankfleet.api.dialects.native import QUERY
from rankfleet.api.dialects.rerank_body import DOCUMENTS, EXAMPLE, ModelBody, ParsedRerank
from rankfleet.api.dialects.rerank_reply import reply_with_plan
from rankfleet.api.dialects.scores import ObjectRow, rows
from rankfleet.api.dialects.text_fields import (
    CutSide,
    DocumentTokens,
    Instruction,
    PairTokens,
    QueryTokens,
    text_options,
)
from rankfleet.api.dialects.usage import TokenUsage, usage
from rankfleet.api.headers import RequestHeaders
from rankfleet.core.errors import InvalidRequest, RankfleetError
from rankfleet.core.messages import Ranking
from rankfleet.core.sections import UNSCORED
from rankfleet.core.text_options import TextOptions

UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "chat_template": (),
    "chat_template_kwargs": (),
    "padding": (False,),
    "priority": (0,),
    "request_id": (),
}
OneOrMore = Annotated[
    str | Strings, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
]


class VllmBody(ModelBody):
    """What vLLM's requests have in common."""

    use_activation: bool | None = Field(None, description="false returns scores as they are, in place of 0 to 1")
    user: str | None = Field(None, description="user id, for experiments that assign users to arms")
    instruction: Instruction = None
    max_tokens_per_query: QueryTokens = None
    max_tokens_per_doc: DocumentTokens = None
    truncate_prompt_tokens: PairTokens = None
    truncation_side: CutSide = None

    @property
    def options(self) -> TextOptions:
        return text_options(
            instruction=self.instruction,
            query_tokens=self.max_tokens_per_query,
            document_tokens=self.max_tokens_per_doc,
            pair_tokens=self.truncate_prompt_tokens,
            cut_side=self.truncation_side,
        )


class VllmRerankBody(VllmBody):
    """The body of vLLM's /rerank."""

    query: str
    documents: Documents
    top_n: int | None = Field(None, ge=0, description="number of results to return; all if 0 or left out")
    return_documents: bool | None = Field(None, description="false leaves the documents out of the results")

    unsupported: ClassVar = {**UNSUPPORTED, "rank_fields": (["text"],)}


class VllmScoreBody(VllmBody):
    """The body of vLLM's /score."""

    text_1: OneOrMore = Field(
        validation_alias=AliasChoices("text_1", "queries", "data_1"),
        description="the query, or one for each document; `queries` and `data_1` are other names for it",
    )
    text_2: OneOrMore = Field(
        validation_alias=AliasChoices("text_2", "documents", "items", "data_2"),
        description="the documents; `documents`, `items` and `data_2` are other names for it",
    )

    unsupported: ClassVar = UNSUPPORTED


class VllmRerankReply(TypedDict):
    id: str
    model: str
    usage: TokenUsage
    results: list[ObjectRow]


class VllmScore(TypedDict):
    index: int
    object: str
    score: float


class VllmScoreReply(TypedDict):
    id: str
    object: str
    created: int
    model: str
    data: list[VllmScore]
    usage: TokenUsage


class OpenAiError(TypedDict):
    message: str
    type: str
    param: str | None
    code: int


class VllmError(TypedDict):
    error: OpenAiError


def parse_rerank(body: bytes, headers: RequestHeaders) -> ParsedRerank:
    """Raises InvalidRequest."""
    sent = VllmRerankBody.parse(body)
    return sent.parsed(
        sent.query,
        ("documents", sent.documents),
        headers,
        sent.top_n or None,
        returned=sent.return_documents is not False,
        raw_scores=sent.use_activation is False,
        options=sent.options,
        user=sent.user,
    )


def parse_score(body: bytes, headers: RequestHeaders) -> ParsedRerank:
    """One query for all documents, or one for each. Raises InvalidRequest."""
    sent = VllmScoreBody.parse(body)
    queries, documents = ([texts] if isinstance(texts, str) else texts for texts in (sent.text_1, sent.text_2))
    if not queries or (len(queries) > 1 and len(queries) != len(documents)):
        counts = f"{len(queries)} queries for {len(documents)} documents"
        raise InvalidRequest(f"request body: text_1: {counts}; send one query for all of them, or one for each")
    parsed = sent.parsed(
        queries[0],
        ("text_2", documents),
        headers,
        None,
        raw_scores=sent.use_activation is False,
        options=sent.options,
        user=sent.user,
        candidates="unordered",  # pairs of their own, and not what a retriever has found
    )
    if len(queries) > 1:
        parsed.request = replace(parsed.request, queries=tuple(queries), counts=(1,) * len(queries))
    return parsed


def reply_to_rerank(ranking: Ranking, parsed: ParsedRerank) -> Reply:
    content = {
        "id": ranking.request_id,
        "model": ranking.plan.tier or UNSCORED,
        "usage": usage(ranking),
        "results": rows(ranking, parsed, "relevance_score"),
    }
    return reply_with_plan(content, ranking)


def reply_to_score(ranking: Ranking, parsed: ParsedRerank) -> Reply:
    """Scores in the order in which the documents came."""
    scores = sorted(rows(ranking, parsed, "score"), key=lambda row: int(row["index"]))
    content = {
        "id": ranking.request_id,
        "object": "list",
        "created": int(time.time()),
        "model": ranking.plan.tier or UNSCORED,
        "data": [{**row, "object": "score"} for row in scores],
        "usage": usage(ranking),
    }
    return reply_with_plan(content, ranking)


def openai_error(error: RankfleetError, status: int, request_id: str) -> OpenAiError:
    """As OpenAI's servers describe errors; the type is the name of the status: BadRequestError, NotFoundError."""
    name = HTTPStatus(status).phrase.replace(" ", "")
    kind = name if name.endswith("Error") else f"{name}Error"
    return {"message": str(error), "type": kind, "param": None, "code": status}


def error_json(error: RankfleetError, status: int, request_id: str) -> VllmError:
    return {"error": openai_error(error, status, request_id)}


RERANK = Route("/vllm/rerank", "Rank as vLLM", VllmRerankBody, EXAMPLE, VllmRerankReply, parse_rerank, reply_to_rerank)
SCORE = Route(
    "/vllm/score",
    "Score as vLLM",
    VllmScoreBody,
    {"text_1": QUERY, "text_2": DOCUMENTS},
    VllmScoreReply,
    parse_score,
    reply_to_score,
)
VLLM = Dialect(
    name="vllm",
    base="/vllm",
    error=error_json,
    error_type=VllmError,
    statuses={413: 400, 422: 400},
    rerank=[
        *RERANK.also_at("/vllm/v1/rerank", "/vllm/v2/rerank"),
        *SCORE.also_at("/score", "/v1/score", "/vllm/v1/score"),
    ],
)
