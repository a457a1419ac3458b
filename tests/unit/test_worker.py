"""The worker, with fakes for the device and the clock. What it decides is tested in test_replica_core.py."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rankfleet.core.errors import Expired, NotHosted, ScoringFailed
from rankfleet.core.messages import Chunk
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.estimates.latency import LatencyModel
from rankfleet.replica.collector import CollectorWatchdog, submit_each
from rankfleet.replica.core import STUCK_S
from rankfleet.replica.device import executor_scorer
from rankfleet.replica.health import check
from rankfleet.replica.hosting import HostedModel, PairScorer
from rankfleet.replica.worker import Worker
from tests.unit.fakes import FakeClock


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


async def never(model: HostedModel, chunks: Sequence[Chunk]) -> tuple[list[np.ndarray], float]:
    """A device that does not come back."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError


def worker_of(
    clock: FakeClock, *, on_batch: Callable[[int, float], None] | None = None, **scorers: PairScorer
) -> Worker:
    """A replica with a batch of 40 tokens. scorers: by tier, each of which takes a millisecond a token."""
    hosted = {tier: HostedModel(tier, scorer, LatencyModel(0.0, 1.0, 0.0)) for tier, scorer in scorers.items()}
    score = executor_scorer(Inline(), clock)
    return Worker("r1", hosted, {"t": 0.3, "u": 0.4}, 40, score, clock, on_batch or (lambda tokens, backlog_s: None))


def chunk(*firsts: int, tier: str = "t", slack_ms: float | None = None, tokens: int = 10) -> Chunk:
    ids = np.zeros(len(firsts) * tokens, dtype=np.int32)
    ids[::tokens] = firsts
    n = len(firsts)
    return Chunk((tier,), TokenizedPairs(ids, np.full(n, tokens, np.int32), np.full(n, 2, np.int32)), slack_ms)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def scorer(clock: FakeClock) -> FakeScorer:
    return FakeScorer(clock)


@pytest.fixture
def worker(clock: FakeClock, scorer: FakeScorer) -> Worker:
    return worker_of(clock, t=scorer, u=scorer)


async def test_every_chunk_of_a_batch_gets_its_own_scores(worker: Worker, scorer: FakeScorer) -> None:
    futures = [worker.submit(chunk(1, 2)), worker.submit(chunk(3)), worker.submit(chunk(4))]
    answers = await asyncio.gather(*futures)
    assert [a.logits.tolist() for a in answers] == [[1, 2], [3], [4]]
    assert scorer.batches == [[1, 2, 3, 4]]
    assert [(a.replica, a.infer_ms) for a in answers] == [("r1", pytest.approx(40.0))] * 3
    assert (worker.load.backlog_s, worker.backlog_s, worker.busy) == (0.0, 0.0, False)


async def test_batches_are_scored_until_none_waits(worker: Worker, scorer: FakeScorer) -> None:
    answers = await asyncio.gather(*[worker.submit(chunk(n, n, n)) for n in (1, 2)])
    assert scorer.batches == [[1, 1, 1], [2, 2, 2]]
    assert [a.queue_ms for a in answers] == pytest.approx([0.0, 30.0])
    assert (await worker.submit(chunk(5))).logits.tolist() == [5]


async def test_an_answer_tells_the_backlog_with_the_next_batch_at_its_tier(
    clock: FakeClock, scorer: FakeScorer
) -> None:
    hosted = {
        tier: HostedModel(tier, scorer, LatencyModel(0.0, token_ms, 0.0)) for tier, token_ms in (("t", 1.0), ("u", 2.0))
    }
    worker = Worker("r1", hosted, {"t": 0.3, "u": 0.4}, 40, executor_scorer(Inline(), clock), clock)
    first, last = worker.submit(chunk(1, 2, 3)), worker.submit(replace(chunk(4, 5), tiers=("t", "u")))
    assert worker.backlog_s == pytest.approx(0.05), "30 and 20 ms by t"
    assert ((await first).backlog_s, (await first).tier) == (pytest.approx(0.04), "t"), "40 by u, which is chosen now"
    assert ((await last).backlog_s, (await last).tier) == (0.0, "u")


async def test_a_chunk_that_is_cancelled_before_its_batch_starts_is_not_scored(
    worker: Worker, scorer: FakeScorer
) -> None:
    gone, kept = worker.submit(chunk(1, 2)), worker.submit(chunk(3))
    assert worker.backlog_s == pytest.approx(0.03)
    gone.cancel()
    gone.cancel()
    assert worker.backlog_s == pytest.approx(0.01)
    assert (await kept).logits.tolist() == [3]
    assert scorer.batches == [[3]]


async def test_a_chunk_whose_waiting_task_is_cancelled_is_not_scored(worker: Worker, scorer: FakeScorer) -> None:
    async def wait() -> None:
        await worker.submit(chunk(1))

    for each in range(4):
        worker.submit(chunk(each + 2, 0, 0))
    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await worker.submit(chunk(9))
    assert [1] not in scorer.batches


async def test_a_chunk_that_fails_on_the_device_fails_alone(worker: Worker) -> None:
    futures = [worker.submit(chunk(n)) for n in (1, 13, 2)]
    answers = await asyncio.gather(*futures, return_exceptions=True)
    assert isinstance(answers[1], MemoryError)
    assert [a.logits.tolist() for a in (answers[0], answers[2])] == [[1], [2]]  # type: ignore[union-attr]
    assert (await worker.submit(chunk(5))).logits.tolist() == [5]


async def test_an_exception_in_on_batch_fails_no_chunk(clock: FakeClock, scorer: FakeScorer) -> None:
    told: list[tuple[int, float]] = []

    def broken(tokens: int, backlog_s: float) -> None:
        told.append((tokens, backlog_s))
        raise ValueError("metrics are down")

    worker = worker_of(clock, on_batch=broken, t=scorer)
    futures = [worker.submit(chunk(1, 2, 3)), worker.submit(chunk(4, 5))]
    assert [answer.logits.tolist() for answer in await asyncio.gather(*futures)] == [[1, 2, 3], [4, 5]]
    assert told == [(30, pytest.approx(0.05)), (20, pytest.approx(0.02))]


async def test_a_tier_that_is_not_hosted_is_refused(worker: Worker) -> None:
    with pytest.raises(NotHosted, match="does not host tier 'huge'"):
        await worker.submit(chunk(1, tier="huge"))


async def test_a_chunk_that_cannot_be_queued_fails_alone(worker: Worker) -> None:
    # `odd` may be scored by `t`, which is hosted, though its own tier is not; `broken` has no lengths.
    odd = replace(chunk(5), tiers=("huge", "t"))
    broken = replace(chunk(6), pairs=replace(chunk(6).pairs, lengths=None))  # type: ignore[arg-type]
    futures = submit_each(worker.submit, [chunk(1), odd, chunk(2, tier="huge"), broken, chunk(3)])
    answers = await asyncio.gather(*futures, return_exceptions=True)
    assert [a.logits.tolist() for a in (answers[0], answers[1], answers[4])] == [[1], [5], [3]]  # type: ignore[union-attr]
    assert isinstance(answers[2], NotHosted)
    assert isinstance(answers[3], AttributeError)


async def test_an_infeasible_chunk_expires_and_is_not_scored(worker: Worker, scorer: FakeScorer) -> None:
    lost, kept = worker.submit(chunk(1, 2, slack_ms=15)), worker.submit(chunk(3, slack_ms=15))
    with pytest.raises(Expired, match="the budget ended in the queue of r1"):
        await lost
    assert (await kept).logits.tolist() == [3]
    assert scorer.batches == [[3]]


async def test_an_infeasible_chunk_expires_while_the_device_is_busy(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def pass_until(now_s: float) -> None:
        clock.now = now_s
        for _ in range(2):  # the loop finds its timer due, and calls it
            await asyncio.sleep(0)

    with monkeypatch.context() as patch:
        patch.setattr(asyncio.get_running_loop(), "time", clock)
        worker = Worker("r1", {"t": HostedModel("t", None, LatencyModel(0.0, 1.0, 0.0))}, {}, 40, never, clock=clock)
        first = worker.submit(chunk(1, 2, 3, 4))
        await asyncio.sleep(0)  # the first goes on the device
        later, sooner = worker.submit(chunk(5, slack_ms=100)), worker.submit(chunk(6, slack_ms=50))
        best_effort = worker.submit(chunk(7))
        await pass_until(100.0 + 0.0399)
        assert not sooner.done()
        await pass_until(100.0 + 0.0402)  # its latest start is 10 ms before the deadline
        assert isinstance(sooner.exception(), Expired)
        await pass_until(100.0 + 0.0899)
        assert not later.done()
        await pass_until(100.0 + 0.0902)
        assert isinstance(later.exception(), Expired)
        assert (first.done(), best_effort.done()) == (False, False)
    assert not worker.stuck
    clock.now += STUCK_S
    assert worker.stuck


async def test_a_worker_whose_task_has_ended_is_halted_until_the_next_chunk(
    clock: FakeClock, scorer: FakeScorer, caplog: pytest.LogCaptureFixture
) -> None:
    interrupts = [True]

    def interrupted(tokens: int, backlog_s: float) -> None:
        if interrupts:
            raise asyncio.CancelledError  # ends the task, which no Exception does

    worker = worker_of(clock, on_batch=interrupted, t=scorer)
    futures = [worker.submit(chunk(first, 2)) for first in range(5)]  # two and a half batches
    assert not worker.halted
    for _ in range(5):
        await asyncio.sleep(0)
    assert worker.halted
    assert not caplog.records, "no tier has failed"
    interrupts.clear()
    await worker.submit(chunk(9))
    assert [future.result().logits.tolist() for future in futures] == [[first, 2] for first in range(5)]
    assert not worker.halted


async def test_a_worker_hosts_names_and_forgets_models(clock: FakeClock, scorer: FakeScorer) -> None:
    latency, second = LatencyModel(0.0, 1.0, 0.0), FakeScorer(clock)
    models = {"a1": HostedModel("t", scorer, latency, "w1")}
    worker = Worker("r1", models, {"t": 0.3}, 40, executor_scorer(Inline(), clock), clock=clock)
    worker.host("a2", HostedModel("t", second, latency, "w2"))
    assert (worker.hosts, worker.weights) == ({"a1", "a2"}, {"w1", "w2"})
    assert (await worker.submit(chunk(1))).model == "w2"
    worker.name({"t": "a1"})
    assert (await worker.submit(chunk(2))).model == "w1"
    clock.now += 31.0
    assert (worker.forget({"a1"}, 30.0), worker.hosts) == (["a2"], {"a1"})
    assert worker.models == {"a1": worker.models["a1"]}


async def test_a_model_that_fails_every_batch_is_unhealthy_though_others_succeed(clock: FakeClock) -> None:
    class Broken(FakeScorer):
        def score(self, pairs: TokenizedPairs) -> np.ndarray:
            raise RuntimeError("device lost")

    worker = worker_of(clock, t=Broken(clock), u=FakeScorer(clock))
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

    worker = worker_of(clock, t=Small(clock))
    with pytest.raises(MemoryError):
        await worker.submit(chunk(1, tokens=2000))
    await check(worker, CollectorWatchdog())
    assert worker.failures == 0


@pytest.mark.parametrize("logits", [[np.nan, 1.0], [np.inf, 1.0], [1.0], [[1.0], [2.0]]])
async def test_scores_that_are_not_finite_or_not_one_per_pair_are_an_error(clock: FakeClock, logits: list[Any]) -> None:
    class Odd:
        def score(self, pairs: TokenizedPairs) -> np.ndarray:
            return np.array(logits, dtype=np.float32)

    worker = worker_of(clock, t=Odd())
    with pytest.raises(ScoringFailed, match="tier t gave scores that are not finite"):
        await worker.submit(chunk(1, 2))
    assert worker.failures == 1
    assert not worker.halted
