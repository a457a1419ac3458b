"""How routers and Serve's proxies read HTTP."""

import asyncio
import socket
import struct
import time
from typing import Any

import h11
import uvicorn.config
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from rankfleet.core.bounds import MAX_HEAD_BYTES
from rankfleet.core.timing import CLOCK

# Headers that Serve reads as text, with hyphens for underscores. Where they are none, it would answer 500.
READ_BY_SERVE = {b"serve-multiplexed-model-id", b"x-request-id", b"x-session-id"}
# Headers by which a client would change how Serve treats its request. At the end of that time, Serve would answer in a
# form of its own, past all limits, and receive the rest of the body for as long as the client sends it.
ORDERS_TO_SERVE = {
    b"x-request-timeout-seconds": "is not taken here; send the budget as x-slo-ms",
    b"x-request-disconnect-disabled": "is not taken here; a request ends when its client has gone",
}
END_OF_HEAD = b"\r\n\r\n"
# Those of RFC 9110 and PATCH. The name of any other would be a label of Serve's metrics, which are never forgotten.
METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH"})
OTHER_METHOD = b"OTHER"
# Without it, 3 of 300 clients got half a refusal from HAProxy on a busy computer; with half of it, none.
CLOSE_AFTER_S = 0.02
# `struct tcp_info` of Linux (linux/tcp.h) up to `tcpi_last_data_recv`: for how many milliseconds no bytes have come.
TCP_INFO = struct.Struct("52xI")
TICK_S = 0.01  # the longest between two ticks of its clock, so that less may be nothing


class Connection(h11.Connection):
    """Reads methods that do not exist as one."""

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        event = super().next_event()
        if isinstance(event, h11.Request) and event.method not in METHODS:
            return h11.Request(
                method=OTHER_METHOD, target=event.target, headers=event.headers, http_version=event.http_version
            )
        return event


class HttpProtocol(H11Protocol):
    """HTTP/1.1 by h11, with a limit of what it reads before the body. Notes when a request began to arrive."""

    def __init__(self, config: uvicorn.Config, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.conn = Connection(h11.SERVER, MAX_HEAD_BYTES)  # the limit is for heads that come in parts
        self._began_s: float | None = None  # of a request whose head is not complete

    def data_received(self, data: bytes) -> None:
        begins = self.conn.their_state is h11.IDLE
        if begins and self._began_s is None:
            self._began_s = time.perf_counter() - unread_s(self.transport)
        if begins and len(data) > MAX_HEAD_BYTES and END_OF_HEAD not in data[:MAX_HEAD_BYTES]:
            self.send_400_response(f"The first line and the headers of a request may have {MAX_HEAD_BYTES} bytes.")
        else:
            super().data_received(data)
        if begins and self.scope is not None and self.conn.their_state is not h11.IDLE:  # its head is complete
            self.scope["rankfleet.began"] = (CLOCK, self._began_s)  # type: ignore[typeddict-unknown-key]
            self._began_s = None


def unread_s(transport: asyncio.BaseTransport) -> float:
    """How long the bytes of a connection that have just been read had lain there, since the last of them came: a busy
    process takes up new connections and bytes late. 0 where the system does not tell."""
    connection = transport.get_extra_info("socket")
    if connection is None or not hasattr(socket, "TCP_INFO"):
        return 0.0
    (ms,) = TCP_INFO.unpack(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO.size))
    return ms / 1e3 if ms / 1e3 > TICK_S else 0.0


class HeaderCheck:
    """Refuses requests that Serve would answer in place of the API (`why_refused`). Whoever has no end to his body is
    cut off."""

    def __init__(self, app: ASGIApp, close_after_s: float = CLOSE_AFTER_S) -> None:
        self._app = app
        self._close_after_s = close_after_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (why := why_refused(scope)) is None:
            return await self._app(scope, receive, send)
        from rankfleet.api.errors import error_response  # Serve's proxies start without the API
        from rankfleet.api.gate import may_arrive_yet, send_and_close
        from rankfleet.core.errors import InvalidRequest

        request = Request(scope)
        response = error_response(request, InvalidRequest(why))
        if may_arrive_yet(request):
            return await send_and_close(response, send, self._close_after_s)
        await response(scope, receive, send)


def why_refused(scope: Scope) -> str | None:
    """What is wrong with a request; None for one that Serve may have."""
    of_serve = scope["path"].startswith("/-/")
    for name, value in scope["headers"]:
        known = name.replace(b"_", b"-")
        if known in ORDERS_TO_SERVE:
            return f"header {name.decode()} {ORDERS_TO_SERVE[known]}"
        if not value.isascii() and known in READ_BY_SERVE and not is_utf8(value):
            return f"header {name.decode()}: this is not UTF-8"
        if of_serve and (name == b"transfer-encoding" or (name == b"content-length" and value != b"0")):
            return f"{scope['path']} takes no body; leave it out"
    return None


def is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def http_middlewares() -> list[Middleware]:
    """Let the HTTP servers that Serve starts in this process read requests by h11, and take no WebSockets. Returns what
    requests pass first.

    httptools, uvicorn's first choice, ends a request that asks for another protocol at its headers and takes its body
    for the next request. HAProxy sends requests of all clients over the same connections, so that a client got answers
    to others. h11 goes on in HTTP/1.1, as RFC 9110 (section 7.8) lets a server do.

    Serve calls this before it starts a server (`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`).
    """
    uvicorn.config.HTTP_PROTOCOLS["auto"] = HttpProtocol  # type: ignore[assignment]
    uvicorn.config.WS_PROTOCOLS["auto"] = None
    return [Middleware(HeaderCheck)]
