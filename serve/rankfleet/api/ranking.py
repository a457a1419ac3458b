"""Rank a request's documents, show the plan for them, or retrieve documents and then rank them."""

import asyncio
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from fastapi import Request, Response

from rankfleet.api.admission import json_bytes, reservation_of
from rankfleet.api.dialects.dialect import Route, SearchOutcome, SharedRoute
from rankfleet.api.http import RequestReader, respond
from rankfleet.api.outcomes import Outcomes
from rankfleet.core.decisions import Decision
from rankfleet.core.errors import NotConfigured, TooLarge
from rankfleet.core.messages import Ranking
from rankfleet.core.timing import Timing
from rankfleet.retrieval.bm25 import Hit
from rankfleet.router.limits import check_query
from rankfleet.router.service import RankingService


class Retriever(Protocol):
    """The first stage of a search."""

    def search(self, query: str, k: int) -> list[Hit]:
        """At most k documents, best first."""


class RankingHandler:
    """Answers the `rerank`, `plan` and `search` routes of all dialects."""

    def __init__(
        self, service: RankingService, retriever: Retriever | None, reader: RequestReader, outcomes: Outcomes
    ) -> None:
        self._service = service
        self._retriever = retriever
        self._reader = reader
        self._outcomes = outcomes

    async def rerank(self, route: Route[Any, Ranking] | SharedRoute, request: Request) -> Response:
        timing = Timing(request.scope["rankfleet.arrived_s"])
        route, parsed = await self._reader.read(request, route)
        timing.ends("read", self._service.clock())
        ranking = await self._service.rank(parsed.request, timing)
        response = self._respond(request, route, ranking, parsed)
        self._count(ranking)
        return response

    async def plan(self, route: Route[Any, Decision], request: Request) -> Response:
        route, parsed = await self._reader.read(request, route)
        return self._respond(request, route, await self._service.explain(parsed.request), parsed)

    async def search(self, route: Route[Any, SearchOutcome], request: Request) -> Response:
        """Retrieve and rank within one budget. Without an index, the answer is 404 and says how to build one."""
        service, timing = self._service, Timing(request.scope["rankfleet.arrived_s"])
        settings, limits = service.config.search, service.config.limits
        if self._retriever is None or settings is None:
            raise NotConfigured(
                "this fleet has no index: build one with `rankfleet index build` and name it under `search:`"
            )
        route, parsed = await self._reader.read(request, route)
        timing.ends("read", service.clock())
        check_query(parsed.request.query, limits)
        service.check(parsed.request)  # before the index is searched
        top_k = parsed.top_k or min(settings.top_k, limits.max_documents)
        if top_k > limits.max_documents:
            raise TooLarge(f"top_k {top_k} is more than the {limits.max_documents} documents allowed")
        find = partial(asyncio.to_thread, self._retriever.search, parsed.request.query, top_k)
        hits = await service.turns.take(parsed.request.tenant, find)
        timing.ends("retrieve", service.clock())
        if not hits:
            return self._respond(request, route, SearchOutcome([], None, timing), parsed)
        # A document of the index that is too long is cut and not refused: the client did not choose it.
        documents = [clip(hit.text, limits.max_document_bytes) for hit in hits]
        reservation_of(request).resize(json_bytes(documents))
        scores = [hit.score for hit in hits]
        ranking = await service.rank(replace(parsed.request, documents=documents, scores=scores), timing)
        self._count(ranking)
        return self._respond(request, route, SearchOutcome(hits, ranking, timing), parsed)

    def _respond(self, request: Request, route: Route[Any, Any], outcome: Any, parsed: Any) -> Response:
        tenant, service = request.scope["rankfleet.tenant"], self._service
        with service.limits.blocking(tenant, service.clock):
            return respond(request, route.reply(outcome, parsed))

    def _count(self, ranking: Ranking) -> None:
        """Record an answer once it is on its way: the client should not wait for that."""
        asyncio.get_running_loop().call_soon(self._outcomes.answered, ranking)


def clip(text: str, max_bytes: int) -> str:
    """The longest beginning of whole characters within `max_bytes` of UTF-8."""
    return text if len(text) * 4 <= max_bytes else text.encode()[:max_bytes].decode(errors="ignore")
