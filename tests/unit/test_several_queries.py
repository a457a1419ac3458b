"""Several queries in one request, and documents that occur twice in it: planned as one, and scored once."""

import json
from pathlib import Path

import numpy as np
import pytest

from rankfleet.core.decisions import Plan, Stage
from rankfleet.core.errors import InvalidRequest, Overloaded, TooLarge
from rankfleet.core.messages import Ranking, RerankRequest
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.core.passages import PassageRule
from rankfleet.core.query_lists import QueryLists
from rankfleet.core.text_options import TextOptions
from rankfleet.core.work import Work
from rankfleet.engine.text.pair_template import PairTemplate
from rankfleet.estimates.fusion import Fusion
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.lengths import Lengths
from rankfleet.router.cascade import ranked_lists, second_stage
from rankfleet.router.replica_record import Entry
from rankfleet.router.texts import with_copies
from rankfleet.router.token_bound import TokenLowerBound
from tests.unit import fakes
from tests.unit.fakes import FakeGroup, fleet, service
from tests.unit.test_stages import TwoMinds

# FakeGroup scores a pair by its tokens: [CLS] query [SEP] document [SEP].
DOG, DOG_IS, ANIMAL = "a dog", "a dog is", "a dog is an animal"  # with a query of one word 6, 7 and 9 tokens


def places(ranking: Ranking) -> list[int]:
    return [document.index for document in ranking.documents]


def sent(group: FakeGroup) -> list[list[int]]:
    """The lengths of the pairs of each chunk."""
    return [chunk.pairs.lengths.tolist() for chunk in group.chunks]


# Duplicates


@pytest.mark.parametrize("token_cache_mb", [64, 0])
async def test_a_document_that_occurs_twice_is_scored_once_and_ranked_at_each_of_its_places(
    token_cache_mb: float,
) -> None:
    group = FakeGroup()
    one = service(group, token_cache_mb=token_cache_mb)
    request = RerankRequest("cat", [DOG, ANIMAL, DOG, "x", ANIMAL])
    for _ in range(2):  # the second time all token ids come from the cache, if there is one
        ranking = await one.rank(request)
        assert [(d.index, d.logit, d.score) for d in ranking.documents] == [
            (1, 9.0, 9.0),
            (4, 9.0, 9.0),
            (0, 6.0, 6.0),
            (2, 6.0, 6.0),
            (3, 5.0, 5.0),
        ]
        assert (ranking.pairs, ranking.tokens, len(ranking.texts)) == (3, 6 + 9 + 5, 5)
        assert ranking.stages == (Stage.of("large", 5),)
    assert sent(group) == [[6, 9, 5]] * 2


async def test_what_is_planned_is_the_work_of_each_document_once() -> None:
    one = service()
    one.fleet.update_latency({tier: LatencyModel(0, 1.0, 0) for tier in ("small", "medium", "large")})
    plan = await one.explain(RerankRequest("cat", [ANIMAL] * 50, slo_ms=100))
    assert isinstance(plan, Plan)
    assert (plan.tier, plan.predicted_ms) == ("large", 9.0 + 3.0)  # 3 ms beside the engine
    assert plan.stages == (Stage("large", 50, ("small", "medium", "large")),)


async def test_the_same_text_is_one_document_however_it_is_written_down() -> None:
    group = FakeGroup()
    async with fakes.http_client(service(group)) as http:
        body = {"query": "cat", "documents": [{"text": DOG, "id": 1}, DOG, {"text": DOG, "id": 2}]}
        reply = (await http.post("/v1/rerank", json=body | {"return_documents": True})).json()
    assert [row["document"] for row in reply["results"]] == [
        {"text": DOG, "id": 1},
        {"text": DOG},
        {"text": DOG, "id": 2},
    ]
    assert sent(group) == [[6]]


async def test_fusion_counts_the_place_of_each_occurrence(tmp_path: Path) -> None:
    # Evidence of three places: −ln 1, −ln 2 and −ln 3 less their mean, −0.597: 0.597, −0.096 and −0.501.
    table = tmp_path / "table.json"
    table.write_text(json.dumps({"data_sets": {"mine": {"fused": {"weights": {"large": 10.0}}}}}))
    one = service(FakeGroup(), fleet(candidates="ranked", quality={"table": str(table)}))
    ranking = await one.rank(RerankRequest("cat", [DOG, ANIMAL, DOG]))
    assert [(d.index, d.logit, d.score) for d in ranking.documents] == [
        (0, 6.0, pytest.approx(6 + 5.972532)),
        (1, 9.0, pytest.approx(9 - 0.958940)),
        (2, 6.0, pytest.approx(6 - 5.013591)),
    ]
    scored = await one.rank(RerankRequest("cat", [DOG, ANIMAL, DOG], scores=[1.0, 2.0, 3.0]))
    assert places(scored) == [2, 1, 0], "the same text with the higher score of the retriever is first"


async def test_passages_and_what_is_cut_are_told_for_each_occurrence() -> None:
    long = "a dog " * 60  # 120 tokens; a pair of 64 has room for 60
    group = FakeGroup()
    one = service(group, passage_overlap_tokens=0)
    ranking = await one.rank(RerankRequest("cat", [long, DOG, long], long_documents="max_passage"))
    assert (ranking.passages, sent(group)) == ([2, 1, 2], [[64, 64, 6]])
    ranking = await one.rank(RerankRequest("cat", [long, DOG, long], long_documents="truncate"))
    assert (ranking.truncated, ranking.pairs) == ([0, 2], 2)


async def test_where_only_the_first_candidates_are_scored_copies_behind_them_have_their_score() -> None:
    # small takes 1 ms a token; of pairs of 64, 64 and 6 tokens the first fits 100 ms less 3 beside the engine.
    group = FakeGroup()
    one = service(group)
    one.fleet.update_latency({n: LatencyModel(0, ms, 0) for n, ms in (("small", 1), ("medium", 9), ("large", 9))})
    first, other = "a dog " * 30, "a cat " * 30
    ranking = await one.rank(RerankRequest("cat", [first, other, "a cat " * 29, first], slo_ms=80))
    assert ranking.stages == (Stage.of("small", 1),)
    assert [(d.index, d.logit) for d in ranking.documents] == [(0, 64.0), (3, 64.0), (1, None), (2, None)]
    assert sent(group) == [[64]]


async def test_a_second_stage_scores_a_document_once_and_all_its_places_have_that_score(tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    table.write_text(json.dumps({"data_sets": {"mine": {"retriever": 0.2, "cascades": {"small>large": {"2": 0.45}}}}}))
    group = TwoMinds()
    one = service(group, fleet(quality={"table": str(table)}, network_ms=3))
    times = {"small": (10.0, 0.0), "medium": (900.0, 0.0), "large": (1.0, 12.5)}
    one.fleet.update_latency({tier: LatencyModel(a, b, 0) for tier, (a, b) in times.items()})
    ranking = await one.rank(RerankRequest("cat", [DOG_IS, DOG, ANIMAL, ANIMAL, "x", ANIMAL, DOG, "a"], slo_ms=300))
    # Best by small are the three places of the longest; two of them are the best two. large scores it as 91.
    assert sent(group) == [[7, 6, 9, 5, 5], [9]]
    assert ranking.stages == (Stage.of("small", 8), Stage.of("large", 2))
    assert places(ranking) == [2, 3, 5, 0, 1, 6, 4, 7]
    assert [d.logit for d in ranking.documents][:4] == [91.0, 91.0, 91.0, 7.0]


def test_places_of_the_same_documents_are_behind_those_that_were_asked_for() -> None:
    documents = np.array([0, 1, 0, 2, 1, 0])
    assert with_copies(np.array([4, 3]), documents).tolist() == [4, 3, 1]
    assert with_copies(np.array([4, 3]), None).tolist() == [4, 3]


def test_the_lower_bound_counts_a_document_once_and_learns_nothing_from_duplicates() -> None:
    bound, limits = TokenLowerBound(), {"small": 64}
    twice = RerankRequest("ab", ["a" * 8, "a" * 8])
    bound.learn(twice, {"small": Lengths(np.array([5]), ranks=np.array([0]), candidates=2)}, limits)
    assert bound.lower_bound(twice, limits) == {}
    bound.learn(RerankRequest("ab", ["a" * 8]), {"small": Lengths(np.array([10]))}, limits)  # a token a character
    assert bound.lower_bound(twice, limits) == {"small": Work(1, 9, 81)}  # 0.9 · 10
    several = RerankRequest("ab", ["a" * 8, "b" * 8, "b" * 8], queries=("ab", "a" * 12), counts=(2, 1))
    assert bound.lower_bound(several, limits) == {"small": Work(3, 9 + 9 + 18, 81 + 81 + 324)}


# Several queries


def test_lists_tell_whose_a_candidate_is() -> None:
    lists = QueryLists((2, 3))
    assert lists.slices == [slice(0, 2), slice(2, 5)]
    assert (lists.queries.tolist(), lists.ranks.tolist(), lists.longest) == ([0, 0, 1, 1, 1], [0, 1, 0, 1, 2], 3)
    assert lists.best_first(np.array([1.0, 5.0, 2.0, 4.0, 4.0])).tolist() == [1, 0, 3, 4, 2]


async def test_queries_share_documents_and_each_has_its_ranking() -> None:
    group = FakeGroup(lambda ids: float(np.isin(ids, ids[1:2]).sum()))  # how often the query's word is in the pair
    ranking = await service(group).rank(RerankRequest("cat", ["a cat", "a dog", "dog dog"], queries=("cat", "dog")))
    # Places 0 to 2 are cat's documents, and 3 to 5 dog's.
    assert [(d.index, d.logit) for d in ranking.documents] == [(0, 2), (1, 1), (2, 1), (5, 3), (4, 2), (3, 1)]
    assert (ranking.counts, ranking.texts[3:]) == ((3, 3), ["a cat", "a dog", "dog dog"])
    assert [len(chunk.pairs) for chunk in group.chunks] == [6], "one chunk has pairs of both queries"
    assert group.chunks[0].pairs.ids[:12].tolist() == [1, 4, 2, 3, 4, 2, 1, 4, 2, 3, 5, 2]
    assert group.chunks[0].pairs.ids[18:24].tolist() == [1, 5, 2, 3, 4, 2]


async def test_each_query_may_have_documents_of_its_own_and_top_n_holds_for_each() -> None:
    request = RerankRequest(
        "cat", [DOG, ANIMAL, "x", DOG_IS, ANIMAL], queries=("cat", "a bird"), counts=(2, 3), top_n=2
    )
    group = FakeGroup()
    ranking = await service(group).rank(request)
    assert sent(group) == [[6, 9, 6, 8, 10]]
    assert places(ranking) == [1, 0, 4, 3]
    assert (ranking.pairs, ranking.tokens) == (5, 39)


async def test_the_same_pair_of_two_queries_is_scored_once() -> None:
    group = FakeGroup()
    request = RerankRequest("cat", [DOG, ANIMAL, DOG], queries=("cat", "cat", "bird"), counts=(1, 1, 1))
    ranking = await service(group).rank(request)
    assert sent(group) == [[6, 9, 6]]
    request = RerankRequest("cat", [DOG, DOG, DOG], queries=("cat", "cat", "bird"), counts=(1, 1, 1))
    ranking = await service(group).rank(request)
    assert sent(group)[1:] == [[6, 6]]
    assert [(d.index, d.logit) for d in ranking.documents] == [(0, 6), (1, 6), (2, 6)]


async def test_all_queries_are_one_budget_and_one_plan() -> None:
    one = service()
    one.fleet.update_latency({n: LatencyModel(0, ms, 0) for n, ms in (("small", 1), ("medium", 2), ("large", 4))})
    alone, three = (
        RerankRequest("cat", [ANIMAL], slo_ms=60),
        RerankRequest("cat", [ANIMAL], slo_ms=60, queries=("cat", "a", "x")),
    )
    assert (await one.rank(alone)).plan.predicted_ms == 4 * 9 + 3
    ranking = await one.rank(three)
    assert (ranking.plan.tier, ranking.plan.predicted_ms) == ("medium", 2 * 27 + 3)
    assert [stage.candidates for stage in ranking.stages] == [1], "of each query"


async def test_all_queries_are_refused_together() -> None:
    group = FakeGroup()
    one = service(group, slo_classes={"fast": {"slo_ms": 50, "when_none_fits": "refuse"}}, default_slo_class="fast")
    one.fleet.update_latency({tier: LatencyModel(0, 1, 0) for tier in ("small", "medium", "large")})
    assert (await one.rank(RerankRequest("cat", [ANIMAL], queries=("cat", "a", "x", "y", "z")))).plan.fits  # 45 + 3 ms
    now_s = one.clock()
    one.fleet.ledgers["demo"].open(Entry(5.0, now_s + 0.01, now_s), now_s)  # a chunk of 5 ms, due before
    with pytest.raises(Overloaded):
        await one.rank(RerankRequest("cat", [ANIMAL], queries=("cat", "a", "x", "y", "z")))
    assert len(group.chunks) == 1


async def test_limits_hold_for_all_queries_together() -> None:
    one = service(limits={"max_documents": 5, "max_query_bytes": 3, "max_document_bytes": 8})
    for request, error, message in (
        (
            RerankRequest("a", ["x"] * 2, queries=("a", "b", "c")),
            TooLarge,
            "6 documents for 3 queries together are more",
        ),
        (RerankRequest("a", ["x"], queries=("a", "bird")), TooLarge, "query is longer"),
        (RerankRequest("a", ["x"], queries=("a", " ")), InvalidRequest, "query is empty"),
        (RerankRequest("a", ["x"], queries=("a", "b"), counts=(1, 0)), InvalidRequest, "documents is empty"),
        (
            RerankRequest("a", ["x", "y", "x" * 9], queries=("a", "b"), counts=(1, 2)),
            TooLarge,
            "documents.1.1 is longer",
        ),
        (RerankRequest("a", ["x", "x" * 9], queries=("a", "b")), TooLarge, "documents.1 is longer"),
    ):
        with pytest.raises(error, match=message):
            await one.rank(request)


async def test_scores_order_the_documents_of_each_query() -> None:
    one = service(FakeGroup(lambda ids: 0.0))
    request = RerankRequest(
        "a", ["x", "y", "cat", "dog"], queries=("a", "b"), counts=(2, 2), scores=[1.0, 2.0, 4.0, 3.0]
    )
    ranking = await one.rank(request)
    assert (places(ranking), ranking.fused.by) == ([1, 0, 2, 3], "scores")  # type: ignore[union-attr]


def test_evidence_is_of_each_querys_candidates() -> None:
    fusion = Fusion.of_lists(QueryLists((2, 1)), None, {})
    assert fusion.evidence.tolist() == pytest.approx([0.34657359, -0.34657359, 0.0])
    assert Fusion.of_lists(QueryLists((2, 2)), [3.0, 1.0, 9.0, 9.0], {}).evidence.tolist() == pytest.approx(
        [1.0, -1.0, 0.0, 0.0]
    )


def test_the_best_of_each_query_are_scored_again_as_far_down_as_there_is_time() -> None:
    lists, logits = QueryLists((3, 2)), np.array([1.0, 3.0, 2.0, 8.0, 9.0])
    lengths, model = np.array([40, 10, 20, 30, 10]), LatencyModel(5.0, 1.0, 0.0)

    def kept(candidates: int, left_ms: float, documents: np.ndarray | None = None) -> list[int]:
        stage = Stage.of("large", candidates)
        return second_stage(stage, logits, lengths, model, left_ms, lists=lists, documents=documents).tolist()

    assert kept(2, 1000.0) == [1, 2, 4, 3]
    assert kept(2, 74.0) == [1, 4], "5 ms and 70 tokens are too long; one of each are 5 and 20"
    assert kept(2, 24.0) == []
    assert kept(3, 1000.0) == [1, 2, 0, 4, 3]
    assert kept(2, 74.0, np.array([0, 1, 1, 1, 1])) == [1, 2, 4, 3], "all are one document of 10 tokens"


def test_both_stages_are_ranked_query_by_query() -> None:
    lists, first = QueryLists((3, 2)), np.array([1.0, 3.0, 2.0, 8.0, 9.0])
    order, scores = ranked_lists(lists, first, np.array([1, 2, 4]), np.array([-1.0, 0.0, 5.0]), retrieved=False)
    assert order.tolist() == [2, 1, 0, 4, 3]
    assert scores.tolist() == [-1.0 - 2**-18, -1.0, 0.0, 5.0 - 2**-18, 5.0]


async def test_a_cascade_scores_the_best_of_each_query_again(tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    table.write_text(json.dumps({"data_sets": {"mine": {"retriever": 0.2, "cascades": {"small>large": {"1": 0.45}}}}}))
    group = TwoMinds()
    one = service(group, fleet(quality={"table": str(table)}, network_ms=3))
    times = {"small": (10.0, 0.0), "medium": (900.0, 0.0), "large": (1.0, 12.5)}
    one.fleet.update_latency({tier: LatencyModel(a, b, 0) for tier, (a, b) in times.items()})
    documents = [DOG, ANIMAL, "a", DOG_IS, "x", "x y"]
    ranking = await one.rank(RerankRequest("cat", documents, queries=("cat", "a dog"), counts=(4, 2), slo_ms=300))
    assert sent(group) == [[6, 9, 5, 7, 6, 7], [9, 7]]
    assert places(ranking) == [1, 3, 0, 2, 5, 4]
    assert ranking.stages == (Stage.of("small", 4), Stage.of("large", 1))


def test_work_of_the_first_candidates_is_that_of_each_query() -> None:
    # Two queries with 3 and 2 candidates; the second and third of the first one are the same.
    lengths = Lengths(np.array([10, 20, 30, 40]), ranks=np.array([0, 1, 0, 1]), candidates=3)
    assert lengths.first(1) == Work(2, 40, 100 + 900)
    assert lengths.first(2) == lengths.first(3) == Work(4, 100, 100 + 400 + 900 + 1600)
    assert (lengths.share(1), lengths.share(3), lengths.candidates) == (0.5, 1.0, 3)
    copies_first = Lengths(np.array([10, 20, 30, 40]), ranks=np.array([0, 8, 9, 0]), candidates=10)
    assert copies_first.first(2) == Work(2, 50, 100 + 1600)
    assert copies_first.share(2) == 0.75, "the best two of the first query may be any two of its three documents"
    split = Lengths(np.array([10, 11, 20]), firsts=np.array([0, 2]), ranks=np.array([1, 0]), candidates=2)
    assert (split.first(1), split.first(2).pairs) == (Work(1, 20, 400), 3)


# What is asked for the texts


async def test_each_query_and_document_keeps_as_many_tokens_as_is_allowed_wherever_it_occurs() -> None:
    group = FakeGroup()
    request = RerankRequest(
        "cat",
        [ANIMAL, DOG, ANIMAL],
        queries=("cat", "a fast cat"),
        counts=(2, 1),
        options=TextOptions(query_tokens=2, document_tokens=3),
    )
    ranking = await service(group).rank(request)
    # [CLS] cat [SEP] a dog is [SEP], [CLS] cat [SEP] a dog [SEP], [CLS] a fast [SEP] a dog is [SEP]
    assert sent(group) == [[7, 6, 8]]
    assert ranking.truncated == [0, 2]


async def test_a_request_that_may_not_be_cut_names_the_query_and_the_document() -> None:
    long = "a dog " * 60  # 120 tokens; a pair of 64 has room for 60
    options = TextOptions(may_cut=False)
    request = RerankRequest("cat", [DOG, long, DOG, long], queries=("cat", "x"), counts=(1, 3), options=options)
    with pytest.raises(TooLarge, match=r"document 1\.0, 1\.2;"):
        await service().rank(request)
    with pytest.raises(TooLarge, match=r"document 0, 2;"):
        await service().rank(RerankRequest("cat", [long, DOG, long], options=options))


async def test_a_threshold_holds_for_the_results_of_each_query() -> None:
    async with fakes.http_client(service(FakeGroup(lambda ids: len(ids) - 7.0))) as http:
        body = {"queries": ["cat", "x"], "documents": [DOG, DOG_IS, ANIMAL], "score_threshold": 0.5}
        reply = (await http.post("/v1/rerank", json=body)).json()
    assert [[row["index"] for row in rows] for rows in reply["results"]] == [[2, 1], [2, 1]]


@pytest.mark.parametrize("truncated_end", [None, [9, 2]])
@pytest.mark.parametrize("passages", [None, PassageRule(1, 16)])
def test_pairs_of_several_queries_are_those_of_each_alone(
    truncated_end: list[int] | None, passages: PassageRule | None
) -> None:
    tokenizer = fakes.word_tokenizer(12)
    tokenizer.template = PairTemplate([1], [2], [2], truncated_end=truncated_end)  # room for 9 tokens of text
    queries = [np.arange(10, 12), np.arange(20, 29), np.arange(10, 12), np.arange(30, 31)]
    documents = [np.arange(40, 60), np.arange(60, 75), np.arange(80, 84), np.arange(0)]
    together = tokenizer.build_pairs(queries, documents, tokenizer.layout(queries, documents, None, passages))
    alone = [
        tokenizer.build_pairs(query, [document], tokenizer.layout(query, [document], None, passages))
        for query, document in zip(queries, documents, strict=True)
    ]
    joined = TokenizedPairs.join(alone)
    for name in ("ids", "lengths", "document_offsets"):
        assert getattr(together, name).tolist() == getattr(joined, name).tolist()


async def test_documents_that_every_query_would_return_are_bounded_as_a_body_is() -> None:
    async with fakes.http_client(service(limits={"max_body_bytes": 2000})) as http:
        body = {"queries": [str(i) for i in range(20)], "documents": [{"text": DOG, "blob": "b" * 100}]}
        assert (await http.post("/v1/rerank", json=body)).status_code == 200
        reply = await http.post("/v1/rerank", json=body | {"return_documents": True})
        assert (reply.status_code, reply.json()["error"]["code"]) == (413, "too_large")
        assert "20 queries would each return the documents" in reply.json()["error"]["message"]
        own = {"queries": ["a", "b"], "documents": [["x"], ["y"]], "return_documents": True}
        assert (await http.post("/v1/rerank", json=own)).status_code == 200


def test_a_lower_bound_counts_a_query_that_occurs_twice_once() -> None:
    bound = TokenLowerBound()
    bound.learn(RerankRequest("ab", ["a" * 8]), {"small": Lengths(np.array([20]))}, {"small": 64})  # 2 a character
    twice = RerankRequest("ab", ["a" * 8, "a" * 8], queries=("ab", "ab"), counts=(1, 1))
    assert bound.lower_bound(twice, {"small": 64}) == {"small": Work(1, 18, 18 * 18)}
