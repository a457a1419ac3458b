"""POST /v1/search: retrieve, then rerank, within one budget."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from pydantic import Field

from rankfleet.api.bodies import Body, ranking_reply, server_timing
from rankfleet.api.bytes_in_flight import text_bytes
from rankfleet.api.http import RequestHeaders, hold_of, json_response, read_body, request_headers
from rankfleet.api.replies import RANKING_ERRORS, SearchReply
from rankfleet.core.errors import NotConfigured, TooLarge
from rankfleet.core.messages import Ranking, RerankRequest
from rankfleet.core.sections import UNSCORED
from rankfleet.retrieval.bm25 import Hit
from rankfleet.router.limits import check_query
from rankfleet.router.service import RankingService


class Retriever(Protocol):
    """The first stage."""

    def search(self, query: str, k: int) -> list[Hit]: ...


class SearchBody(Body):
    """POST /v1/search."""

    top_k: int | None = Field(None, ge=1, description="candidates to rerank; the fleet's own number by default")

    def to_request(self, documents: list[str], headers: RequestHeaders) -> RerankRequest:
        """The second stage, over the documents that the first has found."""
        return self.request(documents, headers, self.top_n or 10)


def add_search(
    api: FastAPI,
    service: RankingService,
    retriever: Retriever | None,
    count_answer: Callable[[Ranking], None],
    read_timeout_s: float,
) -> None:
    """Add the route. Without a retriever it answers 404 and says how to get one."""

    async def search(request: Request) -> Response:
        arrived_s = service.clock()
        settings = service.config.search
        if retriever is None or settings is None:
            raise NotConfigured(
                "this fleet has no index: build one with `rankfleet index build` and name it under `search:`"
            )
        headers, limits = request_headers(request, SearchBody.model_fields), service.config.limits
        body = SearchBody.parse(await read_body(request, limits.max_body_bytes, read_timeout_s))
        check_query(body.query, limits)
        top_k = body.top_k or min(settings.top_k, limits.max_documents)
        if top_k > limits.max_documents:
            raise TooLarge(f"top_k {top_k} is more than the {limits.max_documents} documents allowed")
        hits = await asyncio.get_running_loop().run_in_executor(None, retriever.search, body.query, top_k)
        retrieve_ms = (service.clock() - arrived_s) * 1e3
        if not hits:
            service.check(body.to_request([], headers))
            return json_response(
                nothing_found(headers.request_id, retrieve_ms),
                headers={"Server-Timing": f"retrieve;dur={retrieve_ms:.2f}"},
            )
        # The client did not choose these documents: one that is too long is cut, not refused.
        documents = [clip(hit.text, limits.max_document_bytes) for hit in hits]
        hold_of(request).resize(text_bytes(documents))
        ranking = await service.rank(body.to_request(documents, headers), arrived_s)
        count_answer(ranking)
        reply = ranking_reply(ranking, None if body.return_documents is False else documents)
        for result in reply["results"]:
            name_hit(result, hits)
        reply["rankfleet"]["truncated"] = [hits[i].id for i in ranking.truncated]
        reply["rankfleet"]["timing_ms"]["retrieve"] = round(retrieve_ms, 2)
        timing = f"retrieve;dur={retrieve_ms:.2f}, {server_timing(ranking)}"
        return json_response(reply, headers={"Server-Timing": timing})

    api.post(
        "/v1/search",
        summary="Find and rank documents of the index",
        openapi_extra=SearchBody.openapi(),
        responses={200: {"model": SearchReply}, **RANKING_ERRORS},
    )(search)


def nothing_found(request_id: str, retrieve_ms: float) -> dict[str, Any]:
    """The reply where there is nothing to rank."""
    took_ms = round(retrieve_ms, 2)
    served: dict[str, Any] = {
        "tier": UNSCORED,
        "reason": "no document shares a word with the query",
        "quality": None,
        "predicted_ms": None,
        "timing_ms": {"retrieve": took_ms, "tokenize": 0.0, "queue": 0.0, "infer": 0.0, "total": took_ms},
        "stages": [],
        "truncated": [],
    }
    return {"id": request_id, "model": UNSCORED, "results": [], "usage": {"total_tokens": 0}, "rankfleet": served}


def name_hit(result: dict[str, Any], hits: list[Hit]) -> None:
    """A result's index is its rank in the first stage; add the document's id and first-stage score."""
    hit = hits[result["index"]]
    result["id"] = hit.id
    result["retrieval"] = {"rank": result.pop("index") + 1, "score": round(hit.score, 4)}


def clip(text: str, max_bytes: int) -> str:
    """The longest beginning of at most so many UTF-8 bytes."""
    return text if len(text) * 4 <= max_bytes else text.encode()[:max_bytes].decode(errors="ignore")
