"""How routers read HTTP: no body is taken for a request, and headers that Serve cannot read are refused."""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvicorn.config
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from rankfleet.cluster.http_server import HeaderCheck, http_middlewares, unread_s
from rankfleet.core.bounds import MAX_HEAD_BYTES
from rankfleet.core.timing import CLOCK

BEGAN = "/when-did-it-begin"


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the path and the length of the body, and with the method if it is OTHER; or with when the request
    began, in seconds."""
    if scope["path"] == BEGAN:
        clock, began_s = scope["rankfleet.began"]  # type: ignore[typeddict-item]
        assert clock == CLOCK
        return await PlainTextResponse(f"{began_s:.1f};")(scope, receive, send)
    length, more = 0, True
    while more:
        message = await receive()
        length, more = length + len(message.get("body", b"")), message.get("more_body", False)
    other = " OTHER" if scope["method"] == "OTHER" else ""
    await PlainTextResponse(f"{scope['path']} {length};{other}")(scope, receive, send)


class FakeSocket:
    """A TCP connection in which bytes had lain for so long when they were read, each time the next of these."""

    def __init__(self, unread_ms: list[int]) -> None:
        self._unread_ms = unread_ms

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert (level, option) == (socket.IPPROTO_TCP, socket.TCP_INFO)
        return struct.pack("52xI", self._unread_ms.pop(0))[:size]

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", 80

    def getpeername(self) -> tuple[str, int]:
        return "127.0.0.1", 50_000


class FakeTransport(asyncio.Transport):
    """A connection whose client reads everything at once."""

    def __init__(self, connection: FakeSocket | None = None) -> None:
        super().__init__(None if connection is None else {"socket": connection})
        self.written, self.closed = b"", False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def replies(monkeypatch: pytest.MonkeyPatch, *parts: bytes, client: FakeSocket | None = None) -> list[str]:
    """What the application answers to what comes on one connection, part by part, each with its status."""
    monkeypatch.setattr(uvicorn.config, "HTTP_PROTOCOLS", dict(uvicorn.config.HTTP_PROTOCOLS))
    monkeypatch.setattr(uvicorn.config, "WS_PROTOCOLS", dict(uvicorn.config.WS_PROTOCOLS))
    http_middlewares()
    config = uvicorn.Config(application, lifespan="off", log_config=None, access_log=False)
    config.load()
    protocol: Any = config.http_protocol_class
    connection = protocol(config=config, server_state=ServerState(), app_state={})
    transport = FakeTransport(client)
    connection.connection_made(transport)
    for part in parts:
        if not transport.closed:
            connection.data_received(part)
        for _ in range(10):
            await asyncio.sleep(0)
    connection.connection_lost(None)
    answers = [answer.partition("\r\n\r\n") for answer in transport.written.decode().split("HTTP/1.1 ")[1:]]
    return [f"{head[:3]} {body}" for head, _, body in answers]


@pytest.mark.parametrize(
    ("method", "read"), [("GET", ""), ("DELETE", ""), ("get", " OTHER"), ("QUERY", " OTHER"), ("X" * 500, " OTHER")]
)
async def test_methods_that_do_not_exist_are_read_as_one(
    monkeypatch: pytest.MonkeyPatch, method: str, read: str
) -> None:
    """Serve's metrics have a label for each, and forget none."""
    request = f"{method} /path HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n".encode()
    assert await replies(monkeypatch, request[:2], request[2:] + b"{}") == [f"200 /path 2;{read}"]


@pytest.mark.parametrize("wish", ["foo", "h2c", "websocket", "TLS/1.3"])
async def test_the_body_of_a_request_that_asks_for_another_protocol_is_no_request(
    monkeypatch: pytest.MonkeyPatch, wish: str
) -> None:
    inner = b"GET /inner HTTP/1.1\r\nHost: a\r\n\r\n"
    padding = b"\r\n" * 1000
    head = (
        f"POST /outer HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: {wish}\r\n"
        f"Content-Length: {len(padding + inner)}\r\n\r\n"
    )
    found = await replies(monkeypatch, head.encode() + padding, inner, inner)
    assert found == [f"200 /outer {len(padding + inner)};", "200 /inner 0;"], "the second is a request of its own"


async def test_a_request_began_when_its_first_bytes_came_and_not_when_they_were_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "perf_counter", lambda: 100.0)
    first = f"POST {BEGAN} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n".encode()
    second = f"GET {BEGAN} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    connection = FakeSocket([1500, 300])  # asked at the beginning of each, and not for the rest of its head or its body
    found = await replies(monkeypatch, first[:9], first[9:], b"{}", second, client=connection)
    assert found == ["200 98.5;", "200 99.7;"]


def test_a_wait_shorter_than_the_ticks_of_the_kernel_is_none() -> None:
    transport = FakeTransport(FakeSocket([10, 11]))
    assert [unread_s(transport), unread_s(transport)] == [0.0, 0.011]


async def test_a_beginning_that_is_no_request_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await replies(monkeypatch, b"no request\r\n\r\n", client=FakeSocket([0])) == [
        "400 Invalid HTTP request received."
    ]


@pytest.mark.parametrize("at_once", [1000, 300_000])
async def test_headers_have_a_limit_and_bodies_do_not(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    def parts(length: int) -> list[bytes]:
        head = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\nX-A: " + b"a" * length + b"\r\n\r\n"
        request = head + b"a" * 200_000
        return [request[start : start + at_once] for start in range(0, len(request), at_once)]

    assert await replies(monkeypatch, *parts(MAX_HEAD_BYTES - 100)) == ["200 /a 200000;"]
    assert [answer[:3] for answer in await replies(monkeypatch, *parts(MAX_HEAD_BYTES + 1000))] == ["400"]


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        (b"x-request-id", b"\xff", 422),
        (b"x_session-id", b"caf\xe9", 422),
        (b"x-request-id", "né".encode(), 200),
        (b"user-agent", b"caf\xe9", 200),
    ],
)
async def test_a_header_that_serve_could_not_read_is_refused(name: bytes, value: bytes, status: int) -> None:
    transport = httpx.ASGITransport(HeaderCheck(application))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        reply = await http.post("/v1/rerank", headers=[(name, value)], content=b"{}")
    assert reply.status_code == status
    if status == 422:
        assert reply.json()["error"]["message"] == f"header {name.decode()}: this is not UTF-8"


@pytest.mark.parametrize("name", [b"x-request-timeout-seconds", b"X_Request-Disconnect-Disabled"])
async def test_a_client_gives_no_orders_to_serve(name: bytes) -> None:
    transport = httpx.ASGITransport(HeaderCheck(application))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        reply = await http.post("/v1/rerank", headers=[(name, b"1e-9")], content=b"{}")
    assert reply.status_code == 422
    assert reply.json()["error"]["message"].startswith(f"header {name.decode().lower()} is not taken here; ")


@pytest.mark.parametrize(("body", "status"), [(b"", 200), (b"{}", 422)])
async def test_paths_of_serve_take_no_body(body: bytes, status: int) -> None:
    transport = httpx.ASGITransport(HeaderCheck(application))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        assert (await http.post("/-/healthz", content=body)).status_code == status


@pytest.mark.parametrize(("chunked", "closes"), [(False, False), (True, True)])
async def test_a_body_that_may_have_no_end_is_not_received_to_it(chunked: bool, closes: bool) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"{}"

    transport = httpx.ASGITransport(HeaderCheck(application, close_after_s=0.0))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        headers = [(b"x-request-id", b"\xff")]
        reply = await http.post("/v1/rerank", headers=headers, content=body() if chunked else b"{}")
    assert (reply.status_code, reply.headers.get("connection") == "close") == (422, closes)
