"""POST /v1/search: retrieve, then rerank, within one budget."""

import asyncio
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from rankfleet.app.bodies import parse, ranking_reply, server_timing
from rankfleet.app.http import Wishes, body_schema, json_response, read_body, wishes
from rankfleet.app.limits import check_query
from rankfleet.app.service import RankingService
from rankfleet.app.telemetry import Recorder
from rankfleet.core.errors import NotConfigured
from rankfleet.core.layout import LongDocuments
from rankfleet.core.messages import RerankRequest
from rankfleet.retrieval.bm25 import Hit


class Retriever(Protocol):
    """The first stage."""

    def search(self, query: str, k: int) -> list[Hit]: ...


class SearchBody(BaseModel):
    """POST /v1/search. Explicit nulls mean the default."""

    model_config = ConfigDict(strict=True)

    query: str
    top_n: int | None = Field(None, ge=1, description="how many results to return; 10 by default")
    top_k: int | None = Field(None, ge=1, description="candidates to rerank; the fleet's own number by default")
    model: str | None = Field(None, description="a tier, `auto`, or an SLO class")
    return_documents: bool | None = None
    slo_ms: float | None = Field(None, gt=0, allow_inf_nan=False, description="budget over both stages, milliseconds")
    slo_class: str | None = Field(None, description="as for /v1/rerank")
    min_quality: float | None = Field(None, ge=0, le=1, description="as for /v1/rerank")
    long_documents: LongDocuments | None = Field(None, description="as for /v1/rerank")
    user: str | None = None
    session: str | None = None

    def to_request(self, documents: list[str], headers: Wishes) -> RerankRequest:
        """The second stage, over the documents that the first has found."""
        return RerankRequest(
            query=self.query,
            documents=documents,
            top_n=self.top_n or 10,
            model=self.model,
            slo_ms=self.slo_ms if self.slo_ms is not None else headers.slo_ms,
            slo_class=self.slo_class or headers.slo_class,
            min_quality=self.min_quality or 0.0,
            api_key=headers.api_key,
            user=self.user,
            session=self.session,
            long_documents=self.long_documents,
        )


def add_search(api: FastAPI, service: RankingService, retriever: Retriever | None, telemetry: Recorder) -> None:
    """Add the route. Without a retriever it answers 404 and says how to get one."""

    @api.post("/v1/search", openapi_extra=body_schema(SearchBody), summary="Find and rank documents of the index")
    async def search(request: Request) -> Response:
        arrived_s = service.clock()
        settings = service.config.search
        if retriever is None or settings is None:
            raise NotConfigured(
                "this fleet has no index: build one with `rankfleet index build` and name it under `search:`"
            )
        body = parse(SearchBody, await read_body(request, service.config.limits.max_body_bytes))
        limits, headers = service.config.limits, wishes(request)
        check_query(body.query, limits)
        top_k = min(body.top_k or settings.top_k, limits.max_documents)
        hits = await asyncio.get_running_loop().run_in_executor(None, retriever.search, body.query, top_k)
        retrieve_ms = (service.clock() - arrived_s) * 1e3
        if not hits:
            nothing = {"results": [], "rankfleet": {"timing_ms": {"retrieve": round(retrieve_ms, 2)}}}
            return json_response(nothing, headers={"Server-Timing": f"retrieve;dur={retrieve_ms:.2f}"})
        # The client did not choose these documents: one that is too long is cut, not refused.
        documents = [clip(hit.text, limits.max_document_bytes) for hit in hits]
        ranking = await service.rank(body.to_request(documents, headers), arrived_s)
        telemetry.answered(ranking)
        reply = ranking_reply(ranking, return_documents=body.return_documents is not False)
        for result in reply["results"]:
            name_hit(result, hits)
        reply["rankfleet"]["truncated"] = [hits[i].id for i in ranking.truncated]
        reply["rankfleet"]["timing_ms"]["retrieve"] = round(retrieve_ms, 2)
        timing = f"retrieve;dur={retrieve_ms:.2f}, {server_timing(ranking)}"
        return json_response(reply, headers={"Server-Timing": timing})


def name_hit(result: dict[str, Any], hits: list[Hit]) -> None:
    """A result's index is its rank in the first stage; add the document's id and first-stage score."""
    hit = hits[result["index"]]
    result["id"] = hit.id
    result["retrieval"] = {"rank": result.pop("index") + 1, "score": round(hit.score, 4)}


def clip(text: str, most_bytes: int) -> str:
    """The longest beginning of at most so many UTF-8 bytes."""
    return text if len(text) * 4 <= most_bytes else text.encode()[:most_bytes].decode(errors="ignore")
