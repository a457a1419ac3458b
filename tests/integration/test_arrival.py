"""The real kernel tells when a request's bytes came."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable

import pytest
import uvicorn
import uvloop
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from rankfleet.cluster.http_server import TICK_S, HttpProtocol

BLOCKED_S = 0.5


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers for how many seconds a request has lain unread."""
    _, began_s = scope["rankfleet.began"]
    await PlainTextResponse(str(time.perf_counter() - began_s))(scope, receive, send)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_request_counts_from_when_its_bytes_came_to_a_busy_process(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def waits() -> list[float]:
        loop = asyncio.get_running_loop()
        config = uvicorn.Config(application, lifespan="off", log_config=None, access_log=False)
        config.load()
        state = ServerState()
        server = await loop.create_server(lambda: HttpProtocol(config, state, {}), "127.0.0.1", 0)
        found = []
        with contextlib.closing(socket.create_connection(server.sockets[0].getsockname())) as client:
            client.setblocking(False)
            for _ in range(3):  # the first of a connection that has not been accepted, the others of one that has
                client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                time.sleep(BLOCKED_S)  # the whole process, which the client belongs to
                reply = b""
                while b"\r\n\r\n" not in reply:
                    reply += await loop.sock_recv(client, 10_000)
                found.append(float(reply.partition(b"\r\n\r\n")[2]))
        server.close()
        await server.wait_closed()
        return found

    with contextlib.closing(new_loop()) as loop:
        found = loop.run_until_complete(asyncio.wait_for(waits(), 60.0))
    assert all(BLOCKED_S - TICK_S <= waited_s < 10 * BLOCKED_S for waited_s in found), found
