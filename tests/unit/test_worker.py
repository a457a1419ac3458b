"""The worker, with fakes for the device, the clock and the timer."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rankfleet.core.errors import Expired, NotHosted, ScoringFailed
from rankfleet.core.messages import Chunk
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.core.sections import Routing, Scheduling
from rankfleet.estimates.latency import LatencyModel
from rankfleet.replica.collector import CollectorWatchdog, submit_each
from rankfleet.replica.device import STUCK_S
from rankfleet.replica.health import check
from rankfleet.replica.hosting import HostedModel, PairScorer
from rankfleet.replica.worker import Worker
from tests.unit.fakes import FakeClock

QUALITY = {"t": 0.3, "u": 0.4}


class Inline(Executor):
    """Runs calls at once, in the same thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class FakeScorer:
    """Scores a pair by its first token id. Raises MemoryError for 13. Each token takes a millisecond."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.batches: list[list[int]] = []

    def score(self, pairs: TokenizedPairs) -> np.ndarray:
        firsts = pairs.ids[np.cumsum(pairs.lengths) - pairs.lengths]
        self.batches.append(firsts.tolist())
        self.clock.now += pairs.tokens / 1e3
        if 13 in firsts:
            raise MemoryError("out of memory")
        return firsts.astype(np.float32)


def hosted(scorers: Mapping[str, PairScorer], latency: Mapping[str, LatencyModel]) -> dict[str, HostedModel]:
    """Models whose fingerprint is the name of their tier."""
    return {tier: HostedModel(tier, scorer, latency[tier]) for tier, scorer in scorers.items()}


def chunk(
    *firsts: int, tier: str = "t", slack_ms: float | None = None, tokens: int = 10, tiers: tuple[str, ...] = ()
) -> Chunk:
    ids = np.zeros(len(firsts) * tokens, dtype=np.int32)
    ids[::tokens] = firsts
    n = len(firsts)
    pairs = TokenizedPairs(ids, np.full(n, tokens, np.int32), np.full(n, 2, np.int32))
    return Chunk(tiers or (tier,), pairs, slack_ms)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def scorer(clock: FakeClock) -> FakeScorer:
    return FakeScorer(clock)


@pytest.fixture
def worker(clock: FakeClock, scorer: FakeScorer) -> Worker:
    latency = LatencyModel(0.0, 1.0, 0.0)
    return Worker(
        "r1", hosted({"t": scorer, "u": scorer}, {"t": latency, "u": latency}), QUALITY, 40, Inline(), clock=clock
    )


async def test_chunks_that_wait_together_are_scored_together(worker: Worker, scorer: FakeScorer) -> None:
    futures = [worker.submit(chunk(1, 2)), worker.submit(chunk(3)), worker.submit(chunk(4))]
    answers = await asyncio.gather(*futures)
    assert [a.logits.tolist() for a in answers] == [[1, 2], [3], [4]]
    assert scorer.batches == [[1, 2, 3, 4]]
    assert {a.replica for a in answers} == {"r1"}


async def test_the_earliest_deadline_goes_first_and_a_batch_has_one_tier(worker: Worker, scorer: FakeScorer) -> None:
    futures = [worker.submit(chunk(1)), worker.submit(chunk(2, tier="u", slack_ms=90)), worker.submit(chunk(3))]
    answers = await asyncio.gather(*futures)
    assert scorer.batches == [[2], [1, 3]]
    assert answers[0].queue_ms == pytest.approx(10)  # behind the urgent one
    assert answers[0].infer_ms == pytest.approx(20)


async def test_a_cancelled_chunk_is_not_scored(worker: Worker, scorer: FakeScorer) -> None:
    gone, kept = worker.submit(chunk(1)), worker.submit(chunk(2))
    gone.cancel()
    assert (await kept).logits.tolist() == [2]
    assert scorer.batches == [[2]]


async def test_a_chunk_that_fails_on_the_device_fails_alone(worker: Worker) -> None:
    futures = [worker.submit(chunk(n)) for n in (1, 13, 2)]
    answers = await asyncio.gather(*futures, return_exceptions=True)
    assert isinstance(answers[1], MemoryError)
    assert [a.logits.tolist() for a in (answers[0], answers[2])] == [[1], [2]]  # type: ignore[union-attr]
    assert (await worker.submit(chunk(5))).logits.tolist() == [5]


async def test_an_exception_in_on_batch_fails_no_chunk(clock: FakeClock, scorer: FakeScorer) -> None:
    def broken(tokens: int, backlog_s: float) -> None:
        raise ValueError("metrics are down")

    worker = Worker("r1", hosted({"t": scorer}, {"t": LatencyModel(0, 1, 0)}), QUALITY, 40, Inline(), broken, clock)
    futures = [worker.submit(chunk(1)), worker.submit(chunk(2))]
    assert [answer.logits.tolist() for answer in await asyncio.gather(*futures)] == [[1], [2]]


async def test_a_tier_that_is_not_hosted_is_refused(worker: Worker) -> None:
    with pytest.raises(NotHosted, match="does not host tier 'huge'"):
        await worker.submit(chunk(1, tier="huge"))


async def test_backlog_is_the_waiting_chunks_and_the_rest_of_the_running_batch(
    clock: FakeClock, scorer: FakeScorer
) -> None:
    class Held(Executor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
            return Future()  # never done

    worker = Worker("r1", hosted({"t": scorer}, {"t": LatencyModel(0, 10, 0)}), QUALITY, 40, Held(), clock=clock)
    worker.submit(chunk(1, 2, 3, 4))  # 40 tokens: 400 ms
    worker.submit(chunk(5))  # 100 ms
    assert worker.backlog_s == pytest.approx(0.5)
    await asyncio.sleep(0)
    clock.now += 0.3
    assert worker.backlog_s == pytest.approx(0.2)
    assert not worker.stuck
    clock.now += STUCK_S
    assert worker.stuck


async def test_an_infeasible_chunk_expires_and_is_not_scored(
    worker: Worker, scorer: FakeScorer, clock: FakeClock
) -> None:
    # A token takes a millisecond.
    lost, kept = worker.submit(chunk(1, 2, slack_ms=15)), worker.submit(chunk(3, slack_ms=15))
    answers = await asyncio.gather(lost, kept, return_exceptions=True)
    assert isinstance(answers[0], Expired)
    assert answers[1].logits.tolist() == [3]  # type: ignore[union-attr]
    assert scorer.batches == [[3]]


async def test_the_tier_is_chosen_when_the_work_leaves_the_queue(clock: FakeClock) -> None:
    scorers = {"t": FakeScorer(clock), "u": FakeScorer(clock)}
    latency = {"t": LatencyModel(0.0, 1.0, 0.0), "u": LatencyModel(0.0, 2.0, 0.0)}
    worker = Worker("r1", hosted(scorers, latency), QUALITY, 40, Inline(), clock=clock)
    both = ("t", "u")
    # 10 ms by t, 20 by u: the first has time for either, the second for t alone.
    roomy = await worker.submit(chunk(1, slack_ms=1000, tiers=both))
    tight = await worker.submit(chunk(2, slack_ms=15, tiers=both))
    assert (roomy.tier, tight.tier) == ("u", "t")
    assert (scorers["t"].batches, scorers["u"].batches) == ([[2]], [[1]])


class FakeTimers:
    """Stands for `call_later`. Timers fire when told to."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.set: dict[object, tuple[float, Callable[[], None]]] = {}

    def __call__(self, delay_s: float, act: Callable[[], None]) -> "FakeTimers.Handle":
        handle = FakeTimers.Handle(self)
        self.set[handle] = (self.clock.now + delay_s, act)
        return handle

    class Handle:
        def __init__(self, timers: "FakeTimers") -> None:
            self.timers = timers

        def cancel(self) -> None:
            self.timers.set.pop(self, None)

    def fire(self) -> None:
        """Advance the clock to the next timer, and fire it."""
        handle = min(self.set, key=lambda handle: self.set[handle][0])
        self.clock.now, act = self.set.pop(handle)
        act()


async def test_an_infeasible_chunk_expires_while_the_device_is_busy(clock: FakeClock, scorer: FakeScorer) -> None:
    class Held(Executor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
            return Future()  # never done

    timers = FakeTimers(clock)
    latency = {"t": LatencyModel(0.0, 1.0, 0.0)}  # a token takes a millisecond
    worker = Worker("r1", hosted({"t": scorer}, latency), QUALITY, 40, Held(), clock=clock, call_later=timers)
    worker.submit(chunk(1, 2, 3, 4))
    await asyncio.sleep(0)  # the first goes on the device
    later = worker.submit(chunk(5, slack_ms=100))
    sooner = worker.submit(chunk(6, slack_ms=50))
    best_effort = worker.submit(chunk(7))
    assert len(timers.set) == 1
    timers.fire()  # its latest start is 10 ms before the deadline
    assert clock.now == pytest.approx(100.0 + 0.04, abs=1e-3)
    assert isinstance(sooner.exception(), Expired)
    assert not later.done()
    timers.fire()
    assert clock.now == pytest.approx(100.0 + 0.09, abs=1e-3)
    assert isinstance(later.exception(), Expired)
    assert (timers.set, best_effort.done()) == ({}, False)


async def test_a_cancelled_chunk_leaves_the_backlog(clock: FakeClock, scorer: FakeScorer) -> None:
    worker = Worker("r1", hosted({"t": scorer}, {"t": LatencyModel(0, 1, 0)}), QUALITY, 40, Inline(), clock=clock)
    gone, kept = worker.submit(chunk(1, 2)), worker.submit(chunk(3))
    assert worker.backlog_s == pytest.approx(0.03)
    gone.cancel()
    await kept
    assert scorer.batches == [[3]]
    assert worker.backlog_s == 0


async def test_chunks_of_one_request_are_scored_one_after_the_other(worker: Worker, scorer: FakeScorer) -> None:
    cut = [chunk(n, n, n, slack_ms=1000) for n in (1, 2)]
    other = chunk(5, 5, slack_ms=1000)
    first = worker.submit(replace(cut[0], request="a"))
    between = worker.submit(other)
    second = worker.submit(replace(cut[1], request="a"))
    await asyncio.gather(first, between, second)
    assert scorer.batches == [[1, 1, 1], [2, 2, 2], [5, 5]]


async def test_load_is_measured_at_the_tier_of_the_unloaded_plan(worker: Worker) -> None:
    # 20 tokens take 20 ms at either tier. `u` is the unloaded tier; `t`, of lower quality, scores the chunk.
    future = worker.submit(replace(chunk(1, 2, tier="t"), unloaded_tier="u"))
    assert worker.load.backlog_s == pytest.approx(0.02)
    await future
    await asyncio.sleep(0)
    assert worker.load.backlog_s == 0.0
    counters = worker.load.counters
    assert (counters.arrived_load_s, counters.device_load_s, counters.downgraded_load_s) == pytest.approx(
        (0.02, 0.02, 0.02), rel=0.03
    )


async def test_a_cancelled_chunk_is_no_load_of_the_device(worker: Worker) -> None:
    futures = [worker.submit(chunk(n)) for n in (1, 2, 3)]
    futures[1].cancel()
    await asyncio.gather(*futures, return_exceptions=True)
    await asyncio.sleep(0)
    assert worker.load.backlog_s == 0.0
    assert worker.load.counters.device_load_s == pytest.approx(0.02, rel=0.03)


async def test_a_worker_whose_task_has_ended_is_halted(clock: FakeClock, scorer: FakeScorer) -> None:
    def interrupted(tokens: int, backlog_s: float) -> None:
        raise asyncio.CancelledError  # ends the task, which no Exception does

    worker = Worker(
        "r1", hosted({"t": scorer}, {"t": LatencyModel(0, 1, 0)}), QUALITY, 40, Inline(), interrupted, clock
    )
    for first in range(8):
        worker.submit(chunk(first, 2, 3))  # more than one batch
    assert not worker.halted
    for _ in range(5):
        await asyncio.sleep(0)
    assert worker.halted


async def test_latency_models_follow_what_batches_take(clock: FakeClock, scorer: FakeScorer) -> None:
    # Batches take twice as long as profiled; ten of them correct the model.
    worker = Worker("r1", hosted({"t": scorer}, {"t": LatencyModel(0, 0.5, 0)}), QUALITY, 40, Inline(), clock=clock)
    assert worker.models["t"].beta_ms == 0.5
    for _ in range(10):
        await worker.submit(chunk(1))
    assert worker.models["t"].beta_ms == pytest.approx(1.0, rel=0.1)


async def test_an_answer_tells_the_backlog_of_other_routers(clock: FakeClock, scorer: FakeScorer) -> None:
    # A batch holds 40 tokens, and each takes a millisecond.
    worker = Worker("r1", hosted({"t": scorer}, {"t": LatencyModel(0, 1, 0)}), QUALITY, 40, Inline(), clock=clock)
    first = worker.submit(replace(chunk(1, 1, 1, 1), sender="one"))
    own = worker.submit(replace(chunk(2, 2), sender="one"))
    others = worker.submit(replace(chunk(3), sender="two"))
    scores = await first
    assert (scores.backlog_s, scores.others_s) == pytest.approx((0.03, 0.01))
    assert [(await each).others_s for each in (own, others)] == [0.0, 0.0]


async def test_a_chunk_that_cannot_be_queued_fails_alone(worker: Worker) -> None:
    # `odd` may be scored by `t`, which is hosted, though its own tier is not; `broken` has no lengths.
    odd = chunk(5, tier="huge", tiers=("huge", "t"))
    broken = replace(chunk(6), pairs=replace(chunk(6).pairs, lengths=None))  # type: ignore[arg-type]
    futures = submit_each(worker.submit, [chunk(1), odd, chunk(2, tier="huge"), broken, chunk(3)])
    answers = await asyncio.gather(*futures, return_exceptions=True)
    assert [a.logits.tolist() for a in (answers[0], answers[1], answers[4])] == [[1], [5], [3]]  # type: ignore[union-attr]
    assert isinstance(answers[2], NotHosted)
    assert isinstance(answers[3], AttributeError)


async def test_a_chunk_for_another_model_of_the_tier_is_refused(clock: FakeClock, scorer: FakeScorer) -> None:
    latency = LatencyModel(0, 1, 0)
    models = {"a1": HostedModel("t", scorer, latency, "w1"), "b1": HostedModel("u", scorer, latency, "w2")}
    worker = Worker("r1", models, QUALITY, 40, Inline(), clock=clock)
    same = await worker.submit(replace(chunk(1), models={"t": "a1"}))
    assert same.model == "w1"
    with pytest.raises(NotHosted, match="as the router means it"):
        await worker.submit(replace(chunk(1), models={"t": "a2"}))
    with pytest.raises(NotHosted):
        await worker.submit(replace(chunk(1), models={"t": "a1"}, weights="w9"))
    assert (await worker.submit(replace(chunk(1), models={"t": "a1"}, weights="w1"))).model == "w1"
    # Of two tiers that may score it, the one that means the same model to router and replica.
    either = replace(chunk(2, tier="u", tiers=("t", "u")), models={"t": "a2", "u": "b1"})
    assert (await worker.submit(either)).tier == "u"


async def test_two_models_of_one_tier_are_hosted_until_no_chunk_asks_for_the_old(
    clock: FakeClock, scorer: FakeScorer
) -> None:
    latency, new = LatencyModel(0, 1, 0), FakeScorer(clock)
    worker = Worker("r1", {"a1": HostedModel("t", scorer, latency, "w1")}, QUALITY, 40, Inline(), clock=clock)
    worker.host("a2", HostedModel("t", new, latency, "w2"))
    both = [worker.submit(replace(chunk(n), models={"t": name})) for n, name in ((1, "a1"), (2, "a2"), (3, "a1"))]
    assert [(await each).model for each in both] == ["w1", "w2", "w1"]
    assert (scorer.batches, new.batches) == ([[1, 3]], [[2]])
    clock.now += 29.0
    assert worker.forget({"a2"}, 30.0) == []
    await worker.submit(replace(chunk(4), models={"t": "a1"}))
    clock.now += 29.0
    assert worker.forget({"a2"}, 30.0) == [], "a chunk has asked for it"
    clock.now += 2.0
    assert (worker.forget({"a2"}, 30.0), worker.hosts) == (["a1"], {"a2"})
    with pytest.raises(NotHosted):
        await worker.submit(replace(chunk(5), models={"t": "a1"}))
    assert (await worker.submit(replace(chunk(6), models={"t": "a2"}))).model == "w2"


async def test_after_a_change_is_taken_back_a_tier_goes_by_its_first_model(
    clock: FakeClock, scorer: FakeScorer
) -> None:
    latency = LatencyModel(0, 1, 0)
    worker = Worker("r1", {"a1": HostedModel("t", scorer, latency, "w1")}, QUALITY, 40, Inline(), clock=clock)
    worker.host("a2", HostedModel("t", FakeScorer(clock), latency, "w2"))
    worker.name({"t": "a1"})
    assert (await worker.submit(chunk(1))).model == "w1"
    clock.now += 31.0
    assert (worker.forget({"a1"}, 30.0), worker.hosts) == (["a2"], {"a1"})
    assert (await worker.submit(replace(chunk(2), models={"t": "a1"}))).model == "w1"


async def test_a_model_that_fails_every_batch_is_unhealthy_though_others_succeed(clock: FakeClock) -> None:
    class Broken(FakeScorer):
        def score(self, pairs: TokenizedPairs) -> np.ndarray:
            raise RuntimeError("device lost")

    good, bad, latency = FakeScorer(clock), Broken(clock), LatencyModel(0, 1, 0)
    worker = Worker(
        "r1", hosted({"t": bad, "u": good}, {"t": latency, "u": latency}), QUALITY, 40, Inline(), clock=clock
    )
    await check(worker, CollectorWatchdog(clock))
    for n in range(3):
        with pytest.raises(RuntimeError, match="device lost"):
            await worker.submit(chunk(1))
        await worker.submit(chunk(n, tier="u"))
    assert worker.failures == 3
    with pytest.raises(RuntimeError, match="3 batches in a row have failed, and so has a probe: RuntimeError: device"):
        await check(worker, CollectorWatchdog(clock))


async def test_a_chunk_at_fault_does_not_make_a_replica_unhealthy(worker: Worker, scorer: FakeScorer) -> None:
    for _ in range(3):
        with pytest.raises(MemoryError):
            await worker.submit(chunk(13, 13))
    assert worker.failures == 3
    await check(worker, CollectorWatchdog())
    assert scorer.batches[-1] == [0] * 8, "the probe"
    assert worker.failures == 0


async def test_a_chunk_too_large_for_the_device_does_not_make_a_replica_unhealthy(clock: FakeClock) -> None:
    class Small(FakeScorer):
        def score(self, pairs: TokenizedPairs) -> np.ndarray:
            if pairs.tokens > 1000:
                raise MemoryError("out of memory")
            return super().score(pairs)

    worker = Worker("r1", hosted({"t": Small(clock)}, {"t": LatencyModel(0, 1, 0)}), QUALITY, 40, Inline(), clock=clock)
    with pytest.raises(MemoryError):
        await worker.submit(chunk(1, tokens=2000))
    await check(worker, CollectorWatchdog())
    assert worker.failures == 0


@pytest.mark.parametrize("logits", [[np.nan, 1.0], [np.inf, 1.0], [1.0], [[1.0], [2.0]]])
async def test_scores_that_are_not_finite_or_not_one_per_pair_are_an_error(clock: FakeClock, logits: list[Any]) -> None:
    class Odd:
        def score(self, pairs: TokenizedPairs) -> np.ndarray:
            return np.array(logits, dtype=np.float32)

    worker = Worker("r1", hosted({"t": Odd()}, {"t": LatencyModel(0, 1, 0)}), QUALITY, 40, Inline(), clock=clock)
    with pytest.raises(ScoringFailed, match="tier t gave scores that are not finite"):
        await worker.submit(chunk(1, 2))
    assert worker.failures == 1
    assert not worker.halted


async def test_an_unused_model_is_forgotten_while_the_device_is_busy(clock: FakeClock, scorer: FakeScorer) -> None:
    gone: list[list[str]] = []

    class Watched(FakeScorer):
        def score(self, pairs: TokenizedPairs) -> np.ndarray:
            gone.append(worker.forget({"a2"}, 30.0))  # while a batch is on the device
            return super().score(pairs)

    latency = LatencyModel(0, 1, 0)
    models = {"a1": HostedModel("t", scorer, latency), "a2": HostedModel("t", Watched(clock), latency)}
    worker = Worker("r1", models, QUALITY, 40, Inline(), clock=clock)
    clock.now += 31.0
    await worker.submit(replace(chunk(1), models={"t": "a2"}))
    assert gone == [["a1"]]


async def test_the_quality_of_a_tier_is_known_after_it_has_left_the_fleet_file(clock: FakeClock) -> None:
    scorers = {"t": FakeScorer(clock), "u": FakeScorer(clock)}
    worker = Worker("r1", hosted(scorers, dict.fromkeys(scorers, LatencyModel(0, 1, 0))), QUALITY, 40, Inline())
    worker.adjust(
        {"t": 0.3}, 40, Routing(), Scheduling()
    )  # `u` is not in the file any more; a router still plans with it
    assert (await worker.submit(chunk(1, slack_ms=10_000, tiers=("t", "u")))).tier == "u"


@pytest.mark.parametrize("batch_s", [0.2, 5.0])
async def test_the_correction_decays_only_while_the_device_is_idle(clock: FakeClock, batch_s: float) -> None:
    class Slow(FakeScorer):
        def score(self, pairs: TokenizedPairs) -> np.ndarray:
            clock.now += 4 * batch_s  # four times what the profile says
            return np.zeros(len(pairs), dtype=np.float32)

    worker = Worker(
        "r1", hosted({"t": Slow(clock)}, {"t": LatencyModel(batch_s * 1e3, 0, 0)}), QUALITY, 40, Inline(), clock=clock
    )
    for _ in range(100):
        await worker.submit(chunk(1))
    assert worker.models["t"].alpha_ms == pytest.approx(4 * batch_s * 1e3, rel=0.02)
    clock.now += 300.0
    assert worker.models["t"].alpha_ms == pytest.approx(batch_s * 1e3, rel=0.02)
