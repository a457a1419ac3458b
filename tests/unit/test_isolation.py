"""What tests/unit/conftest.py promises: a unit test that leaves this process, or waits for time to pass, fails."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable

import httpx
import pytest
import ray


async def expired_timeout() -> None:
    async with asyncio.timeout(0.01):
        await asyncio.Event().wait()


async def connection() -> None:
    await asyncio.open_connection("127.0.0.1", 9)


def connect(host: str) -> None:
    with socket.socket() as client:
        client.connect((host, 9))


async def long_sleep() -> None:
    await asyncio.sleep(0.01)


@pytest.mark.parametrize("forbidden", [expired_timeout, connection, long_sleep])
def test_coroutines_that_wait_or_connect_fail(forbidden: Callable[[], Awaitable[None]]) -> None:
    with pytest.raises(AssertionError, match="a unit test may not"):
        asyncio.run(forbidden())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda: time.sleep(0.01),
        lambda: ray.get("no reference"),  # which would start Ray by itself
        lambda: connect("127.0.0.1"),
        lambda: httpx.get("http://localhost:9/", trust_env=False),
    ],
)
def test_calls_that_wait_or_connect_fail(forbidden: Callable[[], object]) -> None:
    with pytest.raises(AssertionError, match="a unit test may not"):
        forbidden()


async def test_other_tasks_and_threads_may_be_waited_for() -> None:
    async with asyncio.timeout(60):
        await asyncio.sleep(0)
        assert await asyncio.to_thread(sum, [1, 2]) == 3
