"""Unit tests run in this process alone: one that starts Ray, waits for time to pass, or opens a connection fails."""

import asyncio
import selectors
import socket
import time
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
import ray
from ray import serve

from rankfleet.simulate.virtual_time import VirtualLoop


def refuse(what: str) -> Callable[..., NoReturn]:
    def raise_error(*_: object, **__: object) -> NoReturn:
        raise AssertionError(f"a unit test may not {what}")

    return raise_error


@pytest.fixture(autouse=True)
def _in_this_process_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((ray, "init"), (serve, "start"), (serve, "run")):
        monkeypatch.setattr(module, name, refuse("start Ray"))
    monkeypatch.setattr(time, "sleep", refuse("sleep; hand a clock over"))
    monkeypatch.setattr(asyncio, "sleep", let_others_run)
    monkeypatch.setattr(selectors.DefaultSelector, "select", select_without_waiting_for_a_timer)
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse("open a connection"))
    monkeypatch.setattr(socket, "getaddrinfo", refuse("look up a host name"))


yield_to_others = asyncio.sleep


async def let_others_run(delay: float, result: Any = None) -> Any:
    """asyncio.sleep(0), which other tasks need to run; any longer sleep is refused, except on a virtual clock."""
    virtual = isinstance(asyncio.get_running_loop(), VirtualLoop)
    if delay > 0 and not virtual:
        refuse("sleep; hand a clock over")()
    return await yield_to_others(delay if virtual else 0, result)


select = selectors.DefaultSelector.select


def select_without_waiting_for_a_timer(selector: Any, timeout: float | None = None) -> Any:
    """Let an event loop wait for other threads, but for no timer of its own.

    A time-out that is cancelled before it ends is fine; to see one end, set the loop's `time` forward.
    """
    ready = select(selector, timeout)
    if not ready and timeout is not None and timeout > 0:
        refuse("wait for a timer; hand a clock over")()
    return ready
