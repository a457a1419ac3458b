"""The worker of a replica: queues chunks, scores them in batches on the device, and reports its load."""

import asyncio
import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from rankfleet.core.errors import Expired, NotHosted
from rankfleet.core.messages import Chunk, ChunkScores
from rankfleet.core.quiet import quietly
from rankfleet.core.sections import Routing, Scheduling
from rankfleet.core.work import Work
from rankfleet.estimates.frontier import frontier_of
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.load import ReplicaLoad
from rankfleet.replica.batching import QueuedChunk
from rankfleet.replica.device import Device
from rankfleet.replica.expiry import CallLater, ExpiryTimer
from rankfleet.replica.hosting import HostedModel, HostedModels
from rankfleet.replica.queue import TokenQueue

log = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class PendingChunk:
    """A chunk in the queue and the future that its sender waits for.

    unloaded: fingerprint of the hosted model it would get on an idle fleet; load is measured by this one
    """

    chunk: Chunk
    work: Work
    future: "asyncio.Future[ChunkScores]"
    queued_s: float
    unloaded: str


class Worker:
    """Scores chunks on one device. All methods are called on one event loop; scoring runs in `executor`."""

    def __init__(
        self,
        replica: str,
        hosted: Mapping[str, HostedModel],
        quality: Mapping[str, float],
        batch_tokens: int,
        executor: Executor,
        on_batch: Callable[[int, float], None] = lambda tokens, backlog_s: None,
        clock: Callable[[], float] = time.perf_counter,
        routing: Routing = Routing(),  # noqa: B008  (frozen)
        scheduling: Scheduling = Scheduling(),  # noqa: B008  (frozen)
        call_later: CallLater | None = None,
    ) -> None:
        """
        replica: the name that answers carry
        hosted: models by fingerprint
        quality: nDCG@10 by tier, hosted here or not
        on_batch: called as each batch starts, with its tokens and the backlog in seconds
        call_later: the running loop's if None
        """
        self._replica = replica
        self._hosted = HostedModels(quality)
        self._queue: TokenQueue[PendingChunk] = TokenQueue(batch_tokens, routing, scheduling=scheduling)
        self._device = Device(executor, clock)
        self._expiry = ExpiryTimer(self._expire, clock, call_later)
        self._on_batch = quietly(on_batch)
        self._clock = clock
        self._corrected_s = clock()  # idle time until then is in the latency correction
        self.load = ReplicaLoad()
        self._task: asyncio.Task[None] | None = None
        for fingerprint, model in hosted.items():
            self.host(fingerprint, model)

    # What is hosted

    def adjust(self, quality: Mapping[str, float], batch_tokens: int, routing: Routing, scheduling: Scheduling) -> None:
        """Change the settings. They apply to the chunks that wait, too."""
        self._hosted.adjust(quality)
        self._queue.adjust(batch_tokens, routing, scheduling)

    def host(self, fingerprint: str, model: HostedModel) -> None:
        """Score with this model too. Its tier goes by it from now on."""
        self._hosted.host(fingerprint, model, self._clock())

    def name(self, fingerprints: Mapping[str, str]) -> None:
        """Let each tier go by the hosted model of this fingerprint."""
        self._hosted.set_current(fingerprints)

    def forget(self, kept: Container[str], unused_s: float) -> list[str]:
        """Drop the models that no chunk has asked for within `unused_s` and none in the queue or on the device needs.

        kept: fingerprints that stay in any case. Returns the fingerprints of the models that were dropped.
        """
        in_use = {name for queued in self._queue for name in (*queued.frontier.index_by_tier, queued.item.unloaded)}
        if self._device.running is not None:
            in_use |= self._device.running.fingerprints
        return self._hosted.forget(kept, in_use, unused_s, self._clock())

    @property
    def hosts(self) -> frozenset[str]:
        """Fingerprints of the hosted models."""
        return self._hosted.fingerprints

    @property
    def weights(self) -> frozenset[str]:
        """Fingerprints of the weights of the hosted models."""
        return self._hosted.weights

    @property
    def models(self) -> dict[str, LatencyModel]:
        """Latency models by fingerprint, corrected by what batches have taken."""
        self._correct_for_idle_time()
        return self._hosted.latencies

    # Submitting

    def submit(self, chunk: Chunk) -> "asyncio.Future[ChunkScores]":
        """Queue a chunk. The future raises

        - NotHosted if this replica hosts no tier that may score it; during an update it may come from a router that
          serves another version of the fleet file;
        - Expired as soon as it cannot meet its deadline any more;
        - what scoring raises.

        Cancelling the future takes the chunk out of the queue. It costs no device time unless its batch has started.
        """
        future: asyncio.Future[ChunkScores] = asyncio.get_running_loop().create_future()
        hosted = self._hosted
        fingerprints = [fingerprint for tier in chunk.tiers if (fingerprint := hosted.resolve(tier, chunk)) is not None]
        if not fingerprints:
            future.set_exception(NotHosted(f"this replica does not host tier {chunk.tier!r} as the router means it"))
            return future
        now_s = self._clock()
        deadline_s = math.inf if chunk.slack_ms is None else now_s + chunk.slack_ms / 1e3
        work = Work.of(chunk.pairs.lengths)
        options = (hosted.option(fingerprint, work) for fingerprint in fingerprints)
        frontier = frontier_of(options, work.tokens / self._queue.max_tokens, hosted.quality_range)
        unloaded = self._unloaded_model(chunk, fingerprints[0])
        hosted.requested((*fingerprints, unloaded), now_s)
        unloaded_ms = self._amortized_ms(unloaded, work)
        pending = PendingChunk(chunk, work, future, now_s, unloaded)
        queued = QueuedChunk(work.tokens, deadline_s, frontier, pending, chunk.request)
        entry_id = self._queue.put(queued, now_s, device_idle=not self.busy)
        self.load.arrived(unloaded_ms)

        def left(done: "asyncio.Future[ChunkScores]") -> None:
            self.load.left(unloaded_ms)
            if done.cancelled():
                self._queue.cancel(entry_id)

        future.add_done_callback(left)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run_batches())
        elif self.busy:
            self._expiry.at(queued.latest_start_s)
        return future

    def _unloaded_model(self, chunk: Chunk, otherwise: str) -> str:
        """Fingerprint of the chunk's unloaded tier, or else of its planned tier, if that is hosted here."""
        for tier in (chunk.unloaded_tier, chunk.tier):
            if (fingerprint := self._hosted.resolve(tier, chunk)) is not None:
                return fingerprint
        return otherwise

    def _amortized_ms(self, fingerprint: str, work: Work) -> float:
        """Mean device time of a chunk in a full batch."""
        return self._hosted.latency(fingerprint).amortized_ms(work, min(1.0, work.tokens / self._queue.max_tokens))

    # Running batches

    async def _run_batches(self) -> None:
        """Score batch after batch until the queue is empty."""
        while len(self._queue):
            taken = self._queue.take(self._clock())
            self._fail_expired(taken.infeasible)
            # A future that was cancelled a moment ago may not have called back yet.
            batch = [queued.item for queued in taken.batch if not queued.item.future.done()]
            if taken.decision.tier is not None and batch:
                self._expiry.at(self._queue.latest_start_s)
                await self._run(taken.decision.tier, taken.decision.predicted_ms, batch)

    async def _run(self, fingerprint: str, predicted_ms: float, batch: Sequence[PendingChunk]) -> None:
        """Score one batch and answer its chunks. If it fails, score its chunks one by one: only those at fault fail."""
        self._correct_for_idle_time()
        model = self._hosted[fingerprint]
        needed = frozenset({fingerprint, *(pending.unloaded for pending in batch)})
        try:
            with self._device.occupied(predicted_ms, needed):
                self._on_batch(sum(pending.work.tokens for pending in batch), self.backlog_s)
                logits, infer_s = await self._device.score(model, [pending.chunk for pending in batch])
        except Exception as error:
            if len(batch) > 1:
                log.warning("a batch of %d chunks failed (%s); scoring them one by one", len(batch), error)
                for pending in batch:
                    await self._run(fingerprint, predicted_ms, [pending])
            else:
                log.exception("tier %s failed on a batch", model.tier)
                self._hosted.failed(fingerprint)
                if not batch[0].future.done():
                    batch[0].future.set_exception(error)
            return
        self._hosted.succeeded(fingerprint, (pending.work for pending in batch), infer_s * 1e3)
        self._answer(fingerprint, batch, logits, infer_s)

    def _answer(
        self, fingerprint: str, batch: Sequence[PendingChunk], logits: Sequence[np.ndarray], infer_s: float
    ) -> None:
        """Count a batch that was scored, and answer its chunks."""
        for pending in batch:
            self.load.scored(
                self._amortized_ms(pending.unloaded, pending.work),
                self._amortized_ms(fingerprint, pending.work),
                downgraded=self._hosted.is_below(fingerprint, pending.chunk.unloaded_tier),
            )
        waiting_ms: defaultdict[str, float] = defaultdict(float)  # by router
        for queued in self._queue:
            waiting_ms[queued.item.chunk.sender] += queued.min_ms
        model, done_s = self._hosted[fingerprint], self._device.ended_s
        for pending, chunk_logits in zip(batch, logits, strict=True):
            if not pending.future.done():
                others_s = (sum(waiting_ms.values()) - waiting_ms[pending.chunk.sender]) / 1e3
                pending.future.set_result(
                    ChunkScores(
                        chunk_logits,
                        queue_ms=(done_s - pending.queued_s - infer_s) * 1e3,
                        infer_ms=infer_s * 1e3,
                        replica=self._replica,
                        backlog_s=self.backlog_s,
                        tier=model.tier,
                        others_s=others_s,
                        model=model.weights,
                    )
                )

    def _correct_for_idle_time(self) -> None:
        """Let the latency correction decay by the time that the device has been idle."""
        now_s = self._clock()
        if not self.busy and not len(self._queue):
            self._hosted.rested(max(0.0, now_s - max(self._corrected_s, self._device.ended_s)))
        self._corrected_s = now_s

    def _expire(self) -> None:
        """Fail the chunks that have become infeasible while the device is busy."""
        self._fail_expired(self._queue.expire(self._clock()))
        self._expiry.at(self._queue.latest_start_s)

    def _fail_expired(self, infeasible: Sequence[QueuedChunk[PendingChunk]]) -> None:
        for queued in infeasible:
            if not queued.item.future.done():
                queued.item.future.set_exception(Expired(f"the budget ended in the queue of {self._replica}"))

    # Reports

    @property
    def backlog_s(self) -> float:
        """Predicted seconds of the waiting chunks and of the rest of the batch on the device."""
        return (self._queue.backlog_ms + self._device.left_ms) / 1e3

    @property
    def busy(self) -> bool:
        """Whether a batch is on the device."""
        return self._device.running is not None

    @property
    def stuck(self) -> bool:
        """Whether the batch on the device has taken so long that it will not come back."""
        return self._device.stuck

    @property
    def halted(self) -> bool:
        """Whether chunks wait and the task that scores them has ended."""
        return len(self._queue) > 0 and (self._task is None or self._task.done())

    @property
    def failures(self) -> int:
        """Batches in a row that have failed, of the model that fails most."""
        return self._hosted.failures

    async def probe(self) -> None:
        """Score ordinary pairs with each model whose last batch failed. Raises what scoring raises.

        Clears the failures of each model that can: its chunks were at fault.
        """
        for fingerprint in self._hosted.failing:
            if fingerprint not in self._hosted.fingerprints:  # forgotten while another was probed
                continue
            await self._device.probe(self._hosted[fingerprint])
            self._hosted.recovered(fingerprint)
