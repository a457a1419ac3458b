"""Rankfleet's own wire format: /v1/rerank, /v1/plan and /v1/search, and /v1/feedback (`native_feedback.py`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from rankfleet.api.dialects.dialect import Dialect, ParsedRequest, ParsedSearch, Reply, Route, SearchOutcome
from rankfleet.api.dialects.documents import RankFields, StructuredDocumentLists, texts_of
from rankfleet.api.dialects.json_body import JsonBody, Numbers, Strings
from rankfleet.api.dialects.native_feedback import FEEDBACK
from rankfleet.api.dialects.native_plan import PlanReply, plan_json
from rankfleet.api.dialects.native_queries import AskedFor
from rankfleet.api.dialects.native_replies import (
    ErrorReply,
    RerankReply,
    SearchReply,
    nothing_found_json,
    ranking_json,
    server_timing,
)
from rankfleet.api.dialects.spans import RelevantSpans, SpansAskedFor, spans_wanted
from rankfleet.api.dialects.text_fields import (
    CutSide,
    DocumentTokens,
    Instruction,
    PairTokens,
    QueryTokens,
    text_options,
)
from rankfleet.api.headers import RequestHeaders
from rankfleet.core.decisions import Decision
from rankfleet.core.errors import InvalidRequest, RankfleetError
from rankfleet.core.messages import Ranking, RerankRequest
from rankfleet.core.passages import LongDocuments
from rankfleet.core.sections import MAX_SLO_MS, MIN_SLO_MS, CandidateOrder, SloMs

DEFAULT_SEARCH_RESULTS = 10
TWICE = "scores are given beside the documents and in them; leave one of them out"
IN_DOCUMENTS = 'scores: where each query has its own documents, send {"text": …, "score": …} in place of each of them'


BUDGET = {"anyOf": [{"type": "number", "minimum": MIN_SLO_MS, "maximum": MAX_SLO_MS}, {"type": "null"}]}


class NativeBody(JsonBody):
    """The fields of every native request."""

    query: str | None = Field(None, description="the text that documents are ranked for")
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
    relevant_spans: RelevantSpans = None
    user: str | None = Field(None, description="user id, for experiments that assign users to arms")
    session: str | None = Field(None, description="session id, for experiments that assign sessions to arms")
    instruction: Instruction = None
    max_tokens_per_query: QueryTokens = None
    max_tokens_per_doc: DocumentTokens = None
    truncate_prompt_tokens: PairTokens = None
    truncation_side: CutSide = None
    truncation: bool | None = Field(
        None, description="false refuses texts that would have to be cut, in place of cutting them"
    )
    score_threshold: float | None = Field(
        None, ge=0, le=1, description="leaves out results with a lower `relevance_score`"
    )

    def request(
        self, query: str, documents: list[str], headers: RequestHeaders, top_n: int | None, **more: Any
    ) -> RerankRequest:
        """more: fields of `RerankRequest` that not every native request has."""
        return RerankRequest(
            query=query,
            documents=documents,
            top_n=top_n,
            model=self.model,
            slo_ms=self.slo_ms if self.slo_ms is not None else headers.slo_ms,
            slo_class=self.slo_class or headers.slo_class,
            min_quality=self.min_quality or 0.0,
            tenant=headers.tenant,
            user=self.user or headers.user,
            session=self.session or headers.session,
            headers=headers.units,
            request_id=headers.request_id,
            **spans_wanted(self.relevant_spans, self.long_documents),
            options=text_options(
                instruction=self.instruction,
                query_tokens=self.max_tokens_per_query,
                document_tokens=self.max_tokens_per_doc,
                pair_tokens=self.truncate_prompt_tokens,
                cut_side=self.truncation_side,
                may_cut=self.truncation,
            ),
            **more,
        )


class RerankBody(NativeBody):
    """The body of /v1/rerank and /v1/plan."""

    queries: Strings | None = Field(
        None, description="several queries in place of `query`: planned together, and answered together or not at all"
    )
    documents: StructuredDocumentLists = Field(
        description="strings, or objects with their text under `text` (or in other fields: see `rank_fields`), and the "
        "retriever's score under `score` if known; with `queries`, one list for all of them, or a list of such lists, "
        "one for each"
    )
    rank_fields: RankFields = None
    candidates: CandidateOrder | None = Field(
        None,
        description="`ranked` if the documents are in their retriever's order, which then counts beside the tier's "
        "scores; `unordered` if their order says nothing; the fleet's default if left out",
    )
    scores: Numbers | None = Field(
        None,
        description="the retriever's scores, higher is better, one for each document, in place of `score` in each; the "
        "documents may then be in any order",
    )


class SearchBody(NativeBody):
    """The body of /v1/search."""

    query: str = Field(description="the text that documents are ranked for")
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
    """documents: of several queries, one query's after the other's; or once, where all queries have the same.
    min_score: of a result, from 0 to 1."""

    min_score: float
    spans: SpansAskedFor | None

    @property
    def copies(self) -> int:
        shared = self.documents is not None and not self.request.counts
        return max(1, len(self.request.queries)) if shared else 1


@dataclass(slots=True)
class NativeSearch(ParsedSearch):
    return_documents: bool
    min_score: float
    spans: SpansAskedFor | None


def parse_rerank(body: bytes, headers: RequestHeaders) -> NativeRerank:
    """Raises InvalidRequest."""
    parsed = RerankBody.parse(body)
    asked = AskedFor.of(parsed.query, parsed.queries, parsed.documents)
    texts = texts_of(asked.documents, "documents", parsed.rank_fields, asked.places)
    scores = None if texts is asked.documents else scores_in(asked.places, asked.documents)
    if parsed.scores is not None:
        if scores is not None or asked.counts:
            raise InvalidRequest(f"request body: {TWICE if scores is not None else IN_DOCUMENTS}")
        scores = parsed.scores
    candidates = parsed.candidates
    if candidates is None and scores is None and asked.shared:
        candidates = "unordered"  # one order is not what a retriever has found for each query
    more: dict[str, Any] = {"queries": asked.queries, "counts": asked.counts}
    request = parsed.request(asked.query, texts, headers, parsed.top_n, candidates=candidates, scores=scores, **more)
    returned = asked.documents if parsed.return_documents else None
    return NativeRerank(request, returned, parsed.score_threshold or 0.0, parsed.relevant_spans)


def parse_search(body: bytes, headers: RequestHeaders) -> NativeSearch:
    """Raises InvalidRequest."""
    parsed = SearchBody.parse(body)
    request = parsed.request(parsed.query, [], headers, parsed.top_n or DEFAULT_SEARCH_RESULTS)
    returned, min_score = parsed.return_documents is not False, parsed.score_threshold or 0.0
    return NativeSearch(request, None, parsed.top_k, returned, min_score, parsed.relevant_spans)


def scores_in(places: Sequence[int | str], documents: list[Any]) -> list[float] | None:
    """The scores that documents bring with them; None if none does. places: of each in the body. Raises InvalidRequest
    if only some do, or if one is not a number."""
    scores: list[Any] = [document.get("score") if isinstance(document, dict) else None for document in documents]
    if not any(score is not None for score in scores):
        return None
    for i, score in zip(places, scores, strict=True):
        if score is None:
            raise InvalidRequest(f"request body: documents.{i}: has no score, but others have; give all one, or none")
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise InvalidRequest(f"request body: documents.{i}.score: must be a number")
    return [*map(float, scores)]


def reply_to_rerank(ranking: Ranking, parsed: NativeRerank) -> Reply:
    return Reply(
        ranking_json(ranking, parsed.documents, parsed.min_score, parsed.spans),
        {"Server-Timing": server_timing(ranking.timing)},
    )


def reply_to_plan(decision: Decision, parsed: NativeRerank) -> Reply:
    return Reply(plan_json(decision))


def reply_to_search(found: SearchOutcome, parsed: NativeSearch) -> Reply:
    headers = {"Server-Timing": server_timing(found.timing)}
    ranking = found.ranking
    if ranking is None:
        return Reply(nothing_found_json(parsed.request.request_id, found.timing), headers)
    returned = ranking.texts if parsed.return_documents else None
    content = ranking_json(ranking, returned, parsed.min_score, parsed.spans)
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
    feedback=[FEEDBACK],
)
