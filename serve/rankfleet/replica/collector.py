"""The way of chunks through `@serve.batch`, which collects those that arrive together, into the worker's queue."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from rankfleet.core.messages import Chunk, ChunkScores

T = TypeVar("T")

log = logging.getLogger("ray.serve")


def submit_each(
    submit: Callable[[Chunk], "asyncio.Future[ChunkScores]"], chunks: Sequence[Chunk]
) -> list["asyncio.Future[ChunkScores]"]:
    """Submit chunks that were collected together. One that cannot be queued fails alone."""

    def one(chunk: Chunk) -> "asyncio.Future[ChunkScores]":
        try:
            return submit(chunk)
        except Exception as error:
            log.exception("a chunk could not be queued")
            failed: asyncio.Future[ChunkScores] = asyncio.get_running_loop().create_future()
            failed.set_exception(error)
            return failed

    return [one(chunk) for chunk in chunks]


class CollectorWatchdog:
    """Knows how long chunks have been held by the collector, to tell whether its task has ended."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._since_s: dict[int, float] = {}  # number of the chunk → when it arrived, in order of arrival
        self._next = 0

    async def watch(self, submitted: Awaitable[T]) -> T:
        """Return what `submitted` returns, once the collector has submitted the chunk."""
        number = self._next
        self._next += 1
        self._since_s[number] = self._clock()
        try:
            return await submitted
        finally:
            del self._since_s[number]

    @property
    def held_s(self) -> float:
        """How long the oldest chunk that is not submitted yet has been held; 0 if there is none."""
        return self._clock() - next(iter(self._since_s.values())) if self._since_s else 0.0
