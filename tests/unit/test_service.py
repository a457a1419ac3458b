import asyncio
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rankfleet.api.dialects.native_replies import ranking_json
from rankfleet.core.decisions import Plan, Refusal
from rankfleet.core.errors import Expired, Infeasible, InvalidRequest, Overloaded, ScoringFailed, TooLarge, UnknownModel
from rankfleet.core.messages import Chunk, ChunkScores, RerankRequest
from rankfleet.core.timing import Timing
from rankfleet.estimates.latency import LatencyModel
from rankfleet.router.replica_record import Entry
from rankfleet.router.service import RankingService
from rankfleet.router.tokenize import TokenizedTexts
from tests.unit.fakes import WORDS, FakeClock, FakeGroup, fleet, on_virtual_time, send, service, word_tokenizer


def many(count: int, words: str = "a dog") -> list[str]:
    """Documents of these words and one more."""
    return [f"{words} {i}" for i in range(count)]


SUN = 3 + WORDS.index("sun")


async def test_documents_come_back_best_first() -> None:
    ranking = await service().rank(RerankRequest("cat", ["a dog", "a", "a dog is an animal"]))
    # the fake scores a pair by its tokens: 6, 5, 9
    assert [(d.index, d.logit) for d in ranking.documents] == [(2, 9.0), (0, 6.0), (1, 5.0)]
    assert ranking.tokens == 20


async def test_equal_scores_keep_the_order_given() -> None:
    ranking = await service(FakeGroup(lambda ids: 1.0)).rank(RerankRequest("cat", ["sun", "moon", "mat"]))
    assert [d.index for d in ranking.documents] == [0, 1, 2]


async def test_top_n_cuts_the_answer_not_the_work() -> None:
    group = FakeGroup()
    ranking = await service(group).rank(RerankRequest("cat", ["a", "a dog", "a dog is"], top_n=1))
    assert [d.index for d in ranking.documents] == [2]
    assert sum(len(c.pairs) for c in group.chunks) == 3


async def test_a_named_tier_is_pinned() -> None:
    group = FakeGroup()
    ranking = await service(group).rank(RerankRequest("cat", ["a"], model="small"))
    assert ranking.plan.tier == "small"
    assert [c.tier for c in group.chunks] == ["small"]


async def test_the_budget_picks_the_tier() -> None:
    one = service()
    one.fleet.update_latency({n: LatencyModel(ms, 0, 0) for n, ms in (("small", 10), ("medium", 40), ("large", 160))})
    assert isinstance(one.clock, FakeClock)
    for slo_ms, tier in ((20, "small"), (100, "medium"), (1000, "large")):
        one.clock.now += 1  # no burst
        ranking = await one.rank(RerankRequest("cat", ["a"], slo_ms=slo_ms))
        assert (ranking.plan.tier, ranking.met) == (tier, True)


async def test_a_class_is_chosen_by_model_alias_and_the_default_class_applies_else() -> None:
    one = service(slo_classes={"fast": {"slo_ms": 20}, "slow": {"slo_ms": 1000}}, default_slo_class="slow")
    assert (await one.rank(RerankRequest("cat", ["a"], model="fast"))).plan.budget_ms == 20
    assert (await one.rank(RerankRequest("cat", ["a"]))).plan.budget_ms == 1000
    assert (await one.rank(RerankRequest("cat", ["a"], model="fast", slo_ms=35))).plan.budget_ms == 35


async def test_chunks_carry_the_slack_that_is_left() -> None:
    group = FakeGroup()
    one = service(group)
    clock = one.clock
    assert isinstance(clock, FakeClock)
    clock.now = 100.03
    await one.rank(RerankRequest("cat", ["a"], slo_ms=50), Timing(100.0))
    assert group.chunks[0].slack_ms == pytest.approx(17), "of 50 ms, 30 are gone and 3 are for the way to the client"


async def test_a_class_that_refuses_refuses_before_any_work() -> None:
    group = FakeGroup()
    one = service(group, slo_classes={"fast": {"slo_ms": 20, "when_none_fits": "refuse"}})
    one.fleet.update_latency({n: LatencyModel(500, 0, 0) for n in ("small", "medium", "large")})
    with pytest.raises(Infeasible, match=r"no tier fits 20 ms; .* would take 503 ms even on an idle fleet; allow more"):
        await one.rank(RerankRequest("cat", ["a"], model="fast"))
    assert group.chunks == []


async def test_a_large_request_is_spread_over_the_replicas() -> None:
    group = FakeGroup()
    kept = {"tiers": ["small", "medium", "large"], "replicas": {"min": 3, "max": 3}, "batch_tokens": 4096}
    ranking = await service(group, fleet(groups={"demo": kept})).rank(RerankRequest("cat", many(1000)))
    # 1,000 pairs of 7 tokens are more than a batch, and worth three chunks
    assert sorted(len(c.pairs) for c in group.chunks) == [333, 333, 334]
    assert [d.index for d in ranking.documents] == list(range(1000))


async def test_no_chunk_is_above_the_groups_bound() -> None:
    group = FakeGroup()
    config = fleet(groups={"demo": {"tiers": ["small", "medium", "large"], "batch_tokens": 64}})
    await service(group, config).rank(RerankRequest("cat", many(40)))
    assert len(group.chunks) == 5  # nine pairs of 7 tokens fit into 64
    assert all(c.pairs.tokens <= 64 for c in group.chunks)


async def test_the_arm_decides_the_model_and_the_reply_names_it() -> None:
    experiments = {"size": {"arms": {"s": {"model": "small", "weight": 1}, "l": {"model": "large", "weight": 0}}}}
    one = service(experiments=experiments)
    ranking = await one.rank(RerankRequest("cat", ["a"], user="u1"))
    assert ranking.plan.tier == "small"
    assert ranking.assignment is not None
    assert (ranking.assignment.experiment, ranking.assignment.arm) == ("size", "s")
    # Who names a tier gets it, and is in no arm; so is who names no user.
    assert (await one.rank(RerankRequest("cat", ["a"], model="medium", user="u1"))).assignment is None
    assert (await one.rank(RerankRequest("cat", ["a"]))).assignment is None
    with pytest.raises(UnknownModel, match="no model 'huge'"):
        await one.rank(RerankRequest("cat", ["a"], model="huge", user="u1"))


async def test_a_new_version_keeps_estimates_and_counts() -> None:
    group = FakeGroup()
    before = service(group)
    before.fleet.update_latency({n: LatencyModel(5, 0, 0) for n in ("small", "medium", "large")})
    await before.rank(RerankRequest("cat", ["a dog"], slo_ms=300))
    config = fleet(default_model="medium")
    one = service(group, config, before.reader._tokenizers, before.clock, before)
    one.take_over()
    ranking = await one.rank(RerankRequest("cat", ["a dog"]))
    assert (ranking.plan.tier, ranking.cached) == ("medium", 1), "its token ids are known already"
    assert ranking.plan.predicted_ms == pytest.approx(8.0), "and so is how fast it is"
    assert one.offered is before.offered
    # What has begun by the old file ends by it.
    assert (await before.rank(RerankRequest("cat", ["a"]))).plan.tier == "large"


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (RerankRequest(" \n", ["a"]), InvalidRequest, "query is empty"),
        (RerankRequest("cat", []), InvalidRequest, "documents is empty"),
        (RerankRequest("cat", ["a"] * 4), TooLarge, "4 documents are more than the 3 allowed"),
        (RerankRequest("cat", ["a", "ж" * 6]), TooLarge, "documents.1 is longer than the 10 bytes"),
        (RerankRequest("cat", ["a" * 10, "жжжжж", "😀😀😀"]), TooLarge, "documents.2 is longer than the 10 bytes"),
        (RerankRequest("c" * 21, ["a"]), TooLarge, "query is longer than the 20 bytes"),
        (RerankRequest("cat", ["a"], model="huge"), UnknownModel, "no model 'huge'; this fleet has auto, small"),
    ],
)
async def test_bad_requests_are_refused_with_what_to_do(
    request_: RerankRequest, error: type[Exception], message: str
) -> None:
    group = FakeGroup()
    limits = {"max_documents": 3, "max_document_bytes": 10, "max_query_bytes": 20}
    with pytest.raises(error) as fault:
        await service(group, limits=limits).rank(request_)
    assert message in str(fault.value)
    assert group.chunks == []


async def test_truncated_documents_are_named() -> None:
    ranking = await service().rank(RerankRequest("cat", ["a dog", "a dog " * 100]))
    assert ranking.truncated == [1]


async def test_long_documents_score_as_their_best_passage() -> None:
    # 64 tokens less 3 special ones and a query of 1 leave 60, of which half may be shared: 124 tokens are
    # (124 - 30) / 30, that is 4 passages of (124 + 3 * 30) / 4, that is 54, and the last alone sees the sun.
    seen = "a dog " * 61 + "sun sun"
    group = FakeGroup(lambda ids: float(np.sum(ids == SUN)))
    ask = RerankRequest("cat", ["a sun", seen, "a"], long_documents="max_passage")
    ranking = await service(group).rank(ask)
    assert [(d.index, d.logit) for d in ranking.documents] == [(1, 2.0), (0, 1.0), (2, 0.0)]
    assert ranking.passages == [1, 4, 1]
    assert (ranking.pairs, ranking.truncated) == (6, [])
    lengths = sorted(n for chunk in group.chunks for n in chunk.pairs.lengths.tolist())
    assert lengths == [5, 6, 56, 58, 58, 58]
    assert ranking.tokens == sum(lengths)
    cut = await service(FakeGroup(lambda ids: float(np.sum(ids == SUN)))).rank(RerankRequest("cat", ["a sun", seen]))
    assert [(d.index, d.logit) for d in cut.documents] == [(0, 1.0), (1, 0.0)]
    assert (cut.passages, cut.truncated) == (None, [1])


async def test_one_document_cannot_have_more_passages_than_the_limit() -> None:
    group = FakeGroup()
    ask = RerankRequest("cat", ["a dog " * 20_000], long_documents="max_passage")
    ranking = await service(group, limits={"max_passages": 3}).rank(ask)
    assert (ranking.passages, ranking.truncated) == ([3], [0])
    assert sum(len(chunk.pairs) for chunk in group.chunks) == 3


async def test_a_request_overrides_the_fleets_rule_for_long_documents() -> None:
    one = service(long_documents="max_passage", passage_overlap_tokens=0)
    documents = ["a dog " * 90]
    assert (await one.rank(RerankRequest("cat", documents))).passages == [3]
    assert (await one.rank(RerankRequest("cat", documents, long_documents="truncate"))).passages is None


async def test_passages_are_planned_for() -> None:
    # 1 ms a pair: the three passages are too much for the largest tier
    one = service(long_documents="max_passage", passage_overlap_tokens=0, network_ms=0)
    one.fleet.update_latency(
        {n: LatencyModel(0, per, 0) for n, per in (("small", 0.01), ("medium", 0.1), ("large", 1.0))}
    )
    short = await one.rank(RerankRequest("cat", ["a dog " * 30], slo_ms=100))
    long = await one.rank(RerankRequest("cat", ["a dog " * 90], slo_ms=100))
    assert (short.plan.tier, long.plan.tier) == ("large", "medium")


async def test_documents_seen_before_are_not_encoded_again() -> None:
    one = service()
    first = await one.rank(RerankRequest("cat", ["a dog", "the sun"]))
    second = await one.rank(RerankRequest("bird", ["the sun", "a mat", "a dog"]))
    assert (first.cached, second.cached) == (0, 2)
    assert [(d.index, d.logit) for d in second.documents] == [(0, 6.0), (1, 6.0), (2, 6.0)]


async def test_tiers_of_one_vocabulary_share_the_ids_and_keep_their_limits() -> None:
    config = fleet(groups={"demo": {"tiers": ["small", "medium", "large"]}})
    tokenizers = {"small": word_tokenizer(8), "medium": word_tokenizer(16), "large": word_tokenizer(32)}
    group = FakeGroup()
    one = service(group, config, tokenizers)
    for tier in ("small", "large", "medium"):
        await one.rank(RerankRequest("cat", ["a dog " * 50], model=tier))
    assert [chunk.pairs.lengths.tolist() for chunk in group.chunks] == [[8], [32], [16]]
    assert len(one.reader.learned.cache) == 1


async def test_a_failing_group_fails_its_request_and_leaves_no_backlog() -> None:
    class Broken(FakeGroup):
        async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
            raise RuntimeError("device lost")

    one = service(Broken())
    one.fleet.update_latency({n: LatencyModel(100, 0, 0) for n in ("small", "medium", "large")})
    with pytest.raises(RuntimeError, match="device lost"):
        await one.rank(RerankRequest("cat", ["a"]))
    assert one.fleet.snapshot(one.clock()).groups["demo"].backlog_s == 0.0


async def test_scores_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(ScoringFailed, match="tier large gave scores that are not finite"):
        await service(FakeGroup(lambda ids: float("nan"))).rank(RerankRequest("cat", ["a", "b"]))


@on_virtual_time
async def test_requests_do_not_mix() -> None:
    class Slow(FakeGroup):
        async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
            await asyncio.sleep(0)  # others go first
            return await super().score(chunk, entry)

    one = service(Slow(lambda ids: float(ids[1])))  # the query's token
    words = ["cat", "dog", "bird", "sun"]
    rankings = await asyncio.gather(*(one.rank(RerankRequest(w, ["a", "a dog"])) for w in words))
    tokens = [float(ids[0]) for ids in word_tokenizer().encode(words)]
    assert [[d.logit for d in r.documents] for r in rankings] == [[t, t] for t in tokens]


@on_virtual_time
async def test_when_one_chunk_fails_the_others_are_cancelled() -> None:
    cancelled = []

    class HalfBroken(FakeGroup):
        async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
            self.chunks.append(chunk)
            if len(self.chunks) == 1:
                raise RuntimeError("device lost")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(chunk)
                raise
            raise AssertionError

    config = fleet(groups={"demo": {"tiers": ["small", "medium", "large"], "batch_tokens": 64}})
    with pytest.raises(RuntimeError, match="device lost"):
        await service(HalfBroken(), config).rank(RerankRequest("cat", many(40)))
    await asyncio.sleep(0)
    assert len(cancelled) == 4


async def test_a_class_keeps_its_budget_inside_an_experiment() -> None:
    experiments = {"size": {"arms": {"s": {"model": "small", "weight": 1}}}}
    one = service(experiments=experiments, slo_classes={"fast": {"slo_ms": 20}})
    ranking = await one.rank(RerankRequest("cat", ["a"], model="fast", user="u"))
    assert (ranking.plan.tier, ranking.plan.budget_ms) == ("small", 20)
    assert ranking.plan.reason == "small is given by the experiment"


async def test_an_arms_cascade_floor_and_fusion_are_carried_out() -> None:
    cascade = {"first": "small", "second": "large", "candidates": 2}
    arms = {"a": {"weight": 1, "cascade": cascade, "fusion_weight": 2.5}}
    one = service(experiments={"size": {"arms": arms}}, candidates="ranked")
    one.fleet.update_latency({tier: LatencyModel(1, 0, 0) for tier in ("small", "large")})
    ranking = await one.rank(RerankRequest("cat", ["a dog", "a", "a dog is an animal"], user="u"))
    assert [(stage.tier, stage.candidates) for stage in ranking.stages] == [("small", 3), ("large", 2)]
    assert ranking.fused == ("order", 2.5)
    asked = RerankRequest("cat", ["a"], user="u", min_quality=0.1)
    assert one._resolve(asked, ranking.assignment).request.min_quality == 0.1
    floor = service(experiments={"size": {"arms": {"a": {"weight": 1, "min_quality": 0.45}}}})
    assert floor._resolve(asked, floor.splits.assign(asked, 0.0)).request.min_quality == 0.45
    assert floor._resolve(asked, None).request.min_quality == 0.1


async def test_each_tier_cuts_documents_at_its_own_limit() -> None:
    tiers = {
        "small": {"model": "m", "quality": 0.3, "max_tokens": 10},
        "large": {"model": "n", "quality": 0.5, "max_tokens": 20},
    }
    group = FakeGroup()
    config = fleet(tiers=tiers, groups={"demo": {"tiers": ["small", "large"]}})
    ranking = await service(group, config).rank(RerankRequest("cat", ["a dog " * 8]))
    assert ranking.plan.tier == "large"
    assert group.chunks[0].pairs.lengths.tolist() == [20]
    assert ranking.truncated == []


async def test_a_request_that_fits_one_batch_stays_whole_and_names_the_tiers_to_choose_from() -> None:
    class Downgrading(FakeGroup):
        async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
            return replace(await super().score(chunk, entry), tier="small")

    group = Downgrading()
    one = service(group)
    one.fleet.update_latency({n: LatencyModel(ms, 0, 0) for n, ms in (("small", 10), ("medium", 40), ("large", 160))})
    ranking = await one.rank(RerankRequest("cat", ["a"], slo_ms=1000))
    assert group.chunks[0].tiers == ("large", "small", "medium"), "the planned tier first"
    assert (ranking.plan.tier, ranking.plan.quality) == ("small", 0.3)
    assert ranking.plan.reason.endswith("small was taken for the slack left when its turn came")


class Busy(FakeGroup):
    """Every chunk's time runs out in the queue."""

    async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
        raise Expired("the budget ended in the queue of r1")


async def test_what_expires_in_the_queue_comes_back_in_the_order_given() -> None:
    ranking = await service(Busy()).rank(RerankRequest("cat", ["a dog", "a"], slo_ms=50))
    assert [(d.index, d.logit) for d in ranking.documents] == [(0, None), (1, None)]
    assert (ranking.plan.tier, ranking.plan.degraded) == (None, "the order as given")
    assert ranking_json(ranking, None)["results"][0]["relevance_score"] == 0.0


async def test_what_expires_in_the_queue_is_refused_where_the_class_says_so() -> None:
    one = service(Busy(), slo_classes={"fast": {"slo_ms": 20, "when_none_fits": "refuse"}})
    with pytest.raises(Overloaded, match="the budget ended in the queue"):
        await one.rank(RerankRequest("cat", ["a"], model="fast"))


async def test_candidates_that_are_not_scored_follow_those_that_are() -> None:
    group = FakeGroup()
    one = service(group)
    # 4 pairs of 5 tokens; 3 ms go to the way to the client, and 12 more are two pairs at 1 ms a token.
    one.fleet.update_latency({n: LatencyModel(0, ms, 0) for n, ms in (("small", 1), ("medium", 4), ("large", 16))})
    ranking = await one.rank(RerankRequest("cat", ["a", "dog", "sun", "x"], slo_ms=15))
    assert [d.index for d in ranking.documents] == [0, 1, 2, 3]
    assert [d.logit for d in ranking.documents] == [5.0, 5.0, None, None]
    assert len(group.chunks[0].pairs) == 2
    assert ranking.plan.degraded == "first 2 of 4"
    for top_n in (1, 3):
        some = await one.rank(RerankRequest("cat", ["a", "dog", "sun", "x"], slo_ms=15, top_n=top_n))
        assert some.documents == ranking.documents[:top_n]


async def test_a_pinned_tier_that_cannot_be_in_time_gets_twice_its_predicted_time() -> None:
    group = FakeGroup()
    one = service(group)
    one.fleet.update_latency({n: LatencyModel(500, 0, 0) for n in ("small", "medium", "large")})
    ranking = await one.rank(RerankRequest("cat", ["a"], model="large", slo_ms=50))
    assert (ranking.plan.tier, ranking.plan.fits) == ("large", False)
    assert group.chunks[0].slack_ms == pytest.approx(1003.0)  # 2 · 503, less 3 for the way to the client


async def test_warming_up_scores_by_its_tier_and_nothing_is_learned_from_it() -> None:
    group = FakeGroup()
    one = service(group)
    before = one.offered.counters["demo"]
    await one.warm_up("small")
    assert {c.tier for c in group.chunks} == {"small"}
    assert one.offered.counters["demo"] == before
    assert one.reader.learned.bounds[None].lower_bound(RerankRequest("cat", ["sun"]), {"small": 64}) == {}
    await one.rank(RerankRequest("cat", ["sun"]))
    assert one.reader.learned.bounds[None].lower_bound(RerankRequest("cat", ["sun"]), {"small": 64}) != {}


async def test_requests_of_all_routers_have_names_of_their_own() -> None:
    group = FakeGroup()
    two = {"demo": {"tiers": ["small", "medium", "large"], "replicas": {"min": 2, "max": 2}, "batch_tokens": 2048}}
    for each in (first := service(group, groups=two), first, service(group, groups=two)):
        await each.rank(RerankRequest("cat", many(100, "a dog " * 40), model="small"))
    names = [chunk.request for chunk in group.chunks]
    assert None not in names
    assert len({*names}) == 3, "a request's chunks share its name"


async def test_what_another_router_sent_is_backlog_as_the_replica_reports_it() -> None:
    class Shared(FakeGroup):
        async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
            return replace(await super().score(chunk, entry), backlog_s=0.5)

    one = service(Shared())
    await one.rank(RerankRequest("cat", ["sun"]))
    now = one.clock()
    before = one.fleet.backlog_s("demo", now)
    send(one, 500.0)
    assert (before, one.fleet.backlog_s("demo", now)) == pytest.approx((0.5, 1.0))


async def test_min_quality_holds_when_the_budget_ends_in_the_queue() -> None:
    one = service(Busy(), candidates="ranked", quality={"retriever": 0.25})
    with pytest.raises(Overloaded, match="the budget ended in the queue"):
        await one.rank(RerankRequest("cat", ["a"], slo_ms=50, min_quality=0.26))
    ranking = await one.rank(RerankRequest("cat", ["a"], slo_ms=50, min_quality=0.25))
    assert (ranking.plan.tier, ranking.plan.quality, ranking.pairs) == (None, 0.25, 0)


async def test_candidates_are_left_out_by_whole_documents_as_planned() -> None:
    # 64 tokens a pair: room for 60 of the document. 5 documents of 240 tokens are 5 · 4 passages of 64 tokens, 1,280 in
    # all; small takes a millisecond a token.
    group = FakeGroup()
    one = service(group, long_documents="max_passage", passage_overlap_tokens=0, network_ms=0)
    one.fleet.update_latency({n: LatencyModel(0, ms, 0) for n, ms in (("small", 1), ("medium", 9), ("large", 9))})
    asked = RerankRequest("cat", many(5, "a dog " * 119 + "a"), slo_ms=1000)
    planned = await one.explain(asked)
    assert isinstance(planned, Plan)
    ranking = await one.rank(asked)
    sent = np.concatenate([chunk.pairs.lengths for chunk in group.chunks])
    # Lengths that pairs may be cut to are 256, 128 and 64: none helps here, so the first documents are scored whole.
    assert (planned.stages[0].candidates, planned.predicted_ms) == (3, pytest.approx(3 * 4 * 64))
    assert (len(sent), int(sent.sum())) == (12, 768)
    assert ranking.passages == [4, 4, 4, 0, 0]
    assert (ranking.pairs, [d.index for d in ranking.documents]) == (12, [0, 1, 2, 3, 4])


async def test_the_tokens_of_a_plan_that_cuts_passages_are_those_sent() -> None:
    # A pair takes up to 160 tokens, 156 of the document: 5 documents of 700 tokens are 5 · 5 passages of 144 tokens,
    # 3,600 in all. Cut to 80 tokens they are 2,000 in as many pairs.
    group = FakeGroup()
    config = fleet(long_documents="max_passage", passage_overlap_tokens=0, network_ms=0)
    one = service(group, config, dict.fromkeys(config.tiers, word_tokenizer(160)))
    one.fleet.update_latency({n: LatencyModel(0, ms, 0) for n, ms in (("small", 1), ("medium", 9), ("large", 9))})
    ranking = await one.rank(RerankRequest("cat", many(5, "a dog " * 349 + "a"), slo_ms=2000))
    assert (ranking.plan.degraded, ranking.plan.predicted_ms) == ("80 tokens a pair", pytest.approx(2000))
    sent = np.concatenate([chunk.pairs.lengths for chunk in group.chunks])
    assert (len(sent), set(sent.tolist())) == (25, {80})
    assert (ranking.passages, ranking.truncated) == ([5] * 5, [0, 1, 2, 3, 4])


async def test_a_reply_in_which_nothing_was_scored_is_a_reply() -> None:
    one = service(long_documents="max_passage", network_ms=50)
    one.fleet.update_latency({n: LatencyModel(500, 0, 0) for n in ("small", "medium", "large")})
    ranking = await one.rank(RerankRequest("cat", ["a dog " * 200], slo_ms=20))
    assert (ranking.plan.tier, ranking.passages, ranking.pairs) == (None, [0], 0)


async def test_the_quality_of_a_reply_is_that_of_the_table(tmp_path: Path) -> None:
    class Downgrading(FakeGroup):
        async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
            return replace(await super().score(chunk, entry), tier="small")

    table = tmp_path / "table.json"
    table.write_text(json.dumps({"data_sets": {"mine": {"retriever": 0.1, "tiers": {"small": 0.33, "large": 0.55}}}}))
    one = service(Downgrading(), quality={"table": str(table)})
    one.fleet.update_latency({n: LatencyModel(10, 0, 0) for n in ("small", "medium", "large")})
    ranking = await one.rank(RerankRequest("cat", ["a"], slo_ms=1000))
    assert (ranking.plan.tier, ranking.plan.quality) == ("small", 0.33)


class Sleeping(FakeGroup):
    """No replica runs until somebody asks for one."""

    def __init__(self) -> None:
        super().__init__()
        self.started = asyncio.Event()

    async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
        self.chunks.append(chunk)
        await self.started.wait()
        return await super().score(chunk, entry)


@on_virtual_time
async def test_a_fleet_that_is_asleep_says_so_and_is_woken() -> None:
    group = Sleeping()
    kept = {"demo": {"tiers": ["small", "medium", "large"], "replicas": {"min": 0, "max": 1}}}
    one = service(group, groups=kept, slo_classes={"fast": {"slo_ms": 50, "when_none_fits": "refuse"}})
    one.fleet.ledgers["demo"].update(frozenset())
    for measured in (False, True):
        if measured:
            one.fleet.update_latency({n: LatencyModel(10, 0, 0) for n in ("small", "medium", "large")})
        ranking = await one.rank(RerankRequest("cat", ["a"], slo_ms=200))
        fleet_reply = ranking_json(ranking, None)["rankfleet"]
        assert (fleet_reply["tier"], fleet_reply["slo"]["degraded"]) == ("none", True)
        assert "no replica runs; one is being started, and 200 ms are not enough to wait" in fleet_reply["reason"]
        with pytest.raises(Overloaded, match="no replica runs; one is being started") as fault:
            await one.rank(RerankRequest("cat", ["a"], model="fast"))
        assert fault.value.retry_after_s == 20.0
        await asyncio.sleep(0)
        assert len(group.chunks) == 1, "asked for once, not by every request"
    # Where there is time for it, the answer waits for the replica.
    free = asyncio.create_task(one.rank(RerankRequest("cat", ["a"], slo_ms=30_000)))
    await asyncio.sleep(0)
    group.started.set()
    one.fleet.ledgers["demo"].update(frozenset({"r1"}))
    reply = ranking_json(await free, None)["rankfleet"]
    assert (reply["tier"], reply["predicted_ms"]) == ("large", 20_013.0)
    assert reply["reason"] == "large ranks best; no replica runs; one is being started, and the answer waits for it"


async def test_before_a_tier_is_measured_nothing_is_predicted() -> None:
    reply = ranking_json(await service().rank(RerankRequest("cat", ["a"], slo_ms=200)), None)["rankfleet"]
    assert (reply["tier"], reply["predicted_ms"]) == ("large", None)
    assert reply["reason"] == "large ranks best; how long it takes has not been measured yet"


async def test_budgets_of_infeasible_requests_are_not_counted() -> None:
    one = service(slo_classes={"strict": {"slo_ms": 1, "when_none_fits": "refuse"}})
    one.fleet.update_latency({n: LatencyModel(10, 0, 0) for n in ("small", "medium", "large")})
    for _ in range(5):
        with pytest.raises(Infeasible):
            await one.rank(RerankRequest("cat", ["a"], model="strict"))
        assert (await one.rank(RerankRequest("cat", ["a"], slo_ms=1))).plan.tier is None
    await one.rank(RerankRequest("cat", ["a"], slo_ms=200))
    assert one.fleet.snapshot(one.clock()).groups["demo"].arrivals.typical_budget_ms == 200.0


async def test_explain_refuses_as_rank_does() -> None:
    one = service(slo_classes={"fast": {"slo_ms": 50, "when_none_fits": "refuse"}})
    one.fleet.update_latency({tier: LatencyModel(0, 1.0, 0) for tier in ("small", "medium", "large")})
    await one.rank(RerankRequest("cat", many(2, "a dog is an"), model="fast"))
    send(one, 1.0)  # something is under way
    one.reader.read = None  # type: ignore[assignment, method-assign]
    decision = await one.explain(RerankRequest("cat", many(20, "a dog is an"), model="fast"))
    assert isinstance(decision, Refusal)


async def test_a_tier_gets_no_pairs_that_were_laid_out_for_another_before_all_are_measured() -> None:
    config, group = fleet(), FakeGroup()
    tokenizers = dict.fromkeys(config.tiers, word_tokenizer(64)) | {"small": word_tokenizer(8)}
    one = service(group, config, tokenizers)
    one.fleet.update_latency({"small": LatencyModel(5, 0, 0)})
    ranking = await one.rank(RerankRequest("cat", ["a dog is an animal"]))
    # The pair has 9 tokens, one more than `small` takes.
    assert [(chunk.tiers, chunk.pairs.tokens) for chunk in group.chunks] == [(("large",), 9)]
    assert ranking.plan.tier == "large"


LONG = ["a dog is an " * 500] * 3  # more characters than are read without a thread
NO_TIME_TO_READ = "the budget ended while the texts were read"


def slow_to_read(one: RankingService, seconds: float) -> RankingService:
    """This service, which takes so long until it has read a text."""
    read = one.reader.read

    async def slowly(request: RerankRequest, tiers: tuple[str, ...]) -> TokenizedTexts:
        await asyncio.sleep(seconds)
        return await read(request, tiers)

    one.reader.read = slowly  # type: ignore[method-assign]
    return one


def at_loop_time() -> float:
    return asyncio.get_running_loop().time()


@on_virtual_time
async def test_the_budget_ends_the_reading_of_texts() -> None:
    group = FakeGroup()
    one = slow_to_read(service(group, clock=at_loop_time), 30)
    request = RerankRequest("cat", LONG, slo_ms=2000)
    ranking = await one.rank(request)
    assert (at_loop_time(), group.chunks) == (2, [])
    assert [document.index for document in ranking.documents] == [0, 1, 2]
    assert (ranking.plan.tier, ranking.plan.degraded) == (None, "the order as given")
    assert ranking.plan.reason == f"{NO_TIME_TO_READ}: the order as given instead"
    assert ranking.timing.total_ms == ranking.timing.ms["tokenize"] == 2000


@on_virtual_time
async def test_a_class_that_refuses_and_a_floor_of_quality_refuse_when_the_budget_ends_the_reading() -> None:
    one = slow_to_read(service(clock=at_loop_time, slo_classes={"strict": {"when_none_fits": "refuse"}}), 30)
    for number, more in enumerate(({"slo_class": "strict"}, {"slo_class": "strict", "model": "large"}), 1):
        request = RerankRequest("cat", LONG, slo_ms=2000, **more)  # type: ignore[arg-type]
        with pytest.raises(Overloaded, match=f"{NO_TIME_TO_READ}; retry later or allow more time"):
            await one.rank(request)
        assert at_loop_time() == 2 * number
    with pytest.raises(Overloaded, match=NO_TIME_TO_READ):
        await one.rank(RerankRequest("cat", LONG, slo_ms=2000, min_quality=0.2))


@on_virtual_time
async def test_a_tier_by_name_or_no_budget_reads_texts_to_their_end() -> None:
    one = slow_to_read(service(clock=at_loop_time), 30)
    for more in ({"model": "large", "slo_ms": 2000}, {}):
        before_s = at_loop_time()
        ranking = await one.rank(RerankRequest("cat", LONG, **more))  # type: ignore[arg-type]
        assert (at_loop_time() - before_s, ranking.plan.tier) == (30, "large")


@on_virtual_time
async def test_short_texts_are_planned_though_the_budget_is_over() -> None:
    one = service(clock=at_loop_time)
    one.fleet.update_latency({tier: LatencyModel(5.0, 1.0, 0.0) for tier in ("small", "medium", "large")})
    ranking = await one.rank(RerankRequest("cat", ["a dog"], slo_ms=1e-6))
    assert ranking.plan.considered
    assert "no tier fits 0 ms" in ranking.plan.reason
