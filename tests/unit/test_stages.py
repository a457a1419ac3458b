"""Cascades in the service: two stages, or the first one's answer when there is no time for the second."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rankfleet.api.dialects.native_plan import plan_json
from rankfleet.api.dialects.native_replies import ranking_json
from rankfleet.core.decisions import Refusal, Stage
from rankfleet.core.errors import Overloaded, ScoringFailed, Unavailable, UnknownModel
from rankfleet.core.messages import Chunk, ChunkScores, RerankRequest
from rankfleet.estimates.latency import LatencyModel
from rankfleet.router.replica_record import Entry
from rankfleet.router.retry import GRACE_S
from rankfleet.router.service import RankingService
from tests.unit import fakes
from tests.unit.fakes import FakeClock, FakeGroup, fleet, on_virtual_time, word_tokenizer

DOCUMENTS = ["a dog is an animal", "a dog is an", "a dog", "a", "x"]  # pairs of 9, 8, 6, 5 and 5 tokens


class TwoMinds(FakeGroup):
    """`small` prefers long documents, every other tier short ones. `after` is called with each chunk."""

    def __init__(self, after: object = lambda chunk: None) -> None:
        super().__init__()
        self.after = after

    async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
        scores = await super().score(chunk, entry)
        self.after(chunk)  # type: ignore[operator]
        tier = chunk.tier
        logits = scores.logits if tier == "small" else 100 - scores.logits
        return ChunkScores(logits, 1.0, 2.0, "r1", 0.0, tier)


def service(
    tmp_path: Path, group: FakeGroup, clock: Callable[[], float] | None = None, retriever: float = 0.2
) -> RankingService:
    """Times in milliseconds: small takes 10, large 1 and 12.5 a token, which is 413 for everything."""
    table = tmp_path / "table.json"
    figures = {"retriever": retriever, "cascades": {"small>large": {"2": 0.45}}}
    table.write_text(json.dumps({"data_sets": {"mine": figures}}))
    config = fleet(candidates="ranked", quality={"table": str(table)}, network_ms=3)
    one = fakes.service(group, config, clock=clock)
    models = {"small": (10.0, 0.0), "medium": (900.0, 0.0), "large": (1.0, 12.5)}
    one.fleet.update_latency({tier: LatencyModel(a, b, 0) for tier, (a, b) in models.items()})
    return one


async def test_the_larger_tier_scores_the_best_of_the_smaller_again(tmp_path: Path) -> None:
    group = TwoMinds()
    one = service(tmp_path, group)
    ranking = await one.rank(RerankRequest("cat", DOCUMENTS, slo_ms=300))
    # small ranks 0 1 2 3 4 and falls most behind the second; large turns these two round, the others stay behind
    assert [d.index for d in ranking.documents] == [1, 0, 2, 3, 4]
    assert [(c.tier, len(c.pairs)) for c in group.chunks] == [("small", 5), ("large", 2)]
    assert ranking.stages == (Stage.of("small", 5), Stage.of("large", 2))
    assert (ranking.plan.tier, ranking.plan.quality, ranking.partial) == ("large", 0.45, False)
    assert ranking.tokens == (9 + 8 + 6 + 5 + 5) + (9 + 8)
    scores = [d.score for d in ranking.documents]
    assert scores == sorted(scores, reverse=True), "a client that sorts by score gets the same order"


async def test_without_time_for_a_second_stage_the_first_answers(tmp_path: Path) -> None:
    clock: list[FakeClock] = []
    group = TwoMinds(lambda chunk: setattr(clock[0], "now", clock[0].now + 0.29))
    one = service(tmp_path, group)
    clock.append(one.clock)  # type: ignore[arg-type]
    ranking = await one.rank(RerankRequest("cat", DOCUMENTS, slo_ms=300))
    assert [d.index for d in ranking.documents] == [0, 1, 2, 3, 4]
    assert [c.tier for c in group.chunks] == ["small"]
    assert (ranking.plan.tier, ranking.partial, ranking.met) == ("small", True, True)
    assert ranking.plan.reason.endswith("no time was left for the second stage, small answers")


@on_virtual_time
async def test_a_second_stage_that_does_not_come_back_in_time_is_given_up(tmp_path: Path) -> None:
    class Hanging(TwoMinds):
        async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
            if chunk.tier == "large":
                self.chunks.append(chunk)
                await asyncio.Event().wait()
            return await super().score(chunk, entry)

    group = Hanging()
    ranking = await service(tmp_path, group, asyncio.get_running_loop().time).rank(
        RerankRequest("cat", DOCUMENTS, slo_ms=300)
    )
    assert [c.tier for c in group.chunks] == ["small", "large"]
    assert (ranking.plan.tier, ranking.partial) == ("small", True)
    assert asyncio.get_running_loop().time() == pytest.approx(0.3)
    # The first stage was 1 ms in the queue and 2 on the device; the rest was waited for in vain.
    assert (ranking.timing.ms["transfer"], ranking.timing.ms["reply"]) == (pytest.approx(297), 0.0)


@on_virtual_time
async def test_a_first_stage_that_does_not_come_back_in_time_leaves_the_order_given(tmp_path: Path) -> None:
    class Hanging(TwoMinds):
        async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
            await asyncio.Event().wait()
            raise AssertionError

    one = service(tmp_path, Hanging(), asyncio.get_running_loop().time)
    ranking = await one.rank(RerankRequest("cat", DOCUMENTS, slo_ms=300))
    assert (ranking.plan.tier, ranking.timing.ms["transfer"]) == (None, pytest.approx(300 + GRACE_S * 1e3))
    assert ranking.timing.ms["reply"] == 0.0


async def test_a_second_stage_whose_replicas_are_gone_leaves_the_first_answer(tmp_path: Path) -> None:
    class Gone(TwoMinds):
        async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
            if chunk.tier == "large":
                raise Unavailable("no replica")
            return await super().score(chunk, entry)

    ranking = await service(tmp_path, Gone()).rank(RerankRequest("cat", DOCUMENTS, slo_ms=300))
    assert (ranking.plan.tier, ranking.partial, len(ranking.documents)) == ("small", True, 5)


async def test_a_fault_in_the_second_stage_leaves_the_first_answer(tmp_path: Path) -> None:
    class Broken(TwoMinds):
        async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
            if chunk.tier == "large":
                raise error
            return await super().score(chunk, entry)

    class Nonsense(TwoMinds):
        async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
            scores = await super().score(chunk, entry)
            return replace(scores, logits=scores.logits * np.nan) if chunk.tier == "large" else scores

    for error in (ScoringFailed("out of memory"), RuntimeError("device lost")):
        ranking = await service(tmp_path, Broken()).rank(RerankRequest("cat", DOCUMENTS, slo_ms=300))
        assert (ranking.plan.tier, ranking.plan.quality, ranking.partial) == ("small", 0.3, True)
        assert [d.index for d in ranking.documents] == [0, 1, 2, 3, 4]
        assert f"the second stage failed ({type(error).__name__}), small answers" in ranking.plan.reason
    ranking = await service(tmp_path, Nonsense()).rank(RerankRequest("cat", DOCUMENTS, slo_ms=300))
    assert (ranking.plan.tier, ranking.partial) == ("small", True)


async def test_min_quality_holds_when_the_second_stage_is_left_out(tmp_path: Path) -> None:
    clock: list[FakeClock] = []
    one = service(tmp_path, TwoMinds(lambda chunk: setattr(clock[0], "now", clock[0].now + 0.29)))
    clock.append(one.clock)  # type: ignore[arg-type]
    one.fleet.transfers.took = lambda *_: None  # type: ignore[method-assign]  # or the next would be refused
    with pytest.raises(Overloaded, match="no time was left for the second stage, and what is left is below"):
        await one.rank(RerankRequest("cat", DOCUMENTS, slo_ms=300, min_quality=0.42))
    assert (await one.rank(RerankRequest("cat", DOCUMENTS, slo_ms=300, min_quality=0.25))).plan.tier == "small"


async def test_a_first_stage_that_ranks_worse_than_the_order_given_does_not_answer_alone(tmp_path: Path) -> None:
    class Short(TwoMinds):
        """small ranks the short documents first."""

        async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
            scores = await super().score(chunk, entry)
            return replace(scores, logits=-scores.logits)

    clock: list[FakeClock] = []
    group = Short(lambda chunk: setattr(clock[0], "now", clock[0].now + 0.29))
    one = service(tmp_path, group, retriever=0.35)
    clock.append(one.clock)  # type: ignore[arg-type]
    one.fleet.transfers.took = lambda *_: None  # type: ignore[method-assign]  # or the next would be refused
    for min_quality in (0.0, 0.33):
        ranking = await one.rank(RerankRequest("cat", DOCUMENTS, slo_ms=300, min_quality=min_quality))
        assert [(d.index, d.logit) for d in ranking.documents] == [(i, None) for i in range(5)]
        assert (ranking.plan.tier, ranking.plan.quality, ranking.stages) == (None, 0.35, ())
        assert (ranking.plan.fits, ranking.plan.degraded) == (False, "the order as given")
        assert ranking.plan.reason.endswith("; no time was left for the second stage: the order as given instead")
    assert [c.tier for c in group.chunks] == ["small", "small"], "both were planned as cascades"
    with pytest.raises(Overloaded, match="no time was left for the second stage, and what is left is below"):
        await one.rank(RerankRequest("cat", DOCUMENTS, slo_ms=300, min_quality=0.36))
    clock[0].now += 1.0  # of unordered candidates the first stage is better than nothing
    unordered = await one.rank(RerankRequest("cat", DOCUMENTS, slo_ms=300, candidates="unordered"))
    assert (unordered.plan.tier, unordered.partial) == ("small", True)


async def test_a_second_stage_that_scores_too_few_leaves_the_order_given(tmp_path: Path) -> None:
    # 117 ms are left after the first stage: one of 9 tokens takes 113.5, and two take 213.5.
    clock: list[FakeClock] = []
    one = service(tmp_path, TwoMinds(lambda chunk: setattr(clock[0], "now", clock[0].now + 0.18)), retriever=0.35)
    clock.append(one.clock)  # type: ignore[arg-type]
    one.fleet.transfers.took = lambda *_: None  # type: ignore[method-assign]
    ranking = await one.rank(RerankRequest("cat", DOCUMENTS, slo_ms=300))
    assert (ranking.plan.tier, ranking.plan.quality) == (None, 0.35)
    assert ranking.plan.reason.endswith("; the second stage scored fewer than planned: the order as given instead")


async def test_candidates_not_scored_again_keep_the_order_of_the_first_stage(tmp_path: Path) -> None:
    # By small: an, a, cat, dog, bird, is. Both stages put `is` second where it is promoted; the others stay in order.
    words = ["cat", "dog", "bird", "is", "an", "a"]
    places = {int(word_tokenizer().encode([word])[0][0]): i for i, word in enumerate(words)}
    by = {"small": [3.0, 2.0, 1.0, 5.0, 4.0, 6.0], "large": [0.0, 0.0, 0.0, 7.0, 0.0, 8.0]}

    class Words(FakeGroup):
        async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
            ends = np.cumsum(chunk.pairs.lengths)
            logits = np.array([by[chunk.tier][places[int(i)]] for i in chunk.pairs.ids[ends - 2]], dtype=np.float32)
            return ChunkScores(logits, 1.0, 2.0, "r1", 0.0, chunk.tier)

    table = tmp_path / "table.json"
    table.write_text(json.dumps({"data_sets": {"mine": {"cascades": {"small>large": {"2": 0.49}}}}}))
    config = fleet(quality={"table": str(table)}, network_ms=3)
    one = fakes.service(Words(), config)
    models = {"small": (10.0, 0.0), "medium": (900.0, 0.0), "large": (1.0, 12.5)}
    one.fleet.update_latency({tier: LatencyModel(a, b, 0) for tier, (a, b) in models.items()})
    ranking = await one.rank(RerankRequest("mat", words, slo_ms=300))
    assert ranking.stages == (Stage.of("small", 6), Stage.of("large", 2))
    assert [words[d.index] for d in ranking.documents] == ["a", "is", "an", "cat", "dog", "bird"]
    by_score = sorted(ranking_json(ranking, None)["results"], key=lambda r: (-r["relevance_score"], r["index"]))
    assert [words[r["index"]] for r in by_score] == ["a", "is", "an", "cat", "dog", "bird"]


async def test_documents_cut_in_either_stage_are_named(tmp_path: Path) -> None:
    one = service(tmp_path, TwoMinds())
    tokenizers = {"small": word_tokenizer(64), "medium": word_tokenizer(64), "large": word_tokenizer(8)}
    two = fakes.service(TwoMinds(), one.config, tokenizers)
    two.fleet.update_latency(one.fleet.models)
    ranking = await two.rank(RerankRequest("cat", [*DOCUMENTS[:4], "a dog " * 40], slo_ms=200))
    assert [stage.tier for stage in ranking.stages] == ["small", "large"]
    # The long one is cut by both; the first, of 9 tokens, by large alone.
    assert ranking.truncated == [0, 4]


async def test_a_plan_without_scoring(tmp_path: Path) -> None:
    group = TwoMinds()
    reply = plan_json(await service(tmp_path, group).explain(RerankRequest("cat", DOCUMENTS, slo_ms=300)))
    assert group.chunks == []
    assert reply["stages"] == [{"tier": "small", "candidates": 5}, {"tier": "large", "candidates": 2}]
    verdicts = {(each["tier"], each["how"]): each["verdict"] for each in reply["considered"]}
    assert verdicts["large", "best 2 by small"] == "chosen"
    assert verdicts["large", "everything"].startswith("too slow by ")


async def test_min_quality_rules_out_lesser_plans(tmp_path: Path) -> None:
    one = service(tmp_path, TwoMinds())
    decision = await one.explain(RerankRequest("cat", DOCUMENTS, slo_ms=300, min_quality=0.48))
    assert isinstance(decision, Refusal)
    chosen = await one.explain(RerankRequest("cat", DOCUMENTS, min_quality=0.48))
    assert not isinstance(chosen, Refusal)
    assert chosen.tier == "large"


async def test_classes_by_field_and_by_tenant() -> None:
    classes = {"fast": {"slo_ms": 20}, "slow": {"slo_ms": 1000}}
    config = fleet(
        slo_classes=classes, default_slo_class="slow", tenants={"app": {"slo_classes": ["fast", "slow"]}, "other": {}}
    )
    one = fakes.service(config=config)
    for asked, expected in (
        ({"slo_class": "fast"}, "fast"),
        ({"tenant": "app"}, "fast"),
        ({"tenant": "other"}, "slow"),
        ({"tenant": "app", "slo_class": "slow"}, "slow"),
        ({"tenant": "app", "model": "slow"}, "slow"),
        ({}, "slow"),
    ):
        assert (await one.rank(RerankRequest("cat", ["a"], **asked))).slo_class == expected
    with pytest.raises(UnknownModel, match="no SLO class 'none'; this fleet has fast, slow"):
        await one.rank(RerankRequest("cat", ["a"], slo_class="none"))
