"""A replica of a group: collects chunks, orders them, scores them in a thread of its own."""

import asyncio
import logging
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ray import serve

from rankfleet.app.telemetry import GroupTelemetry
from rankfleet.core.config import FleetConfig, parse_config
from rankfleet.core.messages import Chunk, ChunkScores, Work
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.routing.latency import LatencyModel, fit
from rankfleet.routing.profile import read_profile
from rankfleet.scheduling.queue import TokenQueue, Waiting

if TYPE_CHECKING:
    from rankfleet.engine.scorer import Scorer

WARM_UP_S = 5.0  # most time spent on measuring one tier before the replica takes traffic

log = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Pending:
    """A chunk in the queue, and who waits for it."""

    chunk: Chunk
    future: "asyncio.Future[ChunkScores]"
    queued_s: float


@dataclass(frozen=True)
class GroupReport:
    """What a group tells a router when asked."""

    replica: str
    latency: dict[str, LatencyModel]


class ReplicaGroup:
    """The deployment behind one group of the fleet."""

    def __init__(self, name: str, config: dict[str, object]) -> None:
        import torch

        from rankfleet.engine.checkpoint import find_checkpoint
        from rankfleet.engine.scorer import Scorer

        fleet = parse_config(config)
        settings = fleet.groups[name]
        torch.set_num_threads(settings.threads)
        self._name = name
        self._replica = serve.get_replica_context().replica_id.unique_id
        self._scorers: dict[str, Scorer] = {}
        for tier in settings.tiers:
            checkpoint = find_checkpoint(fleet.tiers[tier].model, fleet.tiers[tier].revision)
            self._scorers[tier] = Scorer.load(checkpoint, settings.dtype)
        self._latency = warm_up(fleet, self._scorers)
        self._queue: TokenQueue[Pending] = TokenQueue(settings.batch_tokens)
        self._running_ms = 0.0
        self._engine = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._worker: asyncio.Task[None] | None = None
        self._telemetry = GroupTelemetry(name)

    async def report(self) -> GroupReport:
        return GroupReport(self._replica, self._latency)

    async def score(self, chunk: Chunk) -> ChunkScores:
        """Raw logits of a chunk. Raises KeyError for a tier this group does not host."""
        scores = await self._collect(chunk)
        return await scores

    @serve.batch(max_batch_size=1024, batch_wait_timeout_s=0.0)
    async def _collect(self, chunks: list[Chunk]) -> list["asyncio.Future[ChunkScores]"]:
        """Concurrent chunks into the queue. Gives back futures, so that no chunk waits for its neighbours:
        the order of work is the queue's to decide."""
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return [self._enqueue(chunk) for chunk in chunks]

    def _enqueue(self, chunk: Chunk) -> "asyncio.Future[ChunkScores]":
        future: asyncio.Future[ChunkScores] = asyncio.get_running_loop().create_future()
        if chunk.tier not in self._scorers:
            future.set_exception(KeyError(f"group {self._name} does not host tier {chunk.tier!r}"))
            return future
        now = time.perf_counter()
        deadline = math.inf if chunk.slack_ms is None else now + chunk.slack_ms / 1e3
        predicted = self._latency[chunk.tier].mean_ms(Work.of(chunk.pairs.lengths))
        self._queue.put(Waiting(chunk.tier, chunk.pairs.tokens, deadline, predicted, Pending(chunk, future, now)))
        return future

    async def _work(self) -> None:
        """Score batch after batch while anything waits."""
        loop = asyncio.get_running_loop()
        while len(self._queue):
            batch = [waiting for waiting in self._queue.take() if not waiting.item.future.done()]
            if not batch:  # all of it had been cancelled
                continue
            self._running_ms = sum(w.predicted_ms for w in batch)
            chunks = [w.item.chunk for w in batch]
            started = time.perf_counter()
            try:
                logits = await loop.run_in_executor(self._engine, self._score, chunks)
            except Exception as error:
                log.exception("scoring failed")
                for waiting in batch:
                    if not waiting.item.future.done():
                        waiting.item.future.set_exception(error)
                continue
            finally:
                self._running_ms = 0.0
            infer_ms = (time.perf_counter() - started) * 1e3
            self._telemetry.batch(sum(w.tokens for w in batch))
            for waiting, scored in zip(batch, logits, strict=True):
                if not waiting.item.future.done():
                    queue_ms = (started - waiting.item.queued_s) * 1e3
                    waiting.item.future.set_result(
                        ChunkScores(scored, queue_ms, infer_ms, self._replica, self._backlog_s())
                    )

    def _score(self, chunks: list[Chunk]) -> list[np.ndarray]:
        """Runs in the engine's thread: one tier, one packed batch, cut back into chunks."""
        pairs = chunks[0].pairs if len(chunks) == 1 else TokenizedPairs.join([c.pairs for c in chunks])
        logits = self._scorers[chunks[0].tier].score(pairs)
        return np.split(logits, np.cumsum([len(c.pairs) for c in chunks])[:-1])

    def _backlog_s(self) -> float:
        return (self._queue.backlog_ms + self._running_ms) / 1e3

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Read by the autoscaling policy."""
        backlog_s = self._backlog_s()
        self._telemetry.backlog(backlog_s)
        return {"backlog_s": backlog_s}


def warm_up(fleet: FleetConfig, scorers: "dict[str, Scorer]") -> dict[str, LatencyModel]:
    """One latency model per tier: the stored profile's where there is one, else measured here and now. Either
    way every tier has scored before the replica takes traffic."""
    from rankfleet.engine.measure import QUICK, measure

    stored = read_profile(fleet.profile) if fleet.profile else {}
    models = {}
    for tier, scorer in scorers.items():
        repeats, most_s = (1, 1.0) if tier in stored else (4, WARM_UP_S)
        samples = list(measure(scorer, fleet.tiers[tier].max_tokens or 512, QUICK, repeats, most_s))
        models[tier] = stored.get(tier) or fit(samples)
    return models
