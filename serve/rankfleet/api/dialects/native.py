"""Rankfleet's own wire format: /v1/rerank, /v1/plan and /v1/search."""

import math
import sys
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from rankfleet.api.dialects.dialect import Dialect, ParsedRequest, ParsedSearch, Reply, Route, SearchOutcome
from rankfleet.api.dialects.json_body import JsonBody
from rankfleet.api.dialects.native_replies import (
    Document,
    ErrorReply,
    PlanReply,
    RerankReply,
    SearchReply,
    nothing_found_json,
    plan_json,
    ranking_json,
    server_timing,
)
from rankfleet.api.headers import RequestHeaders
from rankfleet.core.errors import InvalidRequest, RankfleetError
from rankfleet.core.messages import Decision, Ranking, RerankRequest
from rankfleet.core.passages import LongDocuments
from rankfleet.core.sections import MAX_SLO_MS, MIN_SLO_MS, CandidateOrder, SloMs

DEFAULT_SEARCH_RESULTS = 10


Documents = Annotated[
    list[Any],  # `text_of` checks them: pydantic would name each of the two types in an error of its own
    WithJsonSchema(
        {
            "type": "array",
            "minItems": 1,
            "items": {
                "anyOf": [
                    {"type": "string"},
                    {
                        "type": "object",
                        "properties": {"text": {"type": "string"}, "score": {"type": ["number", "null"]}},
                        "required": ["text"],
                    },
                ]
            },
        }
    ),
]
BUDGET = {"anyOf": [{"type": "number", "minimum": MIN_SLO_MS, "maximum": MAX_SLO_MS}, {"type": "null"}]}


class NativeBody(JsonBody):
    """The fields of every native request."""

    query: str = Field(description="the text that documents are ranked for")
    model: str | None = Field(None, description="a tier, `auto`, or an SLO class; the fleet's default if left out")
    top_n: int | None = Field(None, ge=1, description="number of results to return; all if left out")
    return_documents: bool | None = Field(None, description="whether results contain their documents, as sent")
    slo_ms: Annotated[SloMs | None, WithJsonSchema(BUDGET)] = Field(
        None, description="latency budget in milliseconds, from arrival at the router; else the SLO class's"
    )
    slo_class: str | None = Field(None, description="an SLO class of the fleet; `slo_ms` takes precedence over its own")
    min_quality: float | None = Field(
        None, ge=0, le=1, description="lowest acceptable quality (nDCG@10): the request is refused rather than go below"
    )
    long_documents: LongDocuments | None = Field(
        None,
        description="`truncate` scores the beginning of a long document, `max_passage` its best passage; "
        "the fleet's default if left out",
    )
    user: str | None = Field(None, description="user id, for experiments that assign users to arms")
    session: str | None = Field(None, description="session id, for experiments that assign sessions to arms")

    def request(self, documents: list[str], headers: RequestHeaders, top_n: int | None, **more: Any) -> RerankRequest:
        """more: fields of `RerankRequest` that not every native request has."""
        return RerankRequest(
            query=self.query,
            documents=documents,
            top_n=top_n,
            model=self.model,
            slo_ms=self.slo_ms if self.slo_ms is not None else headers.slo_ms,
            slo_class=self.slo_class or headers.slo_class,
            min_quality=self.min_quality or 0.0,
            tenant=headers.tenant,
            user=self.user,
            session=self.session,
            long_documents=self.long_documents,
            request_id=headers.request_id,
            **more,
        )


class RerankBody(NativeBody):
    """The body of /v1/rerank and /v1/plan."""

    documents: Documents = Field(
        description="strings, or objects with their text under `text`, and the retriever's score under `score` if known"
    )
    candidates: CandidateOrder | None = Field(
        None,
        description="`ranked` if the documents are in their retriever's order, which then counts beside the tier's "
        "scores; `unordered` if their order says nothing; the fleet's default if left out",
    )
    scores: list[float] | None = Field(
        None,
        description="the retriever's scores, higher is better, one for each document, in place of `score` in each; the "
        "documents may then be in any order",
    )


class SearchBody(NativeBody):
    """The body of /v1/search."""

    top_n: int | None = Field(
        None, ge=1, description=f"number of results to return; {DEFAULT_SEARCH_RESULTS} if left out"
    )
    top_k: int | None = Field(
        None, ge=1, description="number of documents to retrieve and rerank; the fleet's default if left out"
    )
    return_documents: bool | None = Field(
        None, description="false leaves the texts of the documents out of the results"
    )


@dataclass(slots=True)
class NativeRerank(ParsedRequest):
    """documents: as sent, where the results are to contain them."""

    documents: list[Document] | None


@dataclass(slots=True)
class NativeSearch(ParsedSearch):
    return_documents: bool


def parse_rerank(body: bytes, headers: RequestHeaders) -> NativeRerank:
    """Raises InvalidRequest."""
    parsed = RerankBody.parse(body)
    texts_only = {*map(type, parsed.documents)} <= {str}
    texts = parsed.documents if texts_only else [text_of(i, sent) for i, sent in enumerate(parsed.documents)]
    in_documents = None if texts_only else scores_in(parsed.documents)
    if in_documents is not None and parsed.scores is not None:
        raise InvalidRequest("request body: scores are given beside the documents and in them; leave one of them out")
    scores = in_documents or parsed.scores
    request = parsed.request(texts, headers, parsed.top_n, candidates=parsed.candidates, scores=scores)
    return NativeRerank(request, texts_only, parsed.documents if parsed.return_documents else None)


def parse_search(body: bytes, headers: RequestHeaders) -> NativeSearch:
    """Raises InvalidRequest."""
    parsed = SearchBody.parse(body)
    request = parsed.request([], headers, parsed.top_n or DEFAULT_SEARCH_RESULTS)
    return NativeSearch(request, False, parsed.top_k, parsed.return_documents is not False)


def text_of(index: int, document: Any, name: str = "documents") -> str:
    """Raises InvalidRequest where there is no text, or the document could not be returned as it was sent."""
    text = document.get("text") if isinstance(document, dict) else document
    if not isinstance(text, str):
        raise InvalidRequest(f'request body: {name}.{index}: must be a string or {{"text": string}}')
    if not has_finite_numbers(document):
        raise InvalidRequest(f"request body: {name}.{index}: NaN and infinity are not JSON; send null")
    return text


def scores_in(documents: list[Any]) -> list[float] | None:
    """The scores that documents bring with them; None if none does. Raises InvalidRequest if only some do, or if one is
    not a number."""
    scores: list[Any] = [document.get("score") if isinstance(document, dict) else None for document in documents]
    if not any(score is not None for score in scores):
        return None
    for i, score in enumerate(scores):
        if score is None:
            raise InvalidRequest(f"request body: documents.{i}: has no score, but others have; give all one, or none")
        if isinstance(score, bool) or not isinstance(score, int | float) or abs(score) > sys.float_info.max:
            raise InvalidRequest(f"request body: documents.{i}.score: must be a finite number")
    return [*map(float, scores)]


def has_finite_numbers(value: Any) -> bool:
    """Whether all numbers inside a JSON value are finite."""
    if isinstance(value, dict):
        return all(map(has_finite_numbers, value.values()))
    if isinstance(value, list):
        return all(map(has_finite_numbers, value))
    return not isinstance(value, float) or math.isfinite(value)


def reply_to_rerank(ranking: Ranking, parsed: NativeRerank) -> Reply:
    return Reply(ranking_json(ranking, parsed.documents), {"Server-Timing": server_timing(ranking.timing)})


def reply_to_plan(decision: Decision, parsed: NativeRerank) -> Reply:
    return Reply(plan_json(decision))


def reply_to_search(found: SearchOutcome, parsed: NativeSearch) -> Reply:
    headers = {"Server-Timing": server_timing(found.timing)}
    ranking = found.ranking
    if ranking is None:
        return Reply(nothing_found_json(parsed.request.request_id, found.timing), headers)
    content = ranking_json(ranking, ranking.texts if parsed.return_documents else None)
    for result in content["results"]:  # named by id and retrieval rank in place of the index
        place = result.pop("index")
        hit = found.hits[place]
        result |= {"id": hit.id, "retrieval": {"rank": place + 1, "score": round(hit.score, 4)}}
    content["rankfleet"]["truncated"] = [found.hits[i].id for i in ranking.truncated]
    return Reply(content, headers)


def error_json(error: RankfleetError, status: int, request_id: str) -> dict[str, Any]:
    return {"error": {"code": error.code, "message": str(error), "request_id": request_id}}


QUERY = "How do vaccines protect against disease?"
EXAMPLE = {
    "query": QUERY,
    "documents": [
        "The stock market closed higher on Friday after strong earnings.",
        "A vaccine trains the immune system to recognise a germ, so that it can fight the disease later.",
    ],
    "slo_ms": 200,
}
NATIVE = Dialect(
    name="native",
    error=error_json,
    error_type=ErrorReply,
    rerank=[
        Route(
            "/v1/rerank",
            "Rank documents for a query",
            RerankBody,
            EXAMPLE,
            RerankReply,
            parse_rerank,
            reply_to_rerank,
        )
    ],
    plan=[
        Route(
            "/v1/plan",
            "Show the plan for a request, and why, without scoring",
            RerankBody,
            EXAMPLE,
            PlanReply,
            parse_rerank,
            reply_to_plan,
        )
    ],
    search=[
        Route(
            "/v1/search",
            "Retrieve documents from the index and rank them",
            SearchBody,
            {"query": QUERY, "top_n": 3, "slo_ms": 200},
            SearchReply,
            parse_search,
            reply_to_search,
        )
    ],
)
