"""The outermost layer of the API, which every request passes."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from fastapi import Request, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rankfleet.api.admission import Admission
from rankfleet.api.dialects.registry import canonical_path
from rankfleet.api.headers import REQUEST_ID, request_id_of
from rankfleet.api.keys import KeyRing
from rankfleet.core.bounds import MAX_QUERY_STRING_BYTES, PROXY_BUFFER_BYTES
from rankfleet.core.errors import ClientGone, Forbidden, InvalidRequest, Unauthorized
from rankfleet.core.timing import CLOCK
from rankfleet.router.tenants import TenantLimits

Handler = Callable[[Request], Awaitable[Response]]
# What needs no key: probes, and what describes the software and not this fleet. The console asks for a key itself.
OPEN_PATHS = {"/", "/health", "/healthz", "/readyz", "/docs", "/openapi.json", "/console"}


def request_gate(
    inner: ASGIApp,
    direct: Mapping[str, Handler],
    error_response: Callable[[Request, Exception], Response],
    admission: Admission,
    adds_request_id: bool,
    clock: Callable[[], float],
    keys: KeyRing | None,
    limits: TenantLimits,
    close_after_s: float,
) -> ASGIApp:
    """Gives a request its id, its tenant, its memory reservation and the path that it means, and answers every error,
    with the time that it took in `Server-Timing`.

    POST requests to `direct` paths go straight to their handlers: the layers that FastAPI puts around a route take as
    long as planning does. adds_request_id: to the headers of replies. clock: seconds of a steady clock. keys: of which
    a request needs one, before its body is read; None if it needs none. limits: of its tenant. close_after_s: in which
    an answer is read whose connection is then closed.
    """

    async def gate(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await inner(scope, receive, send)
            return
        now_s = clock()
        its_clock, began_s = scope.get("rankfleet.began", (None, now_s))
        arrived_s = scope["rankfleet.arrived_s"] = began_s if its_clock == CLOCK else now_s
        scope["path"] = canonical_path(scope["path"])
        request = Request(scope, receive)
        added = [(REQUEST_ID.encode(), request_id_of(scope).encode())] if adds_request_id else []
        started, refusal = False, None

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), *added]
            try:
                await send(message)
            except (OSError, RuntimeError) as error:  # its connection is closed: no fault of the fleet
                raise ClientGone("the client went away") from error

        with admission.enter() as reservation:
            scope["rankfleet.reservation"] = reservation
            try:
                if len(scope.get("query_string", b"")) > MAX_QUERY_STRING_BYTES:  # which FastAPI reads for any path
                    many = f"the query string is longer than {MAX_QUERY_STRING_BYTES} bytes; leave it out"
                    raise InvalidRequest(many)
                posted = scope["method"] == "POST"
                if not posted and may_arrive_yet(request):  # it would be received as long as the client sends it
                    raise InvalidRequest(f"{scope['method']} takes no body here; leave it out")
                identify(scope, keys)
                if posted:
                    admission.check()
                if (tenant := scope["rankfleet.tenant"]) is not None:
                    limits.take_request(tenant, now_s)
                    if posted:
                        reservation.count_for(tenant, limits.share_of(tenant))
                if posted and (handler := direct.get(scope["path"])) is not None:
                    await (await handler(request))(scope, receive, send_with_id)
                else:
                    await inner(scope, receive, send_with_id)
            except Exception as error:
                refusal = error_response(request, error)
        if refusal is not None and not started:
            refusal.headers["Server-Timing"] = f"total;dur={(clock() - arrived_s) * 1e3:.2f}"
            if may_arrive_yet(request):
                await send_and_close(refusal, send_with_id, close_after_s)
            else:
                await refusal(scope, receive, send_with_id)

    return gate


def may_arrive_yet(request: Request) -> bool:
    """Whether the body of a request that is refused may still be on its way: it is longer than HAProxy waits for before
    it passes a request on. The server would receive all of it and throw it away, unless the connection is closed."""
    length = request.headers.get("content-length", "0")[:20]
    return "transfer-encoding" in request.headers or (length.isdecimal() and int(length) > PROXY_BUFFER_BYTES)


async def send_and_close(response: Response, send: Send, after_s: float) -> None:
    """Send a response, and close the connection once it has probably been read. Closing it on a body that nobody reads
    resets it, and HAProxy then passes on only what it has read of the response. Serve reads the body meanwhile, so this
    takes a router's time and cannot be long."""
    response.headers["Connection"] = "close"
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    await asyncio.sleep(after_s)
    await send({"type": "http.response.body"})


def identify(scope: Scope, keys: KeyRing | None) -> None:
    """Note whose request it is, and whether it may be told about this fleet.

    Raises Unauthorized and Forbidden where the path needs a key.
    """
    scope["rankfleet.tenant"], scope["rankfleet.known"] = None, keys is None
    if keys is None:
        return
    try:
        scope["rankfleet.tenant"] = keys.tenant_of(scope["headers"])
        scope["rankfleet.known"] = True
    except (Unauthorized, Forbidden):
        is_open = scope["path"] in OPEN_PATHS or scope["path"].startswith("/console/")
        if scope["method"] not in ("GET", "HEAD") or not is_open:
            raise
