"""The HTTP face of a router: routes, headers, errors."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rankfleet import __version__
from rankfleet.api.bodies import RerankBody, plan_reply, ranking_reply, server_timing
from rankfleet.api.bytes_in_flight import BytesInFlight, text_bytes
from rankfleet.api.http import (
    READ_S,
    REQUEST_ID,
    error_reply,
    error_response,
    hold_of,
    json_response,
    read_body,
    request_headers,
    request_id_of,
)
from rankfleet.api.replies import (
    RANKING_ERRORS,
    ModelsReply,
    PlanReply,
    RerankReply,
    RootReply,
    StatusReply,
)
from rankfleet.api.search import Retriever, add_search
from rankfleet.core.errors import RankfleetError
from rankfleet.core.messages import Ranking, RerankRequest
from rankfleet.core.quiet import quietly
from rankfleet.core.sections import AUTO
from rankfleet.router.health import RouterHealth
from rankfleet.router.service import RankingService

RERANK = "/v1/rerank"
ABOUT = "Reranking within a latency budget."
Answer = Callable[[Request], Awaitable[Response]]

log = logging.getLogger("ray.serve")


class RequestMetrics(Protocol):
    """Hears of every answer and every refusal."""

    def answered(self, ranking: Ranking) -> None: ...

    def refused(self, code: str) -> None: ...


class RequestGate:
    """What every request passes: its id, its share of the bytes in flight, its path without a slash at the end, and an
    answer to every error. The busiest route goes without the layers that FastAPI puts around each, which take as long
    as planning does."""

    def __init__(
        self,
        inner: ASGIApp,
        path: str,
        answer: Answer,
        fault: Callable[[Request, Exception], Response],
        in_flight: BytesInFlight,
        adds_request_id: bool,
    ) -> None:
        """path: answered by `answer` where it is posted to; fault: the response to any error; adds_request_id: to the
        reply's headers."""
        self._inner = inner
        self._in_flight = in_flight
        self._adds_request_id = adds_request_id
        self._path = path
        self._answer = answer
        self._fault = fault

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        if len(scope["path"]) > 1 and scope["path"].endswith("/"):
            scope["path"] = scope["path"].rstrip("/") or "/"
        request = Request(scope, receive)
        named = [(REQUEST_ID.encode(), request_id_of(scope).encode())] if self._adds_request_id else []
        started = False

        async def send_named(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), *named]
            await send(message)

        with self._in_flight.hold() as hold:
            scope["rankfleet.hold"] = hold
            try:
                if scope["method"] == "POST":
                    self._in_flight.admit()
                if scope["path"] == self._path and scope["method"] == "POST":
                    await (await self._answer(request))(scope, receive, send_named)
                else:
                    await self._inner(scope, receive, send_named)
            except Exception as error:
                response = self._fault(request, error)
                if not started:
                    await response(scope, receive, send_named)


def build_api(
    service: RankingService,
    telemetry: RequestMetrics,
    retriever: Retriever | None = None,
    health: RouterHealth | None = None,
    log_place: str = "the router's log",
    adds_request_id: bool = True,
    read_timeout_s: float = READ_S,
    in_flight: BytesInFlight | None = None,
    gone: tuple[type[Exception], ...] = (ClientDisconnect,),
    not_changed: Callable[[], list[str]] = list,
) -> FastAPI:
    """The routes over one router's service. log_place: where people find what went wrong; adds_request_id: as for
    `Front`; read_timeout_s: in which a body has to come; in_flight: of all requests of the process, where other
    versions of the fleet share it; gone: errors that say that the client went away; not_changed: why a newer
    fleet file is not served, nothing where all are."""
    api = FastAPI(title="Rankfleet", version=__version__, description=ABOUT, redirect_slashes=False)
    health = health or RouterHealth(service.probe, service.clock)
    limits = service.config.limits
    in_flight = in_flight or BytesInFlight(limits.max_bytes_in_flight)
    count_refusal = quietly(telemetry.refused)

    @quietly
    def count_answer(ranking: Ranking) -> None:
        if ranking.stages:
            health.answered()
        telemetry.answered(ranking)

    def fault(request: Request, error: Exception) -> Response:
        """The response to an error, counted, and logged where nobody expected it."""
        request_id = request_id_of(request.scope)
        if isinstance(error, gone):
            count_refusal("client_gone")
            return json_response(error_reply("client_gone", "the client went away", request_id), 499)
        if isinstance(error, RankfleetError) and error.status != 500:
            count_refusal(error.code)
            return error_response(error, request_id)
        known = isinstance(error, RankfleetError)
        if not known:
            health.failed()
        code = error.code if isinstance(error, RankfleetError) else "internal"
        count_refusal(code)
        log.error("request %s failed: %s", request_id, error, exc_info=error)
        what = f"{error}" if known else f"this request failed inside the fleet ({type(error).__name__})"
        message = f"{what}; look for request {request_id} in {log_place}"
        return json_response(error_reply(code, message, request_id), 500)

    @api.exception_handler(RankfleetError)
    @api.exception_handler(ClientDisconnect)
    async def answer_fault(request: Request, error: Exception) -> Response:
        return fault(request, error)

    @api.exception_handler(HTTPException)
    async def no_such_route(request: Request, error: HTTPException) -> Response:
        request_id, path = request_id_of(request.scope), request.url.path[:200]
        if error.status_code == 405:
            message = f"{path} does not take {request.method}; see /docs"
            return json_response(error_reply("method_not_allowed", message, request_id), 405, error.headers)
        message = f"there is nothing at {path}; GET / lists what there is"
        return json_response(error_reply("not_found", message, request_id), error.status_code)

    async def read(request: Request) -> tuple[RerankBody, RerankRequest]:
        headers = request_headers(request, RerankBody.model_fields)
        body = RerankBody.parse(await read_body(request, limits.max_body_bytes, read_timeout_s))
        asked = body.to_request(headers)
        if all(isinstance(document, str) for document in body.documents):
            hold_of(request).resize(text_bytes(asked.documents))
        return body, asked

    def answer(request: Request, reply: Any, headers: dict[str, str] | None = None) -> Response:
        response = json_response(reply, headers=headers)
        hold_of(request).resize(len(response.body))
        return response

    async def rerank(request: Request) -> Response:
        arrived_s = service.clock()
        body, asked = await read(request)
        ranking = await service.rank(asked, arrived_s)
        count_answer(ranking)
        reply = ranking_reply(ranking, body.documents if body.return_documents else None)
        return answer(request, reply, {"Server-Timing": server_timing(ranking)})

    api.post(
        RERANK,
        summary="Rank documents for a query",
        openapi_extra=RerankBody.openapi(),
        responses={200: {"model": RerankReply}, **RANKING_ERRORS},
    )(rerank)

    @api.post(
        "/v1/plan",
        summary="What would be done, without scoring",
        openapi_extra=RerankBody.openapi(),
        responses={200: {"model": PlanReply}, **RANKING_ERRORS},
    )
    async def explain(request: Request) -> Response:
        _, asked = await read(request)
        return answer(request, plan_reply(await service.explain(asked)))

    add_search(api, service, retriever, count_answer, read_timeout_s)

    @api.get("/v1/models", summary="Tiers and SLO classes of this fleet", responses={200: {"model": ModelsReply}})
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
                    "quality": service.fleet.quality.tiers[name],
                    "group": config.group_of(name),
                }
            )
        for name, slo in live.slo_classes.items():
            data.append({"id": name, "object": "model", "kind": "slo_class", "slo_ms": slo.slo_ms})
        return json_response({"object": "list", "data": data})

    async def alive() -> Response:
        return json_response({"status": "ok"})

    async def ready() -> Response:
        if not service.fleet.ready:
            reason = "not every group has said how fast it is"
            return json_response({"status": "starting", "reason": reason}, 503)
        refused = {"not_changed": why} if (why := not_changed()) else {}
        if service.fleet.asleep:
            return json_response({"status": "asleep", "reason": "the next request starts a replica"} | refused)
        try:
            await health.ready()
        except RuntimeError as error:
            return json_response({"status": "failing", "reason": str(error)}, 503)
        return json_response({"status": "ready"} | refused)

    async def root() -> Response:
        paths = {
            path: operation["summary"]
            for path, operations in api.openapi()["paths"].items()
            for operation in operations.values()
        }
        return json_response(
            {"name": "rankfleet", "version": __version__, "about": ABOUT, "paths": paths | {"/docs": "API page"}}
        )

    status: dict[int | str, dict[str, Any]] = {200: {"model": StatusReply}}
    looks: list[tuple[str, Callable[[], Awaitable[Response]], str, dict[int | str, dict[str, Any]]]] = [
        ("/", root, "What is here", {200: {"model": RootReply}}),
        ("/healthz", alive, "Whether this router is alive", status),
        ("/health", alive, "The same", status),
        ("/readyz", ready, "Whether a ranking has just been answered", {**status, 503: {"model": StatusReply}}),
    ]
    for path, look, summary, responses in looks:
        api.get(path, summary=summary, responses=responses)(look)
        api.head(path, include_in_schema=False)(look)

    # Starlette's outermost layer raises again what it has answered, for which Serve logs it once more and unreadably.
    stack = api.build_middleware_stack()
    api.middleware_stack = RequestGate(getattr(stack, "app", stack), RERANK, rerank, fault, in_flight, adds_request_id)
    return api
