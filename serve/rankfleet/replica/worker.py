"""The device of a replica: a queue of chunks, and one thread that scores them batch after batch."""

import asyncio
import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rankfleet.core.errors import Expired, NotHosted, ScoringFailed
from rankfleet.core.messages import Chunk, ChunkScores, Work
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.core.quiet import quietly
from rankfleet.core.sections import Routing, Scheduling
from rankfleet.estimates.correction import Correction
from rankfleet.estimates.frontier import frontier_of, scale_of
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.load import ReplicaLoad
from rankfleet.replica.batching import Waiting
from rankfleet.replica.queue import TokenQueue

STUCK_S = 30.0  # a batch that takes longer than this and STUCK_FACTOR times its prediction will not come back
STUCK_FACTOR = 20.0
# What a device has to be able to score: eight pairs of 64 tokens, all of the one that every vocabulary has.
ORDINARY = TokenizedPairs(np.zeros(512, np.int32), np.full(8, 64, np.int32), np.full(8, 8, np.int32))
LATE_S = 1e-4  # past the last moment, so that rounding leaves no doubt

log = logging.getLogger("ray.serve")


class PairScorer(Protocol):
    """Raw logits of pairs: `engine.scorer.Scorer`, or a stand-in."""

    def score(self, pairs: TokenizedPairs) -> np.ndarray: ...


class Alarm(Protocol):
    """What `call_later` gives: `asyncio.TimerHandle`, or a stand-in."""

    def cancel(self) -> None: ...


CallLater = Callable[[float, Callable[[], None]], Alarm]


@dataclass(frozen=True)
class HostedModel:
    """A model that this replica scores with. tier: the name it goes by; weights: fingerprint of the weights and the
    precision that they are computed in."""

    tier: str
    scorer: PairScorer
    latency: LatencyModel
    weights: str = ""


@dataclass(frozen=True)
class PendingChunk:
    """A chunk in the queue, and who waits for it."""

    chunk: Chunk
    work: Work
    future: "asyncio.Future[ChunkScores]"
    queued_s: float
    unloaded: str


@dataclass(frozen=True)
class RunningBatch:
    """The batch on the device. models: that it needs until it is answered."""

    since_s: float
    predicted_ms: float
    models: frozenset[str]


class Worker:
    """Takes chunks, gives futures. All methods are called on one event loop; only scoring runs in `executor`."""

    def __init__(
        self,
        replica: str,
        hosted: Mapping[str, HostedModel],
        quality: Mapping[str, float],
        batch_tokens: int,
        executor: Executor,
        on_batch: Callable[[int, float], None] = lambda tokens, backlog_s: None,
        clock: Callable[[], float] = time.perf_counter,
        rule: Routing = Routing(),  # noqa: B008  (frozen)
        settings: Scheduling = Scheduling(),  # noqa: B008  (frozen)
        call_later: CallLater | None = None,
    ) -> None:
        """hosted: by fingerprint; quality: by tier, hosted here or not. on_batch hears the tokens of each batch and the
        backlog as it starts. call_later: seconds and what to do then; the running loop's by default."""
        self._replica = replica
        self._hosted: dict[str, HostedModel] = {}
        self._named: dict[str, str] = {}  # tier → the model that goes by its name
        self._asked_s: dict[str, float] = {}  # model → when it was asked for last
        self._correction = Correction()
        self._queue: TokenQueue[PendingChunk] = TokenQueue(batch_tokens, rule, settings=settings)
        self._executor = executor
        self._on_batch = quietly(on_batch)
        self._clock = clock
        self._call_later = call_later
        self._alarm_s = math.inf
        self._alarm: Alarm | None = None
        self.load = ReplicaLoad()
        self._failures: dict[str, int] = {}  # model → batches that have failed since its last that did not
        self._running: RunningBatch | None = None
        self._busy_s = clock()  # until when the correction is as of now
        self._task: asyncio.Task[None] | None = None
        self._quality: dict[str, float] = {}
        self.adjust(quality, batch_tokens, rule, settings)
        for name, model in hosted.items():
            self.host(name, model)

    def adjust(self, quality: Mapping[str, float], batch_tokens: int, rule: Routing, settings: Scheduling) -> None:
        """Go on by other settings; what waits is decided by them too."""
        # Of a tier that is no longer in the file the last that was known: what waits may still be for it.
        self._quality = {**self._quality, **quality}
        self._queue.adjust(batch_tokens, rule, settings)

    def host(self, name: str, model: HostedModel) -> None:
        """Score with this model from now on, besides the others."""
        self._hosted[name] = model
        self._named[model.tier] = name
        self._asked_s[name] = self._clock()

    def name(self, models: Mapping[str, str]) -> None:
        """Let each tier go by the model of this fingerprint, of those hosted: after a change that was taken back, not
        by the one that came last."""
        self._named.update(models)

    @property
    def hosts(self) -> frozenset[str]:
        """Fingerprints."""
        return frozenset(self._hosted)

    @property
    def weights(self) -> frozenset[str]:
        """Fingerprints of the weights of what it hosts."""
        return frozenset(hosted.weights for hosted in self._hosted.values())

    def forget(self, kept: Container[str], unused_s: float) -> list[str]:
        """Host those no more that nobody has asked for in so many seconds, and nothing that waits may be scored with.
        Returns their fingerprints."""
        in_use = {name for each in self._queue for name in (*each.frontier.by_tier, each.item.unloaded)}
        if self._running is not None:
            in_use |= self._running.models
        before_s = self._clock() - unused_s
        gone = [
            name for name in self._hosted if name not in kept and name not in in_use and self._asked_s[name] <= before_s
        ]
        for name in gone:
            tier = self._hosted.pop(name).tier
            if self._named.get(tier) == name:
                del self._named[tier]
            self._failures.pop(name, None)
        return gone

    def submit(self, chunk: Chunk) -> "asyncio.Future[ChunkScores]":
        """Queue a chunk. The future fails with NotHosted where no tier it may be scored with is hosted, as one of
        another version of the fleet may be sent while an update goes on, and with Expired when it cannot be in time
        any more; cancelled, it costs no device time unless that has begun."""
        future: asyncio.Future[ChunkScores] = asyncio.get_running_loop().create_future()
        meant = [name for tier in chunk.tiers if (name := self._meant(tier, chunk)) is not None]
        if not meant:
            future.set_exception(NotHosted(f"this replica does not host tier {chunk.tier!r} as the router means it"))
            return future
        now = self._clock()
        deadline = math.inf if chunk.slack_ms is None else now + chunk.slack_ms / 1e3
        work = Work.of(chunk.pairs.lengths)
        options = (self._model(name).option(name, self._quality_of(name), work) for name in meant)
        scale = scale_of(self._quality_of(name) for name in self._named.values())
        steps = frontier_of(options, work.tokens / self._queue.max_tokens, scale)
        wished = (self._meant(tier, chunk) for tier in (chunk.unloaded_tier, chunk.tier))
        unloaded = next((name for name in wished if name is not None), meant[0])
        self._asked_s.update(dict.fromkeys((*meant, unloaded), now))
        unloaded_ms = self._share_ms(unloaded, work)
        pending = PendingChunk(chunk, work, future, now, unloaded)
        waiting = Waiting(work.tokens, deadline, steps, pending, chunk.request)
        entry_id = self._queue.put(waiting, now, idle=self._running is None)
        self.load.arrived(unloaded_ms)

        def left(done: "asyncio.Future[ChunkScores]") -> None:
            self.load.left(unloaded_ms)
            if done.cancelled():
                self._queue.cancel(entry_id)

        future.add_done_callback(left)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        elif self._running is not None:
            self._watch(waiting.last_start_s)
        return future

    def _meant(self, tier: str | None, chunk: Chunk) -> str | None:
        """The model here that the router means by this tier; None where another goes by that name, or none."""
        name = None if tier is None else chunk.models.get(tier, self._named.get(tier))
        hosted = self._hosted.get(name) if name is not None else None
        return name if hosted is not None and chunk.weights in (None, hosted.weights) else None

    def _rest(self) -> None:
        """Let an idle device be what its profile says, by and by."""
        now = self._clock()
        if self._running is None and not len(self._queue):
            self._correction.rested(max(0.0, now - self._busy_s))
        self._busy_s = now

    def _quality_of(self, name: str) -> float:
        return self._quality.get(self._hosted[name].tier, 0.0)

    async def probe(self) -> None:
        """Score an ordinary batch with each model whose last one failed, and raise what that raises. Where it succeeds,
        what was asked for was at fault, and is forgotten."""
        for name in list(self._failures):
            if (hosted := self._hosted.get(name)) is None:
                continue
            await asyncio.get_running_loop().run_in_executor(self._executor, score_pairs, hosted, ORDINARY)
            self._failures.pop(name, None)

    def _model(self, name: str) -> LatencyModel:
        """As profiled, corrected by what batches have taken since."""
        return self._correction.corrected(name, self._hosted[name].latency)

    def _share_ms(self, name: str, work: Work) -> float:
        return self._model(name).share_ms(work, min(1.0, work.tokens / self._queue.max_tokens))

    @property
    def models(self) -> dict[str, LatencyModel]:
        """By fingerprint, as batches take now."""
        self._rest()
        return {name: self._model(name) for name in self._hosted}

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

    @property
    def failures(self) -> int:
        """Batches of one tier that have failed since its last that did not, of the tier that fails most."""
        return max(self._failures.values(), default=0)

    @property
    def busy(self) -> bool:
        """Whether a batch is on the device."""
        return self._running is not None

    @property
    def halted(self) -> bool:
        """Whether work waits and nothing takes it any more."""
        return len(self._queue) > 0 and (self._task is None or self._task.done())

    async def _work(self) -> None:
        """Batch after batch while anything waits that can be in time."""
        while len(self._queue):
            taken = self._queue.take(self._clock())
            self._give_up(taken.infeasible)
            # What was cancelled an instant ago may not have been taken out yet.
            if batch := [waiting.item for waiting in taken.batch if not waiting.item.future.done()]:
                self._watch(self._queue.last_start_s)
                await self._run(taken.bound.tier, taken.bound.ms, batch)

    def _give_up(self, infeasible: Sequence[Waiting[PendingChunk]]) -> None:
        for waiting in infeasible:
            if not waiting.item.future.done():
                waiting.item.future.set_exception(Expired(f"the budget ended in the queue of {self._replica}"))

    def _watch(self, last_start_s: float) -> None:
        """Wake up when the first of those that wait becomes hopeless: its client need not wait for the device."""
        if last_start_s >= self._alarm_s:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        call_later = self._call_later or asyncio.get_running_loop().call_later
        self._alarm_s = last_start_s
        self._alarm = call_later(max(0.0, last_start_s - self._clock()) + LATE_S, self._expire)

    def _expire(self) -> None:
        self._alarm_s, self._alarm = math.inf, None
        self._give_up(self._queue.expire(self._clock()))
        self._watch(self._queue.last_start_s)

    async def _run(self, name: str, predicted_ms: float, batch: Sequence[PendingChunk]) -> None:
        """Score one batch and answer its chunks. A fault fails the chunks it concerns and no others."""
        self._rest()
        started = self._clock()
        self._running = RunningBatch(started, predicted_ms, frozenset({name, *(pending.unloaded for pending in batch)}))
        self._on_batch(sum(pending.work.tokens for pending in batch), self.backlog_s)
        hosted = self._hosted[name]
        try:
            chunks = [pending.chunk for pending in batch]
            scoring = asyncio.get_running_loop().run_in_executor(self._executor, timed, hosted, chunks, self._clock)
            logits, infer_s = await scoring
        except Exception as error:
            if len(batch) > 1:
                log.warning("a batch of %d chunks failed (%s); scoring them one by one", len(batch), error)
                for pending in batch:
                    await self._run(name, predicted_ms, [pending])
            else:
                log.exception("tier %s failed on a batch", hosted.tier)
                self._failures[name] = self._failures.get(name, 0) + 1
                if not batch[0].future.done():
                    batch[0].future.set_exception(error)
            return
        finally:
            self._running = None
            self._busy_s = self._clock()
        self._failures.pop(name, None)
        infer_ms = infer_s * 1e3  # without the wait for the thread, which may be measuring a model that is new
        model = hosted.latency
        self._correction.observed(name, model, model.mean_ms(Work.sum(p.work for p in batch)), infer_ms)
        for pending in batch:
            below = self._quality_of(name) < self._quality.get(pending.chunk.unloaded_tier or "", -math.inf)
            self.load.scored(self._share_ms(pending.unloaded, pending.work), self._share_ms(name, pending.work), below)
        waits_ms: defaultdict[str, float] = defaultdict(float)
        for waiting in self._queue:
            waits_ms[waiting.item.chunk.sender] += waiting.min_ms
        for pending, scored in zip(batch, logits, strict=True):
            if not pending.future.done():
                queue_ms = (self._busy_s - pending.queued_s - infer_s) * 1e3
                others_s = (sum(waits_ms.values()) - waits_ms[pending.chunk.sender]) / 1e3
                pending.future.set_result(
                    ChunkScores(
                        scored,
                        queue_ms,
                        infer_ms,
                        self._replica,
                        self.backlog_s,
                        hosted.tier,
                        others_s,
                        hosted.weights,
                    )
                )


def timed(hosted: HostedModel, chunks: Sequence[Chunk], clock: Callable[[], float]) -> tuple[list[np.ndarray], float]:
    """In the executor: scores by chunk, and the seconds they took."""
    began = clock()
    return score_chunks(hosted, chunks), clock() - began


def score_chunks(hosted: HostedModel, chunks: Sequence[Chunk]) -> list[np.ndarray]:
    """One model, one packed batch, cut back into chunks."""
    if len(chunks) == 1:
        return [score_pairs(hosted, chunks[0].pairs)]
    logits = score_pairs(hosted, TokenizedPairs.join([c.pairs for c in chunks]))
    return np.split(logits, np.cumsum([len(c.pairs) for c in chunks])[:-1])


def score_pairs(hosted: HostedModel, pairs: TokenizedPairs) -> np.ndarray:
    """Raises ScoringFailed for scores that mean nothing: an order by them would be one of chance."""
    logits = hosted.scorer.score(pairs)
    if logits.shape != (len(pairs),) or not np.isfinite(logits).all():
        raise ScoringFailed(f"tier {hosted.tier} gave scores that are not finite, or not one for each pair")
    return logits


def submit_each(
    submit: Callable[[Chunk], "asyncio.Future[ChunkScores]"], chunks: Sequence[Chunk]
) -> list["asyncio.Future[ChunkScores]"]:
    """A future for each chunk; one that cannot even be queued fails alone, not those collected with it."""

    def one(chunk: Chunk) -> "asyncio.Future[ChunkScores]":
        try:
            return submit(chunk)
        except Exception as error:
            log.exception("a chunk could not be queued")
            failed: asyncio.Future[ChunkScores] = asyncio.get_running_loop().create_future()
            failed.set_exception(error)
            return failed

    return [one(chunk) for chunk in chunks]
