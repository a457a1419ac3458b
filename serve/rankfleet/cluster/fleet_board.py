"""How the board (`autoscaler/board.py`) gets from Serve's controller to routers and to `rankfleet serve`: as a text in
the store of Ray's control service, which the autoscaling policy writes once a second."""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from rankfleet.autoscaler.board import Board, parse_board
from rankfleet.cluster.ray_private import ClusterStore

KEY = "board"
PERIOD_S = 1.0  # between two writes, and between two reads of one process
WAIT_S = 0.5  # that a reader waits for the store before it goes on with what it has read before

log = logging.getLogger("ray.serve")


def board_now() -> Board:
    """The board of the cluster that this process has started. Waits for the store."""
    return parse_board(ClusterStore().get(KEY))


class Store(Protocol):
    """Texts by key: `ClusterStore`, or a fake."""

    def get(self, key: str) -> str | None: ...
    def set(self, key: str, value: str) -> None: ...


def in_thread(call: Callable[[], None]) -> None:
    threading.Thread(target=call, daemon=True).start()


class BoardWriter:
    """Writes the board in the background, so that the controller never waits for the store. Errors are logged only."""

    def __init__(self, store: Store | None = None, start: Callable[[Callable[[], None]], None] = in_thread) -> None:
        """start: runs a call in the background."""
        self._store = store or ClusterStore()
        self._start = start
        self._next_s = -float("inf")
        self._writing = False
        self._failed = False

    def write(self, board: Callable[[], Board], now_s: float) -> None:
        """Write the board, unless that was done within PERIOD_S or is not done yet. Never raises."""
        if now_s < self._next_s or self._writing:
            return
        self._next_s = now_s + PERIOD_S
        self._writing = True
        try:
            text = board().to_json()
            self._start(lambda: self._put(text))
        except Exception as error:
            self._ended(error)

    def _put(self, text: str) -> None:
        try:
            self._store.set(KEY, text)
            self._ended(None)
        except Exception as error:  # the control service is away
            self._ended(error)

    def _ended(self, error: Exception | None) -> None:
        if error is not None and not self._failed:  # one line until it works again
            log.warning("people are not told of scaling decisions: %s", error)
        self._failed = error is not None
        self._writing = False


class BoardReader:
    """Reads the board for a process that answers requests: in a thread, one read at a time, at most one a second."""

    def __init__(
        self,
        store: Store | None = None,
        clock: Callable[[], float] = time.monotonic,
        in_thread: Callable[..., Awaitable[str | None]] = asyncio.to_thread,
    ) -> None:
        self._store = store or ClusterStore()
        self._in_thread = in_thread
        self._clock = clock
        self._text: str | None = None
        self._board = Board()
        self._seen_s = self._read_s = -float("inf")  # when this text was first read, and when the store was asked
        self._reading: asyncio.Task[None] | None = None

    async def read(self) -> Board:
        """The board with ages as of now; an empty one if none has been written. Never raises."""
        if self._reading is None and self._clock() >= self._read_s + PERIOD_S:
            self._reading = asyncio.create_task(self._refresh())
        if self._reading is not None:
            await asyncio.wait({self._reading}, timeout=WAIT_S)
        return self._board.older(self._clock() - self._seen_s)

    async def _refresh(self) -> None:
        try:
            text = await self._in_thread(self._store.get, KEY)
            if text != self._text:
                self._text, self._board, self._seen_s = text, parse_board(text), self._clock()
        except Exception as error:
            log.info("scaling decisions cannot be read: %s", error)
        finally:
            self._read_s, self._reading = self._clock(), None
