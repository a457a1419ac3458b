"""Rules that a replica keeps whatever happens to it, in whatever order (a state machine of hypothesis)."""

import math

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rankfleet.core.errors import NotHosted
from rankfleet.core.messages import Chunk
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.core.sections import Routing, Scheduling
from rankfleet.estimates.latency import LatencyModel
from rankfleet.replica.core import ReplicaCore
from rankfleet.replica.hosting import HostedModel
from rankfleet.replica.pending import PendingChunk

TIERS = ("t", "u", "v")
MODELS = [f"{tier}{version}" for tier in TIERS for version in (1, 2)]
SLACKS_MS = st.one_of(st.none(), st.floats(-1e3, 1e3), st.sampled_from([-1e300, 0.0, 1e-300, 1e9, 1e300, math.inf]))
SECONDS = st.one_of(st.just(0.0), st.floats(0.0, 1.0), st.sampled_from([1e-9, 60.0, 1e6]))


class Replica(RuleBasedStateMachine):
    """Model t2 is the second of tier t, and so on. `present` are the chunks that have to leave. The score of a pair is
    its token id, which no two pairs of a chunk share."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.core = ReplicaCore("r", {"t": 0.3, "u": 0.4}, 64)
        self.present: set[PendingChunk] = set()

    def leave(self, pending: list[PendingChunk]) -> None:
        for each in pending:
            self.present.remove(each)  # KeyError if it has left before

    @initialize()
    def first_models(self) -> None:
        for name in ("t1", "u1"):
            self.host(name, 1.0)

    @rule(name=st.sampled_from(MODELS), factor=st.floats(1.0, 2.0))
    def host(self, name: str, factor: float) -> None:
        size = 1.0 + TIERS.index(name[0])
        self.core.hosted.host(
            name, HostedModel(name[0], None, LatencyModel(size, 0.1 * size, 1e-3, factor)), self.now_s
        )

    @rule(kept=st.sets(st.sampled_from(MODELS)))
    def forget(self, kept: set[str]) -> None:
        self.core.forget(kept, 1.0, self.now_s)

    @rule(batch_tokens=st.integers(1, 200), share=st.floats(0.0, 0.5))
    def adjust(self, batch_tokens: int, share: float) -> None:
        self.core.adjust({"v": share}, batch_tokens, Routing(), Scheduling(best_effort_share=share))

    @rule(
        lengths=st.lists(st.integers(1, 30), min_size=1, max_size=6),
        tiers=st.lists(st.sampled_from(TIERS), min_size=1, unique=True),
        slack_ms=SLACKS_MS,
        request=st.sampled_from([None, None, None, "a"]),
        unloaded_tier=st.sampled_from([None, *TIERS]),
        models=st.dictionaries(st.sampled_from(TIERS), st.sampled_from(MODELS), max_size=1),
        count=st.integers(1, 4),
    )
    def submit(
        self,
        lengths: list[int],
        tiers: list[str],
        slack_ms: float | None,
        request: str | None,
        unloaded_tier: str | None,
        models: dict[str, str],
        count: int,
    ) -> None:
        each = np.array(lengths, np.int32)
        pairs = TokenizedPairs(np.repeat(np.arange(len(each), dtype=np.int32), each), each, each)
        chunk = Chunk(tuple(tiers), pairs, slack_ms, request, unloaded_tier=unloaded_tier, models=models)
        try:
            self.present.update([self.core.submit(chunk, self.now_s) for _ in range(count)])
        except NotHosted:
            hosts = self.core.hosted.fingerprints
            assert not any(models.get(tier) in hosts for tier in tiers)

    @precondition(lambda self: self.present)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        pending = data.draw(st.sampled_from(sorted(self.present, key=lambda each: each.entry_id)))
        self.core.cancel(pending)
        self.core.cancel(pending)
        self.leave([pending])

    @rule()
    def expire(self) -> None:
        expired = self.core.expire(self.now_s)
        assert any(each.latest_start_s <= self.now_s for each in expired) or not expired
        self.leave(expired)

    @precondition(lambda self: self.core.running is None)
    @rule()
    def take(self) -> None:
        self.take_from(set(self.present))

    def take_from(self, waiting: set[PendingChunk]) -> None:
        a_chunk_is_feasible = any(each.latest_start_s > self.now_s + 1e-6 for each in waiting)
        has_siblings = any(each.chunk.request for each in waiting)
        batch, expired = self.core.take(self.now_s)
        self.leave(expired)
        if batch is None:
            assert set(expired) == waiting, "nothing is lost"
            assert not a_chunk_is_feasible or has_siblings, "work-conserving"
        else:
            assert {queued.item.pending for queued in batch.queued} <= waiting & self.present
            assert 0 < batch.predicted_ms < math.inf

    @precondition(lambda self: self.core.running is not None)
    @rule(infer_ms=st.one_of(st.floats(0.0, 100.0), st.sampled_from([0.0, 1e-12, 1e9])))
    def finish(self, infer_ms: float) -> None:
        scored = self.core.finish(infer_ms, self.now_s)
        self.take_from(self.present - {queued.item.pending for queued in scored.queued if queued.item.is_last})
        logits = [chunk.pairs.ids[np.cumsum(chunk.pairs.lengths) - 1].astype(np.float32) for chunk in scored.chunks]
        for pending, scores in self.core.answers(scored, logits, infer_ms, self.now_s):
            self.leave([pending])
            assert scores.logits.tolist() == list(range(len(pending.chunk.pairs))), "each pair's own score"
            assert 0.0 <= scores.backlog_s < math.inf

    @precondition(lambda self: self.core.running is not None)
    @rule()
    def fail(self) -> None:
        self.leave(self.core.fail(self.now_s))

    @rule(elapsed_s=SECONDS)
    def time_passes(self, elapsed_s: float) -> None:
        self.now_s += elapsed_s

    @invariant()
    def estimates_are_finite(self) -> None:
        values = [self.core.backlog_s(self.now_s), self.core.load.backlog_s, *self.core.load.counters]
        for model in self.core.models(self.now_s).values():
            values += model.to_json().values()
        assert all(0.0 <= value < math.inf for value in values)

    @invariant()
    def load_is_that_of_the_chunks_that_are_present(self) -> None:
        expected_s = sum(pending.unloaded_ms for pending in self.present) / 1e3
        assert self.core.load.backlog_s == pytest.approx(expected_s, rel=1e-6, abs=1e-9 if self.present else 0.0)

    def teardown(self) -> None:
        while self.core.running is not None or self.core.waiting:
            if self.core.running is None:
                self.take()
            else:
                self.finish(1.0)
        assert not self.present
        assert (self.core.load.backlog_s, self.core.backlog_s(self.now_s)) == (0.0, 0.0)


TestReplica = Replica.TestCase
TestReplica.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
