"""Shadow arms: what another tier would have answered, behind all other work."""

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rankfleet.core.errors import Overloaded
from rankfleet.core.events import ShadowEvent
from rankfleet.core.experiments import Experiment
from rankfleet.core.messages import Chunk, ChunkScores, RankedDocument, RerankRequest
from rankfleet.estimates.latency import LatencyModel
from rankfleet.router.replica_record import Entry
from rankfleet.router.service import RankingService
from rankfleet.router.shadow import drift, kendall_tau, overlap
from tests.unit.fakes import DAWN_S, FakeGroup, on_virtual_time, service

SHADOW = {"mode": "shadow", "arms": {"large": {"weight": 1, "model": "large"}}}
REQUEST = RerankRequest("cat", ["a dog", "a", "a dog is an animal"], model="relaxed", user="u-1", request_id="r-1")
CLASSES = {"relaxed": {"slo_ms": 60}}
Told = list[tuple[str, ShadowEvent | None]]


class BothWays(FakeGroup):
    """`large` ranks the other way round."""

    async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
        scores = await super().score(chunk, entry)
        if chunk.tier == "large":
            return ChunkScores(-scores.logits, 1.0, 2.0, "r1", 0.0, "large")
        return scores


def shadowed(group: FakeGroup, **changes: Any) -> tuple[RankingService, Told]:
    told: Told = []
    settings: dict[str, Any] = {"experiments": {"larger": SHADOW}, "slo_classes": CLASSES} | changes
    one = service(group, on_shadow=lambda outcome, event: told.append((outcome, event)), **settings)
    one.fleet.update_latency({n: LatencyModel(ms, 0, 0) for n, ms in (("small", 10), ("medium", 40), ("large", 160))})
    return one, told


@on_virtual_time
async def test_the_answer_is_compared_with_that_of_the_arm() -> None:
    group = BothWays()
    one, told = shadowed(group)
    ranking = await one.rank(REQUEST)
    assert ranking.plan.tier == "medium"
    assert ranking.assignment is None
    assert [chunk.tier for chunk in group.chunks] == ["medium"]  # the answer is there, and the shadow has not begun
    await asyncio.sleep(1)
    assert {(chunk.tier, chunk.over_share, chunk.slack_ms) for chunk in group.chunks[1:]} == {("large", True, None)}
    ((outcome, event),) = told
    assert outcome == "compared"
    assert event is not None
    assert (event.at_s, event.request_id, event.experiment, event.arm) == (DAWN_S, "r-1", "larger", "large")
    assert (event.tier, event.shadow_tier, event.plan) == ("medium", "large", "large")
    assert (event.overlap, event.tau) == (1.0, -1.0)


@on_virtual_time
async def test_a_shadow_is_no_load_and_nobody_s() -> None:
    one, told = shadowed(FakeGroup(), tenants={"shop": {"pairs_per_s": 3}}, keys="keys.txt")
    await one.rank(replace(REQUEST, tenant="shop"))
    counted = dict(one.offered.counters)
    assert counted["demo"].offered_load_s > 0
    await asyncio.sleep(0.1)  # less than three more pairs of the tenant would take
    assert [outcome for outcome, _ in told] == ["compared"]
    assert one.offered.counters == counted


@on_virtual_time
async def test_a_shadow_wakes_no_group_that_is_asleep() -> None:
    group = FakeGroup()
    kept = {"demo": {"tiers": ["small", "medium", "large"], "replicas": {"min": 0, "max": 1}}}
    one, told = shadowed(group, groups=kept)
    one.fleet.ledgers["demo"].update(frozenset({"r1"}))
    await one.rank(REQUEST)
    one.fleet.ledgers["demo"].update(frozenset())  # it falls asleep before the shadow begins
    await asyncio.sleep(1)
    assert told == [("dropped", None)]
    assert {chunk.tier for chunk in group.chunks} == {"medium"}


@on_virtual_time
async def test_one_is_compared_at_a_time() -> None:
    one, told = shadowed(FakeGroup())
    for _ in range(5):
        await one.rank(REQUEST)
    assert told == [("dropped", None)] * 4
    await asyncio.sleep(1)
    assert [outcome for outcome, _ in told] == ["dropped"] * 4 + ["compared"]


@on_virtual_time
async def test_comparisons_take_a_tenth_of_the_time() -> None:
    class Slow(FakeGroup):
        async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
            return replace(await super().score(chunk, entry), infer_ms=100.0 if chunk.tier == "large" else 1.0)

    one, told = shadowed(Slow(), clock=asyncio.get_running_loop().time)
    for _ in range(50):
        await one.rank(REQUEST)
        await asyncio.sleep(0.2)
    assert [outcome for outcome, _ in told].count("compared") == 10, "of 100 ms each, in 10 s"


@on_virtual_time
async def test_a_shadow_is_not_begun_while_a_request_is_under_way() -> None:
    class Slow(FakeGroup):
        async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
            await asyncio.sleep(0.03)
            return await super().score(chunk, entry)

    one, told = shadowed(Slow())
    await one.rank(REQUEST)
    await one.rank(replace(REQUEST, user=None))  # the first one's shadow would begin in the midst of it
    await asyncio.sleep(1)
    assert told == [("dropped", None)]


@on_virtual_time
async def test_a_shadow_that_is_refused_is_dropped_and_one_that_fails_is_told() -> None:
    class Failing(FakeGroup):
        error: Exception = Overloaded("later", 1.0)

        async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
            if chunk.tier == "large":
                raise self.error
            return await super().score(chunk, entry)

    group = Failing()
    one, told = shadowed(group)
    await one.rank(REQUEST)
    await asyncio.sleep(1)
    group.error = ValueError("what is that")
    await one.rank(REQUEST)
    await asyncio.sleep(1)
    assert told == [("dropped", None), ("failed", None)]


@on_virtual_time
async def test_who_waits_too_long_is_given_up() -> None:
    class Stuck(FakeGroup):
        async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
            if chunk.tier == "large":
                await asyncio.sleep(3600)
            return await super().score(chunk, entry)

    one, told = shadowed(Stuck())
    await one.rank(REQUEST)
    await asyncio.sleep(11)
    assert told == [("dropped", None)]


@on_virtual_time
async def test_what_cannot_be_compared_is_left_alone() -> None:
    group = FakeGroup()
    one, told = shadowed(
        group, experiments={"same": {"mode": "shadow", "arms": {"m": {"weight": 1, "model": "medium"}}}}
    )
    await one.rank(REQUEST)  # by that very tier
    nothing, _ = shadowed(group, experiments={"none": {"mode": "shadow", "arms": {"control": {"weight": 1}}}})
    await nothing.rank(REQUEST)
    without, _ = shadowed(group)
    await without.rank(RerankRequest("cat", ["a"], model="relaxed"))  # without a user
    await without.rank(RerankRequest("cat", ["a", "b"], slo_ms=1, user="u"))  # no score
    await asyncio.sleep(1)
    assert {chunk.tier for chunk in group.chunks} == {"medium"}
    assert told == []


def test_a_shadow_s_arms_set_nothing_that_only_a_client_would_feel() -> None:
    for setting in ({"slo_class": "relaxed"}, {"min_quality": 0.4}):
        with pytest.raises(ValueError, match="nobody waits for an arm's answer"):
            Experiment.model_validate({"mode": "shadow", "arms": {"a": {"weight": 1, **setting}}})


def ranked(*documents: int, relevance: float | None = 0.5) -> list[RankedDocument]:
    if relevance is None:
        return [RankedDocument(index) for index in documents]
    return [RankedDocument(index, 0.0, 0.0, relevance) for index in documents]


def test_agreement_by_hand() -> None:
    """0 1 2 3 against 1 0 2 3: one of six pairs is the other way round, (5 − 1) ⁄ 6."""
    assert kendall_tau(ranked(0, 1, 2, 3), ranked(1, 0, 2, 3)) == pytest.approx(4 / 6)
    assert kendall_tau(ranked(0, 1), ranked(9, 0, 8, 1)) == 1.0
    assert kendall_tau(ranked(0), ranked(0, 1)) is None
    assert overlap(ranked(*range(20)), ranked(*range(5, 25), *range(5))) == 0.5
    assert overlap(ranked(3, 4), ranked(4, 5, 3)) == 0.5
    assert drift(ranked(0, 1, relevance=0.5), ranked(1, 0, relevance=0.75)) == 0.25
    assert drift(ranked(0, relevance=None), ranked(0)) is None


def test_tau_agrees_with_scipy() -> None:
    from scipy.stats import kendalltau

    rng = np.random.default_rng(1)
    one, other = rng.permutation(40), rng.permutation(40)
    expected = kendalltau(np.argsort(one), np.argsort(other)).statistic
    assert kendall_tau(ranked(*one.tolist()), ranked(*other.tolist())) == pytest.approx(expected)
