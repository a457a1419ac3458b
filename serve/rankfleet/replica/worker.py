"""The worker of a replica: runs a `ReplicaCore` on an event loop, with a future for each chunk."""

import asyncio
import logging
from collections.abc import Callable, Container, Iterable, Mapping
from functools import partial

from rankfleet.core.errors import Expired, NotHosted
from rankfleet.core.messages import Chunk, ChunkScores
from rankfleet.core.quiet import quietly
from rankfleet.core.sections import Routing, Scheduling
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.precision import Precision
from rankfleet.replica.batching import select_batch
from rankfleet.replica.core import ReplicaCore
from rankfleet.replica.device import PROBE_PAIRS, ScoreBatch
from rankfleet.replica.expiry import ExpiryTimer
from rankfleet.replica.hosting import HostedModel
from rankfleet.replica.pending import Batch, Part, PendingChunk
from rankfleet.replica.queue import SelectBatch

log = logging.getLogger("ray.serve")


class ChunkFuture(asyncio.Future[ChunkScores]):
    """The future of a chunk, which calls `on_cancel` as it is cancelled.

    A done callback would be called a round of the event loop later, when the chunk may be on the device already.
    """

    on_cancel: Callable[[], None]

    def cancel(self, msg: object = None) -> bool:
        is_cancelled = super().cancel(msg)
        if is_cancelled:
            self.on_cancel()
        return is_cancelled


class Worker:
    """Scores chunks on one device. All methods are called on one event loop."""

    def __init__(
        self,
        replica: str,
        hosted: Mapping[str, HostedModel],
        quality: Mapping[str, float],
        batch_tokens: int,
        score: ScoreBatch,
        clock: Callable[[], float],
        on_batch: Callable[[int, float], None] = lambda tokens, backlog_s: None,
        routing: Routing = Routing(),  # noqa: B008  (frozen)
        scheduling: Scheduling = Scheduling(),  # noqa: B008  (frozen)
        select_batch: SelectBatch[Part] = select_batch,
    ) -> None:
        """
        replica: the name that answers carry
        hosted: models by fingerprint
        quality: nDCG@10 by tier, hosted here or not
        score: scores one batch; `executor_scorer`, or a simulated device
        on_batch: called as each batch starts, with its tokens and the backlog in seconds
        """
        self._replica = replica
        self._core = ReplicaCore(replica, quality, batch_tokens, routing, scheduling, select_batch)
        self.load = self._core.load
        self._futures: dict[PendingChunk, ChunkFuture] = {}
        self._score = score
        self._expiry = ExpiryTimer(self._expire, clock)
        self._on_batch = quietly(on_batch)
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        for fingerprint, model in hosted.items():
            self.host(fingerprint, model)

    # What is hosted

    def adjust(self, quality: Mapping[str, float], batch_tokens: int, routing: Routing, scheduling: Scheduling) -> None:
        """Change the settings. They apply to the chunks that wait, too."""
        self._core.adjust(quality, batch_tokens, routing, scheduling)

    def host(self, fingerprint: str, model: HostedModel) -> None:
        """Score with this model too. Its tier goes by it from now on."""
        self._core.hosted.host(fingerprint, model, self._clock())

    def name(self, fingerprints: Mapping[str, str]) -> None:
        """Let each tier go by the hosted model of this fingerprint."""
        self._core.hosted.set_current(fingerprints)

    def forget(self, kept: Container[str], unused_s: float) -> list[str]:
        """Drop the models that no chunk needs or has asked for within `unused_s`; see `ReplicaCore.forget`."""
        return self._core.forget(kept, unused_s, self._clock())

    @property
    def hosts(self) -> frozenset[str]:
        """Fingerprints of the hosted models."""
        return self._core.hosted.fingerprints

    @property
    def weights(self) -> frozenset[str]:
        """Fingerprints of the weights of the hosted models."""
        return self._core.hosted.weights

    @property
    def precisions(self) -> dict[str, Precision]:
        """What the hosted models are computed in, by fingerprint."""
        return self._core.hosted.precisions

    @property
    def models(self) -> dict[str, LatencyModel]:
        """Latency models by fingerprint, corrected by what batches have taken."""
        return self._core.models(self._clock())

    # Scoring

    def submit(self, chunk: Chunk) -> "asyncio.Future[ChunkScores]":
        """Queue a chunk. The future raises

        - NotHosted if this replica hosts no tier that may score it; during an update it may come from a router that
          serves another version of the fleet file;
        - Expired as soon as it cannot meet its deadline any more;
        - what scoring raises.

        Cancelling the future takes the chunk out of the queue. It costs no device time unless its batch has started.
        """
        future = ChunkFuture(loop=asyncio.get_running_loop())
        try:
            pending = self._core.submit(chunk, self._clock())
        except NotHosted as error:
            future.set_exception(error)
            return future
        future.on_cancel = partial(self._cancel, pending)
        self._futures[pending] = future
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run_batches())
        elif self.busy:
            self._expiry.at(pending.latest_start_s)
        return future

    def _cancel(self, pending: PendingChunk) -> None:
        del self._futures[pending]
        self._core.cancel(pending)

    async def _run_batches(self) -> None:
        """Score batch after batch until no chunk waits."""
        batch = self._take()
        while batch is not None:
            try:
                self._on_batch(batch.tokens, self.backlog_s)
                logits, infer_s = await self._score(batch.model, batch.chunks)
            except BaseException as error:
                self._fail(batch, error)
                if not isinstance(error, Exception):  # the task is being cancelled
                    raise
                batch = self._take()
                continue
            scored, now_s = self._core.finish(infer_s * 1e3, self._clock()), self._clock()
            batch = self._take()
            for pending, scores in self._core.answers(scored, logits, infer_s * 1e3, now_s):
                self._futures.pop(pending).set_result(scores)

    def _take(self) -> Batch | None:
        """Put the next batch on the device, and fail the chunks that have expired."""
        batch, expired = self._core.take(self._clock())
        self._fail_expired(expired)
        self._expiry.at(self._core.latest_start_s)
        return batch

    def _fail(self, batch: Batch, error: BaseException) -> None:
        if isinstance(error, Exception):
            log.error("tier %s failed on a batch of %d chunks", batch.model.tier, len(batch.queued), exc_info=error)
        for pending in self._core.fail(self._clock()):
            self._futures.pop(pending).set_exception(error)

    def _expire(self) -> None:
        """Fail the chunks that have become infeasible while the device is busy."""
        self._fail_expired(self._core.expire(self._clock()))
        self._expiry.at(self._core.latest_start_s)

    def _fail_expired(self, expired: Iterable[PendingChunk]) -> None:
        for pending in expired:
            self._futures.pop(pending).set_exception(Expired(f"the budget ended in the queue of {self._replica}"))

    # Reports

    @property
    def backlog_s(self) -> float:
        """Predicted seconds of the waiting chunks and of the rest of the batch on the device."""
        return self._core.backlog_s(self._clock())

    @property
    def busy(self) -> bool:
        """Whether a batch is on the device."""
        return self._core.running is not None

    @property
    def stuck(self) -> bool:
        """Whether the batch on the device has taken so long that it will not come back."""
        return self._core.stuck(self._clock())

    @property
    def halted(self) -> bool:
        """Whether chunks wait and the task that scores them has ended."""
        return self._core.waiting > 0 and (self._task is None or self._task.done())

    @property
    def failures(self) -> int:
        """Batches in a row that have failed, of the model that fails most."""
        return self._core.hosted.failures

    async def probe(self) -> None:
        """Score ordinary pairs with each model whose last batch failed. Raises what scoring raises.

        Clears the failures of each model that can: its chunks were at fault.
        """
        hosted = self._core.hosted
        for fingerprint in hosted.failing:
            if fingerprint in hosted.fingerprints:  # not forgotten while another was probed
                model = hosted[fingerprint]
                await self._score(model, [Chunk((model.tier,), PROBE_PAIRS)])
                hosted.recovered(fingerprint)
