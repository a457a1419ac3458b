"""What a replica decides, without a clock, an event loop or a device: what waits, what is scored next, what it reports.

The worker (`replica/worker.py`) drives it for a device, the simulator for a simulated one:

    submit a chunk → take a batch → finish it, or let it fail → take the next …

Time is an argument, `now_s`, in seconds of any steady clock. Every chunk leaves exactly once: it is scored, fails,
expires or is cancelled. One that can wait is scored in parts, between which others come (`replica/batching.py`).
"""

import math
from collections import deque
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from rankfleet.core.errors import NotHosted
from rankfleet.core.messages import Chunk, ChunkScores
from rankfleet.core.sections import Routing, Scheduling
from rankfleet.core.work import Work
from rankfleet.estimates.frontier import Frontier
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.load import ReplicaLoad
from rankfleet.replica.batching import QueuedChunk, select_batch
from rankfleet.replica.hosting import HostedModels
from rankfleet.replica.pending import Batch, Part, PendingChunk, Queued
from rankfleet.replica.queue import SelectBatch, TokenQueue

# A batch that takes longer than both STUCK_S and STUCK_FACTOR times its prediction will not come back.
STUCK_S = 30.0
STUCK_FACTOR = 20.0


class ReplicaCore:
    """One replica with one device.

    hosted: its models
    load: for the autoscaler
    running: the batch on the device; None while that is free
    """

    def __init__(
        self,
        replica: str,
        quality: Mapping[str, float],
        batch_tokens: int,
        routing: Routing = Routing(),  # noqa: B008  (frozen)
        scheduling: Scheduling = Scheduling(),  # noqa: B008  (frozen)
        select_batch: SelectBatch[Part] = select_batch,
    ) -> None:
        """
        replica: the name that answers carry
        quality: nDCG@10 by tier, hosted here or not
        select_batch: the decision; the simulator compares others
        """
        self.hosted = HostedModels(quality)
        self.load = ReplicaLoad()
        self.running: Batch | None = None
        self._replica = replica
        self._queue: TokenQueue[Part] = TokenQueue(batch_tokens, routing, select_batch, scheduling)
        self._again: deque[tuple[str, Queued]] = deque()  # chunks of failed batches and their models
        self._idle_since_s = math.inf  # idle time until then is in the latency correction

    def adjust(self, quality: Mapping[str, float], batch_tokens: int, routing: Routing, scheduling: Scheduling) -> None:
        """Change the settings. They apply to the chunks that wait, too."""
        self.hosted.adjust(quality)
        self._queue.adjust(batch_tokens, routing, scheduling)

    def forget(self, kept: Container[str], unused_s: float, now_s: float) -> list[str]:
        """Drop the models that no chunk has asked for within `unused_s` and none in the queue or on the device needs.

        kept: fingerprints that stay in any case. Returns the fingerprints of the models that were dropped.
        """
        in_use = {name for queued in self._queue for name in queued.frontier.index_by_tier}
        in_use.update(name for name, _ in self._again)
        if self.running is not None:
            in_use.add(self.running.fingerprint)
        return self.hosted.forget(kept, in_use, unused_s, now_s)

    def models(self, now_s: float) -> dict[str, LatencyModel]:
        """Latency models by fingerprint, corrected by what batches have taken."""
        self._correct_for_idle_time(now_s)
        return self.hosted.latencies

    # Chunks come and go

    def submit(self, chunk: Chunk, now_s: float) -> PendingChunk:
        """Queue a chunk. Raises NotHosted if no tier that may score it is hosted here as its router means it."""
        hosted, work, batch_tokens = self.hosted, chunk.pairs.work, self._queue.max_tokens
        names = [name for tier in chunk.tiers if (name := hosted.resolve(tier, chunk)) is not None]
        if not names:
            raise NotHosted(f"this replica does not host tier {chunk.tier!r} as the router means it")
        self._correct_for_idle_time(now_s)
        frontier = Frontier.of([hosted.option(name, work, batch_tokens) for name in names], hosted.quality_range)
        # The model it would get on an idle fleet; if that is not hosted here, the planned one or else the first.
        unloaded = hosted.resolve(chunk.unloaded_tier, chunk) or hosted.resolve(chunk.tier, chunk) or names[0]
        hosted.requested((*names, unloaded), now_s)
        pending = PendingChunk(chunk, now_s, hosted.latency(unloaded).cost(work, batch_tokens).mean_amortized_ms)
        deadline_s = math.inf if chunk.slack_ms is None else now_s + chunk.slack_ms / 1e3
        queued = QueuedChunk(
            work.tokens,
            deadline_s,
            frontier,
            Part(pending, work),
            chunk.request,
            chunk.over_share,
            work.pairs,
            chunk.tenant,
        )
        pending.latest_start_s = queued.latest_start_s
        self._queue.bound_typical_budget(chunk.default_slo_ms)
        is_idle = self.running is None and not self._again
        pending.first_entry_id = pending.entry_id = self._queue.put(queued, now_s, is_idle)
        self.load.arrived(pending.unloaded_ms)
        return pending

    def cancel(self, pending: PendingChunk) -> None:
        """The sender has gone. A chunk that waits costs no device time; a batch that has started is finished."""
        if not pending.has_left:
            self._leave(pending)
            self._queue.cancel(pending.entry_id)

    def expire(self, now_s: float) -> list[PendingChunk]:
        """Remove and return the chunks that would be late even if the device were free now."""
        return self._all_leave(self._queue.expire(now_s))

    def take(self, now_s: float) -> tuple[Batch | None, list[PendingChunk]]:
        """Put the next batch on the device, which must be free. Returns it, and the chunks that have expired.

        The batch is None only if no feasible chunk is left; then none waits.
        """
        late: list[Queued] = []
        while self._again:
            name, queued = self._again.popleft()
            if queued.is_infeasible(now_s):
                late.append(queued)
            elif not queued.item.pending.has_left:
                point = queued.frontier.points[queued.frontier.index_by_tier[name]]
                return self._start(name, [queued], point.p99_ms, now_s), self._all_leave(late)
        taken = self._queue.take(now_s)
        decision, expired = taken.decision, self._all_leave((*late, *taken.infeasible))
        if decision.tier is None:
            return None, expired
        if decision.share < 1:
            part = self._split(taken.batch[0], decision.tier, decision.share)
            (point,) = part.frontier.points
            return self._start(decision.tier, [part], point.p99_ms, now_s), expired
        return self._start(decision.tier, taken.batch, decision.predicted_ms, now_s), expired

    def finish(self, infer_ms: float, now_s: float) -> Batch:
        """The batch on the device was scored in `infer_ms`. Returns it, for `answers`.

        Predictions learn from how long others had to wait for it. That includes the way to the device's thread and
        back, which counts for work that is scored in many parts.
        """
        batch = self._free(now_s)
        hosted, name = self.hosted, batch.fingerprint
        occupied_ms = max(infer_ms, (now_s - batch.started_s) * 1e3)
        hosted.succeeded(name, (queued.item.work for queued in batch.queued), occupied_ms)
        for queued in batch.queued:
            point, pending = queued.frontier.points[queued.frontier.index_by_tier[name]], queued.item.pending
            is_below = hosted.is_below(name, pending.chunk.unloaded_tier)
            unloaded_ms = pending.unloaded_ms * (queued.tokens / max(1, pending.chunk.pairs.tokens))
            self.load.scored(unloaded_ms, point.mean_amortized_ms, is_below)
        return batch

    def answers(
        self, batch: Batch, logits: Sequence[np.ndarray], infer_ms: float, now_s: float
    ) -> list[tuple[PendingChunk, ChunkScores]]:
        """The chunks that a finished batch has completed, without those that have left, and their scores.

        logits: float32 [pairs] of each part. To be called once the next batch is taken, so that the backlog that is
        reported with the scores contains its time at its tier.
        """
        answers, backlog_s = [], self.backlog_s(now_s)
        running_s = backlog_s - self._queue.backlog_ms / 1e3
        ahead_ms = self._queue.ahead_ms(queued.item.pending.deadline_at(now_s) for queued in batch.queued)
        for queued, scores, ms in zip(batch.queued, logits, ahead_ms, strict=True):
            part, pending, model = queued.item, queued.item.pending, batch.model
            pending.infer_ms += infer_ms
            if pending.logits is not None:
                pending.logits[part.rows] = scores
            if pending.has_left or not part.is_last:
                continue
            self._leave(pending)
            answer = ChunkScores(
                scores if pending.logits is None else pending.logits,
                (now_s - pending.queued_s) * 1e3 - pending.infer_ms,
                pending.infer_ms,
                self._replica,
                backlog_s,
                model.tier,
                model.weights,
                running_s + ms / 1e3,
            )
            answers.append((pending, answer))
        return answers

    def fail(self, now_s: float) -> list[PendingChunk]:
        """The batch on the device has failed. Returns the chunks that fail with it.

        The chunks of a batch of several are scored again one by one, so that only those at fault fail.
        """
        batch = self._free(now_s)
        if len(batch.queued) > 1:
            self._again.extend((batch.fingerprint, queued) for queued in batch.queued)
            return []
        self.hosted.failed(batch.fingerprint)
        self._queue.cancel(batch.queued[0].item.pending.entry_id)  # what is left of it, if this was a part
        return self._all_leave(batch.queued)

    # Reports

    @property
    def waiting(self) -> int:
        """How many chunks wait."""
        return len(self._queue) + len(self._again)

    @property
    def latest_start_s(self) -> float:
        """When the next waiting chunk becomes infeasible; infinity if none ever does."""
        return self._queue.latest_start_s

    def backlog_s(self, now_s: float) -> float:
        """Predicted seconds of the waiting chunks and of the rest of the batch on the device."""
        ms = self._queue.backlog_ms + sum(queued.min_ms for _, queued in self._again)
        if self.running is not None:
            ms += max(0.0, self.running.predicted_ms - (now_s - self.running.started_s) * 1e3)
        return ms / 1e3

    def stuck(self, now_s: float) -> bool:
        """Whether the batch on the device has taken so long that it will not come back."""
        if self.running is None:
            return False
        return now_s - self.running.started_s > max(STUCK_S, STUCK_FACTOR * self.running.predicted_ms / 1e3)

    def _split(self, queued: Queued, name: str, share: float) -> Queued:
        """A part with this share of a chunk's tokens, at least one pair and not all. The rest goes back into the queue,
        for the same model."""
        pending, lengths = queued.item.pending, queued.item.pending.chunk.pairs.lengths
        rows = np.arange(len(lengths)) if queued.item.rows is None else queued.item.rows
        count = int(np.searchsorted(np.cumsum(lengths[rows]), queued.tokens * share, "right"))
        count = min(max(1, count), len(rows) - 1)
        if pending.logits is None:
            pending.logits = np.empty(len(lengths), np.float32)

        def part(rows: np.ndarray, is_last: bool) -> Queued:
            work = Work.of(lengths[rows])
            option = self.hosted.option(name, work, self._queue.max_tokens)
            frontier = Frontier.of([option], self.hosted.quality_range)
            item = Part(pending, work, rows, is_last)
            return replace(queued, tokens=work.tokens, frontier=frontier, item=item, pairs=work.pairs)

        rest = part(rows[count:], is_last=True)
        pending.entry_id = self._queue.put_back(rest, pending.first_entry_id)
        pending.latest_start_s = rest.latest_start_s
        return part(rows[:count], is_last=False)

    def _start(self, name: str, queued: Sequence[Queued], predicted_ms: float, now_s: float) -> Batch:
        assert self.running is None, "the device has one batch at a time"
        self.running = Batch(name, self.hosted[name], queued, predicted_ms, now_s)
        return self.running

    def _free(self, now_s: float) -> Batch:
        batch, self.running, self._idle_since_s = self.running, None, now_s
        assert batch is not None, "no batch is on the device"
        return batch

    def _leave(self, pending: PendingChunk) -> None:
        pending.has_left = True
        self.load.left(pending.unloaded_ms)

    def _all_leave(self, leaving: Iterable[Queued]) -> list[PendingChunk]:
        """Let chunks leave, and return those that have not left before."""
        left = [queued.item.pending for queued in leaving if not queued.item.pending.has_left]
        for pending in left:
            self._leave(pending)
        return left

    def _correct_for_idle_time(self, now_s: float) -> None:
        """Let the latency correction decay by the time that the device has been idle."""
        if self.running is None and not self.waiting:
            self.hosted.rested(max(0.0, now_s - self._idle_since_s))
            self._idle_since_s = now_s
