"""Rank a request's documents, or show the plan for them."""

from typing import Any

from fastapi import Request, Response

from rankfleet.api.dialects.dialect import Route
from rankfleet.api.http import RequestReader, respond
from rankfleet.api.outcomes import Outcomes
from rankfleet.core.messages import Decision, Ranking
from rankfleet.router.service import RankingService


class RankingHandler:
    """Answers the `rerank` and `plan` routes of all dialects."""

    def __init__(self, service: RankingService, reader: RequestReader, outcomes: Outcomes) -> None:
        self._service = service
        self._reader = reader
        self._outcomes = outcomes

    async def rerank(self, route: Route[Any, Ranking], request: Request) -> Response:
        arrived_s = self._service.clock()
        parsed = await self._reader.read(request, route)
        ranking = await self._service.rank(parsed.request, arrived_s)
        self._outcomes.answered(ranking)
        return respond(request, route.reply(ranking, parsed))

    async def plan(self, route: Route[Any, Decision], request: Request) -> Response:
        parsed = await self._reader.read(request, route)
        return respond(request, route.reply(await self._service.explain(parsed.request), parsed))
