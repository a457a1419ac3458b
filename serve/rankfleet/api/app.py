"""The HTTP API of a router: the routes of every dialect and the status routes, behind one gate."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from rankfleet import __version__
from rankfleet.api.admission import Admission
from rankfleet.api.console.routes import add_console
from rankfleet.api.dialects.dialect import About, Dialect, Route, SharedRoute
from rankfleet.api.dialects.registry import DIALECTS, SHARED
from rankfleet.api.errors import ErrorResponses
from rankfleet.api.feedback import FeedbackHandler, Sink
from rankfleet.api.fleet import add_fleet
from rankfleet.api.gate import Handler, request_gate
from rankfleet.api.http import READ_TIMEOUT_S, RequestReader, json_response
from rankfleet.api.keys import KeyRing
from rankfleet.api.openapi import Api, documented
from rankfleet.api.outcomes import Outcomes, RequestMetrics
from rankfleet.api.ranking import RankingHandler, Retriever
from rankfleet.api.recent import Recent
from rankfleet.api.status import ABOUT, Responses, add_status_routes
from rankfleet.autoscaler.board import Board
from rankfleet.router.health import RouterHealth
from rankfleet.router.service import RankingService


async def no_board() -> Board:
    """The board where no controller runs."""
    return Board()


@dataclass(frozen=True)
class HostProcess:
    """What the API has to know of the process that runs it.

    log_location: where people find the log, for error messages.
    adds_request_id: whether the API adds `x-request-id` to replies; false where the server does.
    disconnects: errors which mean that the client disconnected.
    update_faults: why the newest fleet file is not served; empty where it is.
    read_timeout_s: in which the whole body of a request has to arrive.
    close_after_s: in which the server's proxy reads a refusal, before the connection is closed on a long body.
    name: of this router.
    board: what the controller says of the fleet.
    """

    log_location: str = "the router's log"
    adds_request_id: bool = True
    disconnects: tuple[type[Exception], ...] = (ClientDisconnect,)
    update_faults: Callable[[], list[str]] = list
    read_timeout_s: float = READ_TIMEOUT_S
    close_after_s: float = 0.0
    name: str = "this process"
    board: Callable[[], Awaitable[Board]] = no_board


def build_api(
    service: RankingService,
    metrics: RequestMetrics,
    retriever: Retriever | None = None,
    health: RouterHealth | None = None,
    admission: Admission | None = None,
    host: HostProcess = HostProcess(),
    keys: KeyRing | None = None,
    recent: Recent | None = None,
    feedback: Sink | None = None,
) -> FastAPI:
    """The API over one router's service.

    health, admission, recent: shared where a process serves several versions of the fleet at a time.
    keys: of which a request needs one; None if it needs none.
    feedback: takes what clients say of answers; None if the fleet keeps none.
    """
    limits = service.config.limits
    health = health or RouterHealth(service.probe, service.clock)
    admission = admission or Admission(limits.max_bytes_in_flight)
    recent = recent or Recent(service.clock)
    outcomes = Outcomes(metrics, health, recent)
    errors = ErrorResponses(outcomes, host.log_location, host.disconnects)
    reader = RequestReader(
        limits.max_body_bytes,
        service.limits,
        service.turns,
        service.clock,
        host.read_timeout_s,
        service.splits.headers,
    )
    handler = RankingHandler(service, retriever, reader, outcomes)

    api = Api(
        title="Rankfleet",
        version=__version__,
        description=ABOUT,
        redirect_slashes=False,
        openapi_url=None,  # FastAPI would write it anew for each request
        docs_url=None,  # its own pages load scripts from another host
        redoc_url=None,
    )
    direct: dict[str, Handler] = {}
    for dialect in DIALECTS:
        direct |= add_routes(api, (dialect,), dialect.rerank, handler.rerank)
        add_routes(api, (dialect,), dialect.plan, handler.plan)
        add_routes(api, (dialect,), dialect.search, handler.search)
        add_routes(api, (dialect,), dialect.feedback, FeedbackHandler(feedback, reader, service.wall_clock).take)
        add_about(api, dialect.about, service)
    for shared in SHARED:
        direct |= add_routes(api, shared.dialects, (shared,), handler.rerank)
    add_status_routes(api, service, health, host.update_faults)
    add_fleet(api, service, recent, host.name, host.board)
    add_console(api)
    api.exception_handler(HTTPException)(errors.not_routed)

    # Starlette's outermost layer raises errors again after answering them, and Serve would log them a second time.
    stack = api.build_middleware_stack()
    inner = getattr(stack, "app", stack)
    gate = request_gate(
        inner,
        direct,
        errors.of,
        admission,
        host.adds_request_id,
        service.clock,
        keys,
        service.limits,
        host.close_after_s,
    )
    api.middleware_stack = with_cors(gate, service.config.cors_origins)
    return api


def with_cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """The app as pages of these origins may call it from a browser. Keys come in headers, so no cookies are needed."""
    if not origins:
        return app
    return CORSMiddleware(
        app, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"], expose_headers=["*"]
    )


def add_routes(
    api: FastAPI,
    dialects: Sequence[Dialect],
    routes: Sequence[Route[Any, Any] | SharedRoute],
    handle: Callable[..., Awaitable[Response]],
) -> dict[str, Handler]:
    """Add routes on which these dialects may answer, and return the handler of each path.

    Handlers parse bodies themselves, in one step from bytes. FastAPI is told of the bodies for the OpenAPI page alone.
    """
    handlers: dict[str, Handler] = {route.path: partial(handle, route) for route in routes}
    for route in routes:
        api.post(route.path, name=handle.__name__, **documented(dialects, route))(handlers[route.path])
    return handlers


def add_about(api: FastAPI, abouts: Sequence[About], service: RankingService) -> None:
    """Add what clients of a dialect ask about the server."""
    for about in abouts:
        responses: Responses = {200: {"model": about.reply_type}}
        answer = partial(answer_about, about, service)
        api.get(about.path, name="about", summary=about.summary, description=about.summary, responses=responses)(answer)


async def answer_about(about: About, service: RankingService, request: Request) -> Response:
    return json_response(about.reply(service))
