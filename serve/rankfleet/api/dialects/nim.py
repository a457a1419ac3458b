"""NVIDIA's reranking NIM: /v1/ranking."""

from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema
from typing_extensions import TypedDict

from rankfleet.api.dialects.dialect import Dialect, Reply, Route
from rankfleet.api.dialects.native import QUERY
from rankfleet.api.dialects.rerank_body import DOCUMENTS, ModelBody, ParsedRerank, TopN
from rankfleet.api.dialects.rerank_reply import reply_with_plan
from rankfleet.api.dialects.scores import rows
from rankfleet.api.dialects.text_fields import text_options
from rankfleet.api.dialects.usage import TokenUsage, usage
from rankfleet.api.headers import RequestHeaders
from rankfleet.core.errors import InvalidRequest, RankfleetError, quote
from rankfleet.core.messages import Ranking

TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
ERROR_TYPES = {404: "not_found_error", 429: "rate_limit_error"}


class NimBody(ModelBody):
    query: Annotated[Any, WithJsonSchema(TEXT)]
    passages: Annotated[list[Any], WithJsonSchema({"type": "array", "minItems": 1, "items": TEXT})]
    truncate: Literal["NONE", "END"] | None = Field(
        None, description="`END` cuts texts that are too long at their end; they are refused if it is not given"
    )
    top_k: TopN = None


class NimRanking(TypedDict):
    index: int
    logit: float


class NimReply(TypedDict):
    rankings: list[NimRanking]
    usage: TokenUsage


class NimError(TypedDict):
    object: str
    message: str
    detail: dict[str, str]
    type: str


def parse(body: bytes, headers: RequestHeaders) -> ParsedRerank:
    """Raises InvalidRequest."""
    sent = NimBody.parse(body)
    query = text_alone("query", sent.query)
    passages = [text_alone(f"passages.{i}", passage) for i, passage in enumerate(sent.passages)]
    documents, options = ("passages", passages), text_options(may_cut=sent.truncate == "END")
    return sent.parsed(query, documents, headers, sent.top_k, raw_scores=True, options=options)


def text_alone(name: str, value: Any) -> str:
    """The text. Raises InvalidRequest unless the value is an object with a text and nothing else, such as an image."""
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        raise InvalidRequest(f'request body: {name}: must be {{"text": string}}')
    for key, other in value.items():
        if key != "text" and other is not None:
            raise InvalidRequest(f"request body: {name}: {quote(key)} is not supported yet; send text alone")
    return str(value["text"])


def reply(ranking: Ranking, parsed: ParsedRerank) -> Reply:
    return reply_with_plan({"rankings": rows(ranking, parsed, "logit"), "usage": usage(ranking)}, ranking)


def error_json(error: RankfleetError, status: int, request_id: str) -> NimError:
    kind = ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "internal_server_error")
    return {"object": "error", "message": str(error), "detail": {"request_id": request_id}, "type": kind}


EXAMPLE = {"query": {"text": QUERY}, "passages": [{"text": text} for text in DOCUMENTS]}
RANKING = Route("/v1/ranking", "Rank as a NVIDIA NIM", NimBody, EXAMPLE, NimReply, parse, reply)
NIM = Dialect(
    name="nim",
    base="/nim",
    error=error_json,
    error_type=NimError,
    statuses={413: 400, 422: 400},
    rerank=RANKING.also_at("/nim/v1/ranking"),
)
