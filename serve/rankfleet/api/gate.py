"""The outermost layer of the API, which every request passes."""

from collections.abc import Awaitable, Callable, Mapping

from fastapi import Request, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rankfleet.api.admission import Admission
from rankfleet.api.dialects.registry import canonical_path
from rankfleet.api.headers import REQUEST_ID, request_id_of

Handler = Callable[[Request], Awaitable[Response]]


def request_gate(
    inner: ASGIApp,
    direct: Mapping[str, Handler],
    error_response: Callable[[Request, Exception], Response],
    admission: Admission,
    adds_request_id: bool,
    clock: Callable[[], float],
) -> ASGIApp:
    """Gives a request its id, its memory reservation and the path that it means, and answers every error, with the time
    that it took in `Server-Timing`.

    POST requests to `direct` paths go straight to their handlers: the layers that FastAPI puts around a route take as
    long as planning does. adds_request_id: to the headers of replies. clock: seconds of a steady clock.
    """

    async def gate(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await inner(scope, receive, send)
            return
        arrived_s = clock()
        scope["path"] = canonical_path(scope["path"])
        request = Request(scope, receive)
        added = [(REQUEST_ID.encode(), request_id_of(scope).encode())] if adds_request_id else []
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        with admission.enter() as reservation:
            scope["rankfleet.reservation"] = reservation
            try:
                posted = scope["method"] == "POST"
                if posted:
                    admission.check()
                if posted and (handler := direct.get(scope["path"])) is not None:
                    await (await handler(request))(scope, receive, send_with_id)
                else:
                    await inner(scope, receive, send_with_id)
            except Exception as error:
                response = error_response(request, error)
                if not started:
                    response.headers["Server-Timing"] = f"total;dur={(clock() - arrived_s) * 1e3:.2f}"
                    await response(scope, receive, send_with_id)

    return gate
