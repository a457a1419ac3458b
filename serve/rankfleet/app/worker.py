"""The device of a replica: a queue of chunks, and one thread that scores them batch after batch."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rankfleet.core.messages import Chunk, ChunkScores, Work
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.routing.latency import LatencyModel
from rankfleet.scheduling.queue import TokenQueue, Waiting

STUCK_S = 30.0  # a batch that takes longer than this and STUCK_FACTOR times its prediction will not come back
STUCK_FACTOR = 20.0

log = logging.getLogger("ray.serve")


class Scores(Protocol):
    """Raw logits of pairs: `engine.scorer.Scorer`, or a stand-in."""

    def score(self, pairs: TokenizedPairs) -> np.ndarray: ...


@dataclass(frozen=True)
class Pending:
    """A chunk in the queue, and who waits for it."""

    chunk: Chunk
    future: "asyncio.Future[ChunkScores]"
    queued_s: float


@dataclass(frozen=True)
class Running:
    """The batch on the device."""

    since_s: float
    predicted_ms: float


class Worker:
    """Takes chunks, gives futures. All methods are called on one event loop; only scoring runs in `executor`."""

    def __init__(
        self,
        replica: str,
        scorers: Mapping[str, Scores],
        latency: Mapping[str, LatencyModel],
        batch_tokens: int,
        executor: Executor,
        on_batch: Callable[[int, float], None] = lambda tokens, backlog_s: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """scorers, latency: by tier. on_batch hears the tokens of each batch and the backlog when it starts."""
        self._replica = replica
        self._scorers = scorers
        self._latency = latency
        self._queue: TokenQueue[Pending] = TokenQueue(batch_tokens)
        self._executor = executor
        self._on_batch = on_batch
        self._clock = clock
        self._running: Running | None = None
        self._task: asyncio.Task[None] | None = None

    def submit(self, chunk: Chunk) -> "asyncio.Future[ChunkScores]":
        """Queue a chunk. The future fails with KeyError for a tier that is not hosted; cancelled, it costs no
        device time unless that has begun."""
        future: asyncio.Future[ChunkScores] = asyncio.get_running_loop().create_future()
        if chunk.tier not in self._scorers:
            future.set_exception(KeyError(f"this replica does not host tier {chunk.tier!r}"))
            return future
        now = self._clock()
        deadline = math.inf if chunk.slack_ms is None else now + chunk.slack_ms / 1e3
        predicted = self._latency[chunk.tier].mean_ms(Work.of(chunk.pairs.lengths))
        self._queue.put(Waiting(chunk.tier, chunk.pairs.tokens, deadline, predicted, Pending(chunk, future, now)))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        return future

    @property
    def backlog_s(self) -> float:
        """Predicted seconds of what waits, and of what is left of the batch on the device."""
        left_ms = 0.0
        if self._running is not None:
            left_ms = max(0.0, self._running.predicted_ms - (self._clock() - self._running.since_s) * 1e3)
        return (self._queue.backlog_ms + left_ms) / 1e3

    @property
    def stuck(self) -> bool:
        """Whether the batch on the device has taken so long that it will not come back."""
        if self._running is None:
            return False
        predicted_s = self._running.predicted_ms / 1e3
        return self._clock() - self._running.since_s > max(STUCK_S, STUCK_FACTOR * predicted_s)

    async def _work(self) -> None:
        """Batch after batch while anything waits."""
        while len(self._queue):
            batch = [w for w in self._queue.take(self._clock()) if not w.item.future.done()]
            if batch:  # else all of it has been cancelled
                await self._run(batch)

    async def _run(self, batch: Sequence[Waiting[Pending]]) -> None:
        """Score one batch and answer its chunks. A fault fails the chunks it concerns and no others."""
        started = self._clock()
        self._running = Running(started, sum(w.predicted_ms for w in batch))
        try:
            self._on_batch(sum(w.tokens for w in batch), self.backlog_s)
            chunks = [w.item.chunk for w in batch]
            logits = await asyncio.get_running_loop().run_in_executor(self._executor, self._score, chunks)
        except Exception as error:
            if len(batch) > 1:
                log.warning("a batch of %d chunks failed (%s); scoring them one by one", len(batch), error)
                for waiting in batch:
                    await self._run([waiting])
            else:
                log.exception("scoring failed")
                if not batch[0].item.future.done():
                    batch[0].item.future.set_exception(error)
            return
        finally:
            self._running = None
        infer_ms = (self._clock() - started) * 1e3
        for waiting, scored in zip(batch, logits, strict=True):
            if not waiting.item.future.done():
                queue_ms = (started - waiting.item.queued_s) * 1e3
                scores = ChunkScores(scored, queue_ms, infer_ms, self._replica, self.backlog_s)
                waiting.item.future.set_result(scores)

    def _score(self, chunks: Sequence[Chunk]) -> list[np.ndarray]:
        """In the executor: one tier, one packed batch, cut back into chunks."""
        pairs = chunks[0].pairs if len(chunks) == 1 else TokenizedPairs.join([c.pairs for c in chunks])
        logits = self._scorers[chunks[0].tier].score(pairs)
        return np.split(logits, np.cumsum([len(c.pairs) for c in chunks])[:-1])
