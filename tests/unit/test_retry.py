"""Chunks that are lost with their replica: the rule, and what the dispatcher makes of it."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import Expired, NotHosted, ReplicaLost, ScoringFailed, Unavailable
from rankfleet.core.messages import Chunk, ChunkScores
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.estimates.latency import LatencyModel
from rankfleet.router.dispatch import Dispatcher
from rankfleet.router.fleet import FleetView
from rankfleet.router.retry import MAX_ATTEMPTS, PATIENCE_S, Deadline, retry, silent_at_s
from tests.unit.fakes import FakeClock, FakeGroup, fleet


@pytest.mark.parametrize(
    ("attempts", "now_s", "deadline_s", "min_ms", "again", "in_time"),
    [
        (1, 0.1, math.inf, 20, True, True),
        (1, 0.1, 0.15, 20, True, True),
        (1, 0.1, 0.11, 20, False, False),  # 10 ms are left and 20 needed
        (1, 0.2, 0.1, 0, False, False),
        (MAX_ATTEMPTS - 1, 0.1, math.inf, 20, True, True),
        (MAX_ATTEMPTS, 0.1, math.inf, 20, False, True),
        (2, PATIENCE_S, math.inf, 20, False, True),
        (2, PATIENCE_S - 1, math.inf, 20, True, True),
    ],
)
def test_a_lost_chunk_is_sent_again_while_it_can_be_in_time(
    attempts: int, now_s: float, deadline_s: float, min_ms: float, again: bool, in_time: bool
) -> None:
    verdict = retry(attempts, 0.0, now_s, deadline_s, min_ms)
    assert (verdict.again, verdict.in_time) == (again, in_time)
    assert verdict.reason


def test_an_attempt_waits_until_its_grace_ends_and_best_effort_work_without_limit() -> None:
    assert Deadline(10.5).wait_s(10.0) == pytest.approx(1.5)
    assert Deadline(9.0).wait_s(10.0) == pytest.approx(1.0)
    assert Deadline().wait_s(10.0) is None
    assert Deadline(10.5, grace_s=math.inf).wait_s(10.0) is None, "late is fine"
    assert Deadline(10.5, grace_s=0.0).wait_s(10.0) == pytest.approx(0.5)


def test_a_replica_is_lost_after_five_silent_seconds_or_five_times_the_predicted_time() -> None:
    assert silent_at_s(100.0, 0.2) == 105.0
    assert silent_at_s(100.0, 3.0) == 115.0


class Dying(FakeGroup):
    """Loses the first `deaths` chunks, each with another replica, after so many seconds of the clock."""

    def __init__(self, clock: FakeClock, deaths: int, after_s: float = 0.01) -> None:
        super().__init__()
        self.clock, self.deaths, self.after_s = clock, deaths, after_s

    async def score(self, chunk: Chunk, predicted_s: float) -> ChunkScores:
        if len(self.chunks) < self.deaths:
            self.chunks.append(chunk)
            self.clock.now += self.after_s
            raise ReplicaLost("a replica went away", f"r{len(self.chunks)}")
        scores = await super().score(chunk, predicted_s)
        return replace(scores, replica=f"r{len(self.chunks)}")


PAIRS = TokenizedPairs(np.arange(10, dtype=np.int32), np.array([4, 6], np.int32), np.array([2, 2], np.int32))


def dispatcher(clock: FakeClock, make: Callable[[FakeClock], FakeGroup]) -> tuple[Dispatcher, FakeGroup, FleetView]:
    config = fleet()
    view, group = FleetView(config), make(clock)
    view.update_latency({tier: LatencyModel(20, 0, 0) for tier in config.tiers})
    return Dispatcher(config, view, {"demo": group}, clock), group, view


async def test_the_next_replica_gets_the_slack_that_is_left() -> None:
    clock = FakeClock()
    one, group, view = dispatcher(clock, lambda clock: Dying(clock, 2, after_s=0.03))
    view.set_running("demo", frozenset({"r1", "r2", "r3"}))
    scored = await one.score(("small",), PAIRS, Deadline(clock.now + 0.1))
    assert scored.logits.tolist() == [4.0, 6.0]
    assert [chunk.slack_ms for chunk in group.chunks] == pytest.approx([100, 70, 40])
    assert view.replicas("demo", clock.now) == 1, "the two that died are forgotten at once"
    assert view.backlog_s("demo", clock.now) == 0.0


async def test_without_time_for_another_replica_the_chunk_expires() -> None:
    clock = FakeClock()
    one, group, view = dispatcher(clock, lambda clock: Dying(clock, 9, after_s=0.03))
    with pytest.raises(Expired, match="no time was left"):
        await one.score(("small",), PAIRS, Deadline(clock.now + 0.1))
    assert len(group.chunks) == 3  # at 90 ms the 20 that it takes are more than the 10 left
    assert view.backlog_s("demo", clock.now) == 0.0


async def test_without_a_deadline_the_number_of_attempts_is_bounded() -> None:
    clock = FakeClock()
    one, group, _ = dispatcher(clock, lambda clock: Dying(clock, 99))
    with pytest.raises(Unavailable, match="4 replicas went away"):
        await one.score(("small",), PAIRS)
    assert len(group.chunks) == MAX_ATTEMPTS
    assert {chunk.slack_ms for chunk in group.chunks} == {None}


async def test_without_a_deadline_the_time_is_bounded_too() -> None:
    clock = FakeClock()
    one, group, _ = dispatcher(clock, lambda clock: Dying(clock, 99, after_s=70.0))
    with pytest.raises(Unavailable, match="no replica has answered for 140 s"):
        await one.score(("small",), PAIRS)
    assert len(group.chunks) == 2


@pytest.mark.parametrize("error", [ScoringFailed("out of memory"), Expired("the budget ended")])
async def test_errors_of_the_replica_itself_are_not_retried(error: Exception) -> None:
    class Faulty(FakeGroup):
        async def score(self, chunk: Chunk, predicted_s: float) -> ChunkScores:
            self.chunks.append(chunk)
            raise error

    one, group, _ = dispatcher(FakeClock(), lambda clock: Faulty())
    with pytest.raises(type(error)):
        await one.score(("small",), PAIRS)
    assert len(group.chunks) == 1


async def test_a_replica_that_never_answers_ends_with_the_deadline() -> None:
    class CutOff(FakeGroup):
        async def score(self, chunk: Chunk, predicted_s: float) -> ChunkScores:
            raise asyncio.CancelledError  # by `Passes`

    class Passes:
        """All the time that may pass, passes."""

        def __init__(self, seconds: float | None) -> None:
            waited.append(seconds)

        async def __aenter__(self) -> None: ...

        async def __aexit__(self, *_: object) -> None:
            raise TimeoutError

    waited: list[float | None] = []
    clock, config = FakeClock(), fleet()
    one = Dispatcher(config, FleetView(config), {"demo": CutOff()}, clock, Passes)
    with pytest.raises(Expired, match="before a replica answered"):
        await one.score(("small",), PAIRS, Deadline(clock.now + 2.0))
    assert waited == [pytest.approx(3.0)]


class Crowded(FakeGroup):
    """What has a deadline expires in the queue, after what is left of its time."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.clock = clock

    async def score(self, chunk: Chunk, predicted_s: float) -> ChunkScores:
        if chunk.slack_ms is not None:
            self.chunks.append(chunk)
            self.clock.now += chunk.slack_ms / 1e3
            raise Expired("the budget ended in the queue of r1")
        return await super().score(chunk, predicted_s)


async def test_with_infinite_grace_an_expired_chunk_is_sent_again_without_a_deadline() -> None:
    clock = FakeClock()
    one, group, view = dispatcher(clock, lambda clock: Crowded(clock))
    scored = await one.score(("small",), PAIRS, Deadline(clock.now + 0.1, grace_s=math.inf))
    assert scored.logits.tolist() == [4.0, 6.0]
    assert [chunk.slack_ms for chunk in group.chunks] == [pytest.approx(100), None]
    assert view.backlog_s("demo", clock.now) == 0.0
    with pytest.raises(Expired):
        await one.score(("small",), PAIRS, Deadline(clock.now + 0.1))


class Versions(FakeGroup):
    """Replicas in turn, of the weights given. Each answers with its own, and refuses others."""

    def __init__(self, *weights: str) -> None:
        super().__init__()
        self.weights = list(weights)

    async def score(self, chunk: Chunk, predicted_s: float) -> ChunkScores:
        own = self.weights[len(self.chunks) % len(self.weights)]
        scores = await super().score(chunk, predicted_s)
        if chunk.weights not in (None, own):
            raise NotHosted("this replica does not host tier 'small' as the router means it")
        return replace(scores, model=own)


MANY = TokenizedPairs(np.zeros(8192, np.int32), np.full(64, 128, np.int32), np.full(64, 2, np.int32))


def patient(config: FleetConfig, group: FakeGroup, clock: FakeClock) -> tuple[Dispatcher, FleetView]:
    async def pause(seconds: float) -> None:
        clock.now += seconds

    view = FleetView(config)
    return Dispatcher(config, view, {"demo": group}, clock, sleep=pause), view


@pytest.mark.parametrize("batch_tokens", [16384, 2048])
async def test_scores_of_two_models_are_never_joined(batch_tokens: int) -> None:
    clock, group = FakeClock(), Versions("new", "old")
    kept = {"demo": {"tiers": ["small", "medium", "large"], "batch_tokens": batch_tokens}}
    one, view = patient(fleet(groups=kept), group, clock)
    view.set_running("demo", frozenset({"r1", "r2"}))
    scored = await one.score(("small",), MANY)
    assert scored.models == {"new"}
    first = [chunk for chunk in group.chunks if not chunk.weights]
    assert sum(len(chunk.pairs) for chunk in first) == 64
    assert {chunk.weights for chunk in group.chunks} == {None, "new"}, "then all of it by one of them"


async def test_a_replica_of_the_routers_version_is_waited_for_while_time_is_left() -> None:
    class Updating(FakeGroup):
        async def score(self, chunk: Chunk, predicted_s: float) -> ChunkScores:
            if clock.now < 103.0:
                self.chunks.append(chunk)
                raise NotHosted("this replica does not host tier 'small' as the router means it")
            return await super().score(chunk, predicted_s)

    clock, group = FakeClock(), Updating()
    one, _ = patient(fleet(), group, clock)
    scored = await one.score(("small",), PAIRS, Deadline(clock.now + 10.0))
    assert (scored.logits.tolist(), clock.now) == ([4.0, 6.0], pytest.approx(103.0, abs=0.2))
    clock.now = 100.0
    with pytest.raises(Expired, match="as the router means it, and none that does answered in time"):
        await one.score(("small",), PAIRS, Deadline(clock.now + 1.0))
    clock.now = -1000.0
    with pytest.raises(Unavailable, match="for 120 s; is an update stuck"):
        await one.score(("small",), PAIRS)


async def test_a_chunk_carries_the_fingerprints_of_its_models() -> None:
    config, group = fleet(), FakeGroup()
    one = Dispatcher(config, FleetView(config), {"demo": group}, FakeClock(), models={"small": "a1", "large": "b2"})
    await one.score(("small",), PAIRS)
    await one.score(("large", "small"), PAIRS)
    assert [chunk.models for chunk in group.chunks] == [{"small": "a1"}, {"small": "a1", "large": "b2"}]
