"""The HTTP face of a router: routes, headers, errors."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from rankfleet import __version__
from rankfleet.app.bodies import RerankBody, parse, plan_reply, ranking_reply, server_timing
from rankfleet.app.http import body_schema, error_reply, json_response, read_body, wishes
from rankfleet.app.search import Retriever, add_search
from rankfleet.app.service import RankingService
from rankfleet.app.telemetry import Recorder
from rankfleet.core.errors import Overloaded, RankfleetError
from rankfleet.core.sections import AUTO

RERANK = "/v1/rerank"
Answer = Callable[[Request], Awaitable[Response]]
ExceptionAnswer = Callable[[Request, Any], Awaitable[Response]]


class ShortCut:
    """The busiest route without the layers that FastAPI puts around each but the outermost, which answers errors that
    nobody expects: the others take as long as planning does."""

    def __init__(
        self, inner: ASGIApp, path: str, answer: Answer, faults: Mapping[type[Exception], ExceptionAnswer]
    ) -> None:
        """path: taken by POST. faults: what answers which error, the first that fits."""
        self._inner = inner
        self._path = path
        self._answer = answer
        self._faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != self._path or scope["method"] != "POST":
            await self._inner(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except tuple(self._faults) as error:
            answer = next(answer for kind, answer in self._faults.items() if isinstance(error, kind))
            response = await answer(request, error)
        await response(scope, receive, send)


def build_api(service: RankingService, telemetry: Recorder, retriever: Retriever | None = None) -> FastAPI:
    """The routes over one router's service."""
    api = FastAPI(title="Rankfleet", version=__version__, description="Reranking within a latency budget.")

    @api.exception_handler(RankfleetError)
    async def refuse(_: Request, error: RankfleetError) -> Response:
        headers = {}
        if isinstance(error, Overloaded):
            headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
        telemetry.refused(error.code)
        return json_response(error_reply(error.code, str(error)), error.status, headers)

    @api.exception_handler(Exception)
    async def fail(_: Request, error: Exception) -> Response:
        telemetry.refused("internal")
        message = f"this request failed inside the fleet ({type(error).__name__}); the router's log has the details"
        return json_response(error_reply("internal", message), 500)

    @api.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: Exception) -> Response:
        telemetry.refused("client_gone")
        return json_response(error_reply("client_gone", "the client went away"), 499)

    @api.exception_handler(404)
    async def not_found(request: Request, _: Exception) -> Response:
        message = f"there is nothing at {request.url.path}; see /docs for what there is"
        return json_response(error_reply("not_found", message), 404)

    @api.exception_handler(405)
    async def wrong_method(request: Request, _: Exception) -> Response:
        message = f"{request.url.path} does not take {request.method}; see /docs"
        return json_response(error_reply("method_not_allowed", message), 405)

    @api.post(RERANK, openapi_extra=body_schema(RerankBody), summary="Rank documents for a query")
    async def rerank(request: Request) -> Response:
        arrived_s = service.clock()
        body = parse(RerankBody, await read_body(request, service.config.limits.max_body_bytes))
        ranking = await service.rank(body.to_request(wishes(request)), arrived_s)
        telemetry.answered(ranking)
        reply = ranking_reply(ranking, bool(body.return_documents))
        return json_response(reply, headers={"Server-Timing": server_timing(ranking)})

    @api.post("/v1/plan", openapi_extra=body_schema(RerankBody), summary="What would be done, without scoring")
    async def explain(request: Request) -> Response:
        body = parse(RerankBody, await read_body(request, service.config.limits.max_body_bytes))
        return json_response(plan_reply(await service.explain(body.to_request(wishes(request)))))

    add_search(api, service, retriever, telemetry)

    @api.get("/v1/models", summary="Tiers and SLO classes of this fleet")
    async def models() -> Response:
        config, live = service.config, service.live
        data: list[dict[str, Any]] = [{"id": AUTO, "object": "model", "kind": "planner"}]
        for name, tier in config.tiers.items():
            data.append(
                {
                    "id": name,
                    "object": "model",
                    "kind": "tier",
                    "model": tier.model,
                    "quality": tier.quality,
                    "group": config.group_of(name),
                }
            )
        for name, slo in live.slo_classes.items():
            data.append({"id": name, "object": "model", "kind": "slo_class", "slo_ms": slo.slo_ms})
        return json_response({"object": "list", "data": data})

    @api.get("/healthz", summary="Whether this router is alive")
    async def healthz() -> Response:
        return json_response({"status": "ok"})

    @api.get("/readyz", summary="Whether every group has a replica that scores")
    async def readyz() -> Response:
        ready = service.fleet.ready
        return json_response({"status": "ready" if ready else "starting"}, 200 if ready else 503)

    errors = api.build_middleware_stack()
    assert isinstance(errors, ServerErrorMiddleware)
    errors.app = ShortCut(errors.app, RERANK, rerank, {RankfleetError: refuse, ClientDisconnect: gone})
    api.middleware_stack = errors
    return api
