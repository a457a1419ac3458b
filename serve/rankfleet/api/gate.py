"""The outermost layer of the API, which every request passes."""

from collections.abc import Awaitable, Callable, Mapping

from fastapi import Request, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rankfleet.api.admission import Admission
from rankfleet.api.headers import REQUEST_ID, request_id_of

Handler = Callable[[Request], Awaitable[Response]]


class RequestGate:
    """Gives a request its id and its memory reservation, drops a slash at the end of its path, and answers every error.

    POST requests to `direct` paths go straight to their handlers: the layers that FastAPI puts around a route take as
    long as planning does.
    """

    def __init__(
        self,
        inner: ASGIApp,
        direct: Mapping[str, Handler],
        error_response: Callable[[Request, Exception], Response],
        admission: Admission,
        adds_request_id: bool,
    ) -> None:
        """adds_request_id: to the headers of replies."""
        self._inner = inner
        self._direct = direct
        self._error_response = error_response
        self._admission = admission
        self._adds_request_id = adds_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        if len(scope["path"]) > 1 and scope["path"].endswith("/"):
            scope["path"] = scope["path"].rstrip("/") or "/"
        request = Request(scope, receive)
        added = [(REQUEST_ID.encode(), request_id_of(scope).encode())] if self._adds_request_id else []
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        with self._admission.enter() as reservation:
            scope["rankfleet.reservation"] = reservation
            try:
                posted = scope["method"] == "POST"
                if posted:
                    self._admission.check()
                if posted and (handler := self._direct.get(scope["path"])) is not None:
                    await (await handler(request))(scope, receive, send_with_id)
                else:
                    await self._inner(scope, receive, send_with_id)
            except Exception as error:
                response = self._error_response(request, error)
                if not started:
                    await response(scope, receive, send_with_id)
