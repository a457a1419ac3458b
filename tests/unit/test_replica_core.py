"""The decisions of a replica: no event loop, no device. Tiers t and u take a millisecond a token; a batch holds 40."""

from dataclasses import replace

import numpy as np
import pytest

from rankfleet.core.errors import NotHosted
from rankfleet.core.messages import Chunk, ChunkScores
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.core.sections import Routing, Scheduling
from rankfleet.estimates.latency import LatencyModel
from rankfleet.replica.core import STUCK_S, ReplicaCore
from rankfleet.replica.hosting import HostedModel
from rankfleet.replica.pending import PendingChunk

LATENCY = LatencyModel(0.0, 1.0, 0.0)


def simulated(tier: str, latency: LatencyModel = LATENCY, weights: str = "") -> HostedModel:
    return HostedModel(tier, None, latency, weights)


def core_of(**hosted: HostedModel) -> ReplicaCore:
    """hosted: models by fingerprint."""
    core = ReplicaCore("r1", {"t": 0.3, "u": 0.4}, 40)
    for fingerprint, model in hosted.items():
        core.hosted.host(fingerprint, model, 0.0)
    return core


@pytest.fixture
def core() -> ReplicaCore:
    return core_of(t=simulated("t"), u=simulated("u"))


def chunk(
    name: int,
    pairs: int = 1,
    tiers: tuple[str, ...] = ("t",),
    slack_ms: float | None = None,
    request: str | None = None,
) -> Chunk:
    """A chunk of ten tokens a pair, whose first token id is its name."""
    ids, lengths = np.full(10 * pairs, name, np.int32), np.full(pairs, 10, np.int32)
    return Chunk(tiers, TokenizedPairs(ids, lengths, lengths), slack_ms, request)


def names(pending: list[PendingChunk]) -> list[int]:
    return [int(each.chunk.pairs.ids[0]) for each in pending]


def taken(core: ReplicaCore, now_s: float = 0.0) -> list[int]:
    """Take a batch; names of its chunks."""
    batch, _ = core.take(now_s)
    return [] if batch is None else names([queued.item.pending for queued in batch.queued])


def answered(core: ReplicaCore, now_s: float = 0.0, infer_ms: float = 10.0) -> list[tuple[PendingChunk, ChunkScores]]:
    """Finish the batch on the device; every pair gets its own name as its score."""
    batch = core.finish(infer_ms, now_s)
    logits = [chunk.pairs.ids[::10].astype(np.float32) for chunk in batch.chunks]
    return core.answers(batch, logits, infer_ms, now_s)


def finished(core: ReplicaCore, now_s: float = 0.0, infer_ms: float = 10.0) -> list[ChunkScores]:
    return [scores for _, scores in answered(core, now_s, infer_ms)]


def scored(core: ReplicaCore, chunk: Chunk, now_s: float = 0.0) -> ChunkScores:
    """Submit a chunk and score it alone, as fast as predicted."""
    core.submit(chunk, now_s)
    batch, _ = core.take(now_s)
    assert batch is not None
    (scores,) = finished(core, now_s + batch.predicted_ms / 1e3, batch.predicted_ms)
    return scores


def test_chunks_that_wait_together_are_scored_together(core: ReplicaCore) -> None:
    for each in (chunk(1, 2), chunk(3), chunk(4)):
        core.submit(each, 0.0)
    batch, expired = core.take(0.0)
    assert batch is not None
    assert (batch.fingerprint, batch.tokens, batch.predicted_ms, expired) == ("t", 40, 40.0, [])
    assert core.waiting == 0
    answers = finished(core, 0.04, 40.0)
    assert [scores.logits.tolist() for scores in answers] == [[1, 1], [3], [4]]
    assert {(scores.replica, scores.tier) for scores in answers} == {("r1", "t")}


def test_the_earliest_deadline_goes_first_and_a_batch_has_one_tier(core: ReplicaCore) -> None:
    for each in (chunk(1), chunk(2, tiers=("u",), slack_ms=90), chunk(3)):
        core.submit(each, 0.0)
    assert taken(core) == [2]
    finished(core, 0.01)
    assert taken(core, 0.01) == [1, 3]
    assert [(s.queue_ms, s.infer_ms) for s in finished(core, 0.035, 20.0)] == [pytest.approx((15.0, 20.0))] * 2


def test_chunks_of_one_request_are_scored_one_after_the_other(core: ReplicaCore) -> None:
    for name, request in ((1, "a"), (5, None), (2, "a")):
        core.submit(replace(chunk(name, 3, slack_ms=1000.0), request=request), 0.0)
    order = []
    for _ in range(3):
        order += taken(core)
        finished(core)
    assert order == [1, 2, 5]


def test_the_tier_is_chosen_when_the_work_leaves_the_queue() -> None:
    core = core_of(t=simulated("t"), u=simulated("u", LatencyModel(0.0, 2.0, 0.0)))
    # 10 ms by t, 20 by u: the first has time for either, the second for t alone.
    assert scored(core, chunk(1, tiers=("t", "u"), slack_ms=1000)).tier == "u"
    assert scored(core, chunk(2, tiers=("t", "u"), slack_ms=15)).tier == "t"


def test_an_infeasible_chunk_expires_with_the_next_batch(core: ReplicaCore) -> None:
    core.submit(chunk(1, 2, slack_ms=15), 0.0)
    core.submit(chunk(3, slack_ms=15), 0.0)
    batch, expired = core.take(0.0)
    assert batch is not None
    assert (names([queued.item.pending for queued in batch.queued]), names(expired)) == ([3], [1])
    assert core.load.backlog_s == pytest.approx(0.01)


def test_an_infeasible_chunk_expires_while_the_device_is_busy(core: ReplicaCore) -> None:
    core.submit(chunk(1), 0.0)
    taken(core)
    later, sooner = core.submit(chunk(2, slack_ms=100), 0.0), core.submit(chunk(3, slack_ms=50), 0.0)
    core.submit(chunk(4), 0.0)
    assert (sooner.latest_start_s, later.latest_start_s) == pytest.approx((0.04, 0.09))
    assert core.latest_start_s == sooner.latest_start_s
    assert core.expire(0.039) == []
    assert core.expire(0.041) == [sooner]
    assert core.expire(0.091) == [later]
    assert (core.waiting, core.load.backlog_s) == (1, pytest.approx(0.02))


def test_a_cancelled_chunk_is_neither_scored_nor_load(core: ReplicaCore) -> None:
    gone, _ = core.submit(chunk(1, 2), 0.0), core.submit(chunk(3), 0.0)
    assert core.backlog_s(0.0) == pytest.approx(0.03)
    core.cancel(gone)
    core.cancel(gone)
    assert (core.backlog_s(0.0), core.load.backlog_s) == pytest.approx((0.01, 0.01))
    assert taken(core) == [3]
    finished(core)
    assert core.load.backlog_s == 0.0
    assert core.load.counters.device_load_s == pytest.approx(0.01)


def test_a_chunk_cancelled_on_the_device_is_load_and_not_answered(core: ReplicaCore) -> None:
    gone, kept = core.submit(chunk(1, 2), 0.0), core.submit(chunk(3), 0.0)
    assert taken(core) == [1, 3]
    core.cancel(gone)
    assert core.load.backlog_s == pytest.approx(0.01)
    assert [pending for pending, _ in answered(core, 0.03, 30.0)] == [kept]
    assert core.load.backlog_s == 0.0
    assert core.load.counters.device_load_s == pytest.approx(0.03)


def test_backlog_is_the_waiting_chunks_and_the_rest_of_the_running_batch() -> None:
    core = core_of(t=simulated("t", LatencyModel(0.0, 10.0, 0.0)))
    core.submit(chunk(1, 4), 0.0)  # 400 ms
    core.submit(chunk(5), 0.0)  # 100 ms
    assert core.backlog_s(0.0) == pytest.approx(0.5)
    assert taken(core) == [1]
    assert core.backlog_s(0.3) == pytest.approx(0.2)
    assert core.backlog_s(3.0) == pytest.approx(0.1)
    assert not core.stuck(STUCK_S)
    assert core.stuck(STUCK_S + 0.1)


def test_a_long_batch_is_stuck_after_twenty_times_its_prediction() -> None:
    core = core_of(t=simulated("t", LatencyModel(2000.0, 0.0, 0.0)))
    core.submit(chunk(1), 0.0)
    assert not core.stuck(1e9)
    taken(core)
    assert (core.stuck(39.9), core.stuck(40.1)) == (False, True)


def test_a_chunk_above_the_size_of_a_batch_counts_the_fixed_cost_once() -> None:
    core = core_of(t=simulated("t", LatencyModel(8.0, 1.0, 0.0)))
    core.submit(chunk(1, 8), 0.0)  # 80 tokens, two full batches
    assert (core.backlog_s(0.0), core.load.backlog_s) == pytest.approx((0.088, 0.088))


def test_an_answer_tells_the_backlog_with_the_next_batch_at_its_tier() -> None:
    core = core_of(t=simulated("t"), u=simulated("u", LatencyModel(0.0, 2.0, 0.0)))
    core.submit(chunk(1), 0.0)
    assert taken(core) == [1]
    core.submit(chunk(2, tiers=("t", "u"), slack_ms=1000), 0.0)
    core.submit(chunk(3), 0.0)
    assert core.backlog_s(0.01) == pytest.approx(0.02), "10 ms each by t, and the first is due"
    scored = core.finish(10.0, 0.01)
    assert taken(core, 0.01) == [2], "by u, in 20 ms"
    ((_, scores),) = core.answers(scored, [np.array([1.0])], 10.0, 0.01)
    assert (scores.tier, scores.backlog_s) == ("t", pytest.approx(0.03))


def test_load_is_measured_at_the_tier_of_the_unloaded_plan() -> None:
    core = core_of(t=simulated("t"), u=simulated("u", LatencyModel(0.0, 3.0, 0.0)))
    # 20 tokens take 60 ms at `u`, the unloaded tier. `t`, of lower quality, scores them in 20.
    core.submit(replace(chunk(1, 2), unloaded_tier="u"), 0.0)
    assert core.load.backlog_s == pytest.approx(0.06)
    taken(core)
    finished(core)
    assert core.load.backlog_s == 0.0
    assert core.load.counters == pytest.approx((0.0, 0.0, 0.06, 0.0036, 0.02, 0.06, 0.06))


def test_the_chunks_of_a_batch_that_fails_are_scored_again_one_by_one(core: ReplicaCore) -> None:
    core.adjust({"t": 0.3, "u": 0.4}, 40, Routing(horizon=1.0), Scheduling())
    chunks = [core.submit(chunk(name, slack_ms=slack_ms), 0.0) for name, slack_ms in ((1, None), (2, 50), (3, 100))]
    gone = core.submit(chunk(4), 0.0)
    assert taken(core) == [2, 3, 1, 4]
    assert core.fail(0.03) == []
    assert (core.hosted.failures, core.waiting) == (0, 4)
    assert core.backlog_s(0.03) == pytest.approx(0.04)
    core.cancel(gone)
    core.submit(chunk(5), 0.03)
    batch, expired = core.take(0.045)
    assert expired == [chunks[1]], "10 ms are needed, 5 are left"
    assert batch is not None
    assert ([queued.item.pending for queued in batch.queued], batch.predicted_ms) == ([chunks[2]], 10.0)
    assert core.fail(0.055) == [chunks[2]], "alone it is at fault"
    assert core.hosted.failures == 1
    assert taken(core, 0.055) == [1]
    finished(core, 0.065)
    assert core.hosted.failures == 0
    assert taken(core, 0.065) == [5]
    finished(core, 0.075)
    assert (core.waiting, core.load.backlog_s) == (0, 0.0)


@pytest.fixture
def long_one(core: ReplicaCore) -> PendingChunk:
    """A chunk of four pairs with all the time in the world, while the typical budget is 100 ms and the shortest horizon
    20: two pairs. Its first part is on the device."""
    core.adjust({"t": 0.3, "u": 0.4}, 40, Routing(horizon=0.2), Scheduling())
    assert scored(core, chunk(9, slack_ms=100)).infer_ms == 10.0
    many = chunk(1, 4, slack_ms=1e6)
    pending = core.submit(replace(many, pairs=replace(many.pairs, ids=np.repeat(np.arange(1, 5), 10))), 1.0)
    batch, _ = core.take(1.0)
    assert batch is not None
    assert (batch.tokens, batch.predicted_ms, core.waiting) == (20, 20.0, 1)
    assert core.backlog_s(1.0) == pytest.approx(0.04)
    return pending


def test_what_has_time_is_scored_in_parts_between_which_others_come(core: ReplicaCore, long_one: PendingChunk) -> None:
    core.submit(chunk(7, slack_ms=100), 1.01)
    assert finished(core, 1.02, 20.0) == []
    assert taken(core, 1.02) == [7]
    assert [scores.logits.tolist() for scores in finished(core, 1.03)] == [[7]]
    assert taken(core, 1.03) == [1]
    ((pending, scores),) = answered(core, 1.05, 20.0)
    assert (pending, scores.logits.tolist()) == (long_one, [1, 2, 3, 4])
    assert (scores.infer_ms, scores.queue_ms) == pytest.approx((40.0, 10.0))
    assert (core.waiting, core.load.backlog_s) == (0, 0.0)
    assert core.load.counters.served_load_s == pytest.approx(core.load.counters.arrived_load_s)


def test_no_more_than_the_default_budget_is_typical(core: ReplicaCore) -> None:
    core.adjust({"t": 0.3, "u": 0.4}, 40, Routing(horizon=0.2), Scheduling())
    core.submit(replace(chunk(1, 4, slack_ms=1e6), default_slo_ms=100.0), 0.0)
    batch, _ = core.take(0.0)
    assert batch is not None
    assert (batch.tokens, core.waiting) == (20, 1)


def test_all_parts_are_scored_by_the_tier_of_the_first() -> None:
    core = core_of(t=simulated("t"), u=simulated("u", LatencyModel(0.0, 2.0, 0.0)))
    core.adjust({"t": 0.3, "u": 0.4}, 40, Routing(horizon=0.4), Scheduling())
    scored(core, chunk(9, slack_ms=100))
    core.submit(chunk(1, 4, tiers=("t", "u"), slack_ms=1e6), 1.0)
    assert taken(core, 1.0) == [1]
    assert core.running is not None
    assert core.running.fingerprint == "u"
    for name in range(5):  # there is no longer any time for u
        core.submit(chunk(name, 1, slack_ms=50), 1.0)
    answers = []
    while core.running is not None:
        answers += finished(core, 1.04)
        core.take(1.04)
    assert [scores.tier for scores in answers if len(scores.logits) == 4] == ["u"]


def test_a_chunk_of_which_a_part_fails_fails_whole(core: ReplicaCore, long_one: PendingChunk) -> None:
    assert core.fail(1.02) == [long_one]
    assert (core.waiting, core.load.backlog_s) == (0, 0.0)


def test_a_chunk_is_cancelled_with_what_is_left_of_it(core: ReplicaCore, long_one: PendingChunk) -> None:
    core.cancel(long_one)
    assert core.waiting == 0
    assert finished(core, 1.02, 20.0) == []
    assert taken(core, 1.02) == []


def test_a_chunk_whose_rest_expires_is_not_answered(core: ReplicaCore, long_one: PendingChunk) -> None:
    assert core.expire(1.0 + 1e3) == [long_one]
    assert finished(core, 1.0 + 1e3, 20.0) == []
    assert taken(core, 1.0 + 1e3) == []


def test_a_single_pair_cannot_be_cut(core: ReplicaCore, long_one: PendingChunk) -> None:
    core.cancel(long_one)
    finished(core, 1.02)
    pairs = TokenizedPairs(np.zeros(35, np.int32), np.array([35], np.int32), np.array([35], np.int32))
    core.submit(Chunk(("t",), pairs, slack_ms=1e6), 2.0)
    batch, _ = core.take(2.0)
    assert batch is not None
    assert (batch.tokens, core.waiting) == (35, 0)


def test_a_chunk_for_another_model_of_the_tier_is_refused() -> None:
    core = core_of(a1=simulated("t", weights="w1"), b1=simulated("u", weights="w2"))
    assert scored(core, replace(chunk(1), models={"t": "a1"})).model == "w1"
    assert scored(core, replace(chunk(1), models={"t": "a1"}, weights="w1")).model == "w1"
    refused = (chunk(1, tiers=("huge",)), replace(chunk(1), models={"t": "a2"}))
    for each in (*refused, replace(chunk(1), models={"t": "a1"}, weights="w9")):
        with pytest.raises(NotHosted, match=r"does not host tier '(t|huge)' as the router means it"):
            core.submit(each, 0.0)
    assert core.load.backlog_s == 0.0
    # Of two tiers that may score it, the one that means the same model to router and replica.
    assert scored(core, replace(chunk(2, tiers=("u", "t")), models={"t": "a2", "u": "b1"})).tier == "u"


def test_two_models_of_one_tier_are_hosted_until_no_chunk_asks_for_the_old() -> None:
    core = core_of(a1=simulated("t", weights="w1"))
    core.hosted.host("a2", simulated("t", weights="w2"), 0.0)
    for name, model in ((1, "a1"), (2, "a2"), (3, "a1")):
        core.submit(replace(chunk(name), models={"t": model}), 0.0)
    assert taken(core) == [1, 3]
    assert core.forget({"a2"}, 30.0, 31.0) == [], "it is on the device"
    assert core.fail(31.0) == []
    assert core.forget({"a2"}, 30.0, 31.0) == [], "its batch is scored again"
    for _ in range(2):
        taken(core, 31.0)
        assert [scores.model for scores in finished(core, 31.0)] == ["w1"]
    assert core.forget({"a1"}, 30.0, 31.0) == [], "a chunk waits for it"
    assert taken(core, 31.0) == [2]
    assert [scores.model for scores in finished(core, 31.0)] == ["w2"]
    core.submit(replace(chunk(4), models={"t": "a1"}), 40.0)
    taken(core, 40.0)
    finished(core, 40.0)
    assert core.forget({"a2"}, 30.0, 69.0) == [], "a chunk has asked for it"
    assert core.forget({"a2"}, 30.0, 70.0) == ["a1"]
    with pytest.raises(NotHosted):
        core.submit(replace(chunk(5), models={"t": "a1"}), 70.0)


def test_a_model_whose_tier_has_passed_to_one_that_is_gone_still_scores() -> None:
    core = core_of(a1=simulated("t"), a2=simulated("t"))
    assert core.forget({"a1"}, 30.0, 31.0) == ["a2"]
    assert scored(core, replace(chunk(1), models={"t": "a1"}), 31.0).tier == "t"


def test_the_quality_of_a_tier_is_known_after_it_has_left_the_fleet_file(core: ReplicaCore) -> None:
    core.adjust(
        {"t": 0.3}, 40, Routing(), Scheduling()
    )  # `u` is not in the file any more; a router still plans with it
    assert scored(core, chunk(1, slack_ms=10_000, tiers=("t", "u"))).tier == "u"


def test_latency_models_follow_what_batches_take() -> None:
    # Batches take twice as long as profiled; ten of them correct the model.
    core = core_of(t=simulated("t", LatencyModel(0.0, 2.0, 0.0)))
    assert core.models(0.0)["t"].beta_ms == 2.0
    for _ in range(10):
        core.submit(chunk(1), 0.0)
        taken(core)
        finished(core, infer_ms=40.0)
    assert core.models(0.0)["t"].beta_ms == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize("batch_s", [0.2, 5.0])
def test_the_correction_decays_only_while_the_device_is_idle(batch_s: float) -> None:
    core, now_s = core_of(t=simulated("t", LatencyModel(batch_s * 1e3, 0.0, 0.0))), 0.0
    for _ in range(100):
        core.submit(chunk(1), now_s)
        taken(core, now_s)
        now_s += 4 * batch_s  # four times what the profile says
        finished(core, now_s, 4e3 * batch_s)
    assert core.models(now_s)["t"].alpha_ms == pytest.approx(4e3 * batch_s, rel=0.02)
    core.submit(chunk(1), now_s + 15.0)  # half of ln 4 is left
    core.submit(chunk(2), now_s + 15.0)
    assert core.backlog_s(now_s + 15.0) == pytest.approx(2 * 0.25 * 2 * batch_s, rel=0.1)  # a quarter of a batch each
    assert core.models(now_s + 300.0)["t"].alpha_ms == pytest.approx(2e3 * batch_s, rel=0.02), "chunks wait: not idle"


def test_an_answer_says_how_much_work_comes_before_a_chunk_like_it(core: ReplicaCore) -> None:
    above = replace(chunk(9, slack_ms=300.0), over_share=True)
    core.submit(chunk(1, pairs=4, slack_ms=100.0), 0.0)
    assert taken(core) == [1]
    waiting = (chunk(2, 4, slack_ms=120.0), chunk(3, 4, slack_ms=3.6e6), chunk(4, 4), above)
    for each in waiting:
        core.submit(each, 0.0)
    ((_, scores),) = answered(core, 0.04, 40.0)
    assert (scores.backlog_s, scores.ahead_s) == pytest.approx((0.13, 0.04)), "what is due within 100 ms"
    assert taken(core, 0.04) == [2]
    ((_, scores),) = answered(core, 0.08, 40.0)
    assert (scores.backlog_s, scores.ahead_s) == pytest.approx((0.09, 0.0)), "not what has an hour, or all the time"


@pytest.mark.parametrize(
    ("slack_ms", "over_share", "ahead_s"), [(None, True, 0.08), (None, False, 0.08), (90.0, True, 0.0)]
)
def test_what_comes_before_is_that_of_work_within_shares_whoever_is_answered(
    core: ReplicaCore, slack_ms: float | None, over_share: bool, ahead_s: float
) -> None:
    # A router whose only answer is to a chunk above a share has nothing in flight that tells it that others pass by.
    core.submit(replace(chunk(1, pairs=4, slack_ms=slack_ms), over_share=over_share), 0.0)
    assert taken(core) == [1]
    above = [replace(chunk(n, 4, slack_ms=80.0), over_share=True) for n in (2, 3, 4)]
    best_effort = [chunk(n, 4) for n in (5, 6, 7)]
    for each in (*above, *best_effort, chunk(8, 4, slack_ms=3.6e6), chunk(9, 4, slack_ms=200.0)):
        core.submit(each, 0.0)
    ((_, scores),) = answered(core, 0.04, 40.0)
    assert scores.backlog_s == pytest.approx(0.32)
    assert scores.ahead_s == pytest.approx(ahead_s)
