"""Rankings of candidates that come in a retriever's order, through the service and the API."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rankfleet.api.dialects.native_replies import ranking_json
from rankfleet.core.decisions import Stage
from rankfleet.core.messages import Chunk, ChunkScores, FusedBy, Ranking, RerankRequest
from rankfleet.estimates.latency import LatencyModel
from rankfleet.retrieval.bm25 import Hit
from rankfleet.router.replica_record import Entry
from rankfleet.router.service import RankingService
from tests.unit import fakes
from tests.unit.fakes import FakeGroup, fleet, http_client, word_tokenizer
from tests.unit.openapi import check_documented, openapi_page

DOCUMENTS = ["a", "a dog", "a dog is an animal"]  # the fake scores their pairs by their tokens: 5, 6 and 9


def service(
    folder: Path, weights: object, group: FakeGroup | None = None, cascades: object = None, **changes: Any
) -> RankingService:
    """A router over a fleet whose tiers have these weights; candidates are ranked unless `changes` say otherwise."""
    table = folder / "table.json"
    both = {"cascades": cascades or {}}
    table.write_text(json.dumps({"data_sets": {"mine": both | {"fused": both | {"weights": weights}}}}))
    return fakes.service(group, fleet(**{"candidates": "ranked", "quality": {"table": str(table)}} | changes))


def found(ranking: Ranking) -> list[tuple[int, float | None, Any]]:
    """(index, logit, score) of the results, best first."""
    return [
        (each.index, each.logit, each.score if each.score is None else pytest.approx(each.score, abs=1e-5))
        for each in ranking.documents
    ]


@pytest.fixture
def one(tmp_path: Path) -> RankingService:
    return service(tmp_path, {"large": 10.0})


async def test_the_order_of_the_candidates_counts_beside_the_logits(one: RankingService) -> None:
    ranking = await one.rank(RerankRequest("cat", DOCUMENTS))
    assert found(ranking) == [(0, 5.0, 10.972532), (1, 6.0, 5.041060), (2, 9.0, 3.986409)]
    assert ranking.fused == FusedBy("order", 10.0)
    body = ranking_json(ranking, None)
    assert body["rankfleet"]["fusion"] == {"by": "order", "weight": 10.0}
    assert [result["logit"] for result in body["results"]] == [5.0, 6.0, 9.0]
    # 1 ÷ (1 + e^−3.986409), where e^−3.986409 is 0.0185663.
    assert body["results"][2]["relevance_score"] == pytest.approx(0.9817721, abs=1e-6)


async def test_candidates_that_are_unordered_are_ranked_by_logits_alone(one: RankingService) -> None:
    ranking = await one.rank(RerankRequest("cat", DOCUMENTS, candidates="unordered"))
    assert found(ranking) == [(2, 9.0, 9.0), (1, 6.0, 6.0), (0, 5.0, 5.0)]
    assert ranking.fused is None
    assert "fusion" not in ranking_json(ranking, None)["rankfleet"]


async def test_a_request_or_its_scores_say_ranked_where_the_fleet_does_not(tmp_path: Path) -> None:
    one = service(tmp_path, {"large": 10.0}, candidates="unordered")
    assert (await one.rank(RerankRequest("cat", DOCUMENTS))).fused is None
    assert (await one.rank(RerankRequest("cat", DOCUMENTS, candidates="ranked"))).fused == FusedBy("order", 10.0)
    for candidates in (None, "ranked"):
        ranking = await one.rank(RerankRequest("cat", DOCUMENTS, candidates=candidates, scores=[3.0, 2.0, 1.0]))
        assert ranking.fused == FusedBy("scores", 10.0)


async def test_a_tier_without_a_weight_says_so(tmp_path: Path) -> None:
    ranking = await service(tmp_path, {"small": 10.0}).rank(RerankRequest("cat", DOCUMENTS))
    assert [each.index for each in ranking.documents] == [2, 1, 0]
    assert ranking.fused == FusedBy("order", 0.0)


async def test_scores_put_the_documents_into_their_order_and_results_name_the_places_sent(one: RankingService) -> None:
    sent = [DOCUMENTS[2], DOCUMENTS[0], DOCUMENTS[1]]
    ranking = await one.rank(RerankRequest("cat", sent, scores=[1.0, 3.0, 2.0]))
    # The retriever has a, a dog, a dog is an animal: 5 + 10 · 1.2247449, 6 and 9 − 10 · 1.2247449.
    assert found(ranking) == [(1, 5.0, 17.247449), (2, 6.0, 6.0), (0, 9.0, -3.247449)]
    assert (ranking.texts, ranking.fused) == (sent, FusedBy("scores", 10.0))
    best = await one.rank(RerankRequest("cat", sent, scores=[1.0, 3.0, 2.0], top_n=1))
    assert found(best) == found(ranking)[:1]
    equal = await one.rank(RerankRequest("cat", sent, scores=[7.0] * 3))
    assert [each.index for each in equal.documents] == [0, 2, 1], "by logits alone"


async def test_what_is_said_of_documents_names_the_places_sent(one: RankingService) -> None:
    long, longer = "a dog " * 62, "a dog " * 92
    asked = RerankRequest("cat", ["a", longer, "sun", long], scores=[1.0, 2.0, 3.0, 4.0])
    cut = await one.rank(asked)
    assert cut.truncated == [1, 3]
    split = await one.rank(replace(asked, long_documents="max_passage"))
    # 60 tokens of a document beside the query, 30 of them shared: (124 − 30) ÷ 30 and (184 − 30) ÷ 30 passages.
    assert (split.passages, split.truncated) == ([1, 6, 1, 4], [])


async def test_the_first_candidates_are_the_first_by_score(tmp_path: Path) -> None:
    group = FakeGroup()
    one = service(tmp_path, {}, group)
    # 15 ms less 3 to the client are two pairs of 5 tokens at 1 ms each.
    one.fleet.update_latency({n: LatencyModel(0, ms, 0) for n, ms in (("small", 1), ("medium", 4), ("large", 16))})
    asked = RerankRequest("cat", ["a", "dog", "sun", "x"], slo_ms=15, scores=[0.5, 1.5, 2.5, 3.5])
    ranking = await one.rank(asked)
    assert [(d.index, d.logit) for d in ranking.documents] == [(3, 5.0), (2, 5.0), (1, None), (0, None)]
    assert [(d.index) for d in (await one.rank(replace(asked, top_n=3))).documents] == [3, 2, 1]


async def test_the_order_given_is_that_of_the_scores(tmp_path: Path) -> None:
    one = service(tmp_path, {})
    one.fleet.update_latency(dict.fromkeys(("small", "medium", "large"), LatencyModel(500, 0, 0)))
    ranking = await one.rank(RerankRequest("cat", ["a", "dog", "sun"], slo_ms=15, scores=[2.0, 1.0, 3.0]))
    assert (ranking.plan.tier, ranking.fused) == (None, None)
    assert found(ranking) == [(2, None, None), (0, None, None), (1, None, None)]


async def test_the_weight_is_that_of_the_tier_that_answered(tmp_path: Path) -> None:
    class Downgrading(FakeGroup):
        async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
            return replace(await super().score(chunk, entry), tier="small")

    one = service(tmp_path, {"small": 10.0, "large": 0.1}, Downgrading())
    one.fleet.update_latency(dict.fromkeys(("small", "medium", "large"), LatencyModel(10, 0, 0)))
    ranking = await one.rank(RerankRequest("cat", DOCUMENTS, slo_ms=1000))
    assert (ranking.plan.tier, ranking.fused) == ("small", FusedBy("order", 10.0))
    assert found(ranking) == [(0, 5.0, 10.972532), (1, 6.0, 5.041060), (2, 9.0, 3.986409)]


WORDS = ["cat", "dog", "bird", "is"]
PLACES = {int(word_tokenizer().encode([word])[0][0]): i for i, word in enumerate(WORDS)}
LOGITS = {"small": [0.0, 1.0, 2.0, 3.0], "large": [0.0, 1.0, 0.5, 0.25]}


class Words(FakeGroup):
    """Scores each word by LOGITS of the tier."""

    async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
        self.chunks.append(chunk)
        words = [PLACES[int(i)] for i in chunk.pairs.ids[np.cumsum(chunk.pairs.lengths) - 2]]
        logits = np.array([LOGITS[chunk.tier][word] for word in words], np.float32)
        return ChunkScores(logits, 1.0, 2.0, "r1", 0.0, chunk.tier)


def cascade(folder: Path, weights: object, group: FakeGroup) -> RankingService:
    """small on everything, then large on the best two; anything else takes too long."""
    one = service(folder, weights, group, {"small>large": {"2": 0.49}})
    models = {"small": (10.0, 0.0), "medium": (900.0, 0.0), "large": (1.0, 12.5)}
    one.fleet.update_latency({tier: LatencyModel(a, b, 0) for tier, (a, b) in models.items()})
    return one


async def test_both_stages_of_a_cascade_are_fused(tmp_path: Path) -> None:
    group = Words()
    one = cascade(tmp_path, {"small": 5.0, "large": 2.0}, group)
    ranking = await one.rank(RerankRequest("mat", WORDS, slo_ms=200))
    assert ranking.stages == (Stage.of("small", 4), Stage.of("large", 2))
    # The evidence of four is 0.7945135, 0.1013663, −0.3040988 and −0.5917808. Fused by small: 3.97, 1.51, 0.48, 0.04,
    # so that cat and dog go on, of which large alone prefers dog: 0 + 2 · 0.7945135 and 1 + 2 · 0.1013663.
    assert [WORDS[place] for place in chunk_places(group.chunks[1])] == ["cat", "dog"]
    assert found(ranking) == [(0, 0.0, 1.589027), (1, 1.0, 1.202733), (2, 2.0, 0.479506), (3, 3.0, 0.041096)]
    assert ranking.fused == FusedBy("order", 2.0)


async def test_the_logit_is_raw_where_the_score_is_lowered(tmp_path: Path) -> None:
    one = cascade(tmp_path, {"small": 5.0, "large": -1.0}, Words())
    ranking = await one.rank(RerankRequest("mat", WORDS, slo_ms=200))
    # By large dog has 1 − 0.1013663 and cat 0 − 0.7945135; the others, with 0.48 and 0.04 by small, come behind.
    below = [-0.7945135 - n * 2**-18 for n in (1, 2)]
    assert found(ranking) == [(1, 1.0, 0.8986337), (0, 0.0, -0.7945135), (2, 2.0, below[0]), (3, 3.0, below[1])]
    scores = [each.score or 0.0 for each in ranking.documents]
    assert scores == sorted(scores, reverse=True)


async def test_without_a_weight_the_first_stage_and_the_retriever_choose_together(tmp_path: Path) -> None:
    by_small = {"ranked": ["cat", "is"], "unordered": ["is", "bird"]}  # 1 ÷ 60 + 1 ÷ 63 is more than 1 ÷ 61 + 1 ÷ 62
    for candidates, expected in by_small.items():
        group = Words()
        one = cascade(tmp_path, {"large": 2.0}, group)
        await one.rank(RerankRequest("mat", WORDS, slo_ms=200, candidates=candidates))  # type: ignore[arg-type]
        assert [WORDS[place] for place in chunk_places(group.chunks[1])] == expected


async def test_a_weight_of_0_leaves_the_choice_to_the_logits(tmp_path: Path) -> None:
    group = Words()
    await cascade(tmp_path, {"small": 0.0}, group).rank(RerankRequest("mat", WORDS, slo_ms=200))
    assert [WORDS[place] for place in chunk_places(group.chunks[1])] == ["is", "bird"]


def chunk_places(chunk: Chunk) -> list[int]:
    return [PLACES[int(i)] for i in chunk.pairs.ids[np.cumsum(chunk.pairs.lengths) - 2]]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_the_order_in_which_scored_documents_are_sent_does_not_matter(one: RankingService, data: Any) -> None:
    scores = data.draw(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=8, unique=True))
    documents = ["a dog " * data.draw(st.integers(1, 40)) for _ in scores]
    sent = data.draw(st.permutations(range(len(scores))))
    falling = sorted(range(len(scores)), key=lambda i: -scores[i])
    how = {"long_documents": "max_passage", "top_n": data.draw(st.none() | st.integers(1, 8))}
    in_order, as_sent = [
        await one.rank(RerankRequest("cat", [documents[i] for i in places], scores=[scores[i] for i in places], **how))  # type: ignore[arg-type]
        for places in (falling, sent)
    ]
    for each in (in_order, as_sent):
        assert all(math.isfinite(document.score or 0.0) for document in each.documents)
    assert [(falling[d.index], d.logit, d.score) for d in in_order.documents] == [
        (sent[d.index], d.logit, d.score) for d in as_sent.documents
    ]
    assert as_sent.passages is not None
    assert in_order.passages is not None
    assert dict(zip(sent, as_sent.passages, strict=True)) == dict(zip(falling, in_order.passages, strict=True))


BODY = {"query": "cat", "documents": DOCUMENTS}
SCORED = [{"text": text, "score": score} for text, score in zip(DOCUMENTS, (3, 2.0, 1), strict=True)]


@pytest.mark.parametrize(
    ("fields", "by"),
    [
        ({}, "order"),
        ({"candidates": None, "scores": None}, "order"),
        ({"candidates": "unordered"}, None),
        ({"scores": [3, 2.5, -1]}, "scores"),
        ({"candidates": "ranked", "scores": [3, 2, 1]}, "scores"),
        ({"documents": SCORED}, "scores"),
        ({"documents": [{"text": text, "score": None} for text in DOCUMENTS]}, "order"),
        ({"documents": [{"text": text, "rank": 1} for text in DOCUMENTS]}, "order"),
    ],
)
async def test_a_body_says_how_its_candidates_come(one: RankingService, fields: dict[str, Any], by: str | None) -> None:
    async with http_client(one) as http:
        reply = await http.post("/v1/rerank", json=BODY | fields | {"return_documents": True})
        check_documented(await openapi_page(http), reply)
        assert (await http.post("/v1/plan", json=BODY | fields)).status_code == 200
    body = reply.json()
    assert body["rankfleet"].get("fusion") == (by and {"by": by, "weight": 10.0})
    first = body["results"][0]
    sent = fields.get("documents", DOCUMENTS)[first["index"]]
    assert first["document"] == (sent if isinstance(sent, dict) else {"text": sent})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ('"candidates": "sorted"', "candidates: Input should be 'ranked' or 'unordered'"),
        ('"candidates": true', "candidates: Input should be 'ranked' or 'unordered'"),
        ('"scores": [1, 2]', "2 scores for 3 documents; send one for each"),
        ('"scores": []', "0 scores for 3 documents"),
        ('"scores": [1, NaN, 2]', "scores.1 is not a finite number"),
        ('"scores": [1, 2, 1e999]', "scores.2 is not a finite number"),
        ('"scores": [1, "2", 3]', "scores.1: Input should be a valid number"),
        ('"scores": [1, null, 3]', "scores.1: Input should be a valid number"),
        ('"scores": [1, true, 3]', "scores.1: Input should be a valid number"),
        ('"scores": 5', "scores: Input should be a valid array"),
        ('"scores": [3, 2, 1], "candidates": "unordered"', "candidates: unordered says that nothing does"),
        ('"documents": [{"text": "a", "score": 1}, {"text": "b"}]', "documents.1: has no score, but others have"),
        ('"documents": ["a", {"text": "b", "score": 1}]', "documents.0: has no score, but others have"),
        ('"documents": [{"text": "a", "score": 1}, {"text": "b", "score": null}]', "documents.1: has no score"),
        ('"documents": [{"text": "a", "score": "high"}]', "documents.0.score: must be a number"),
        ('"documents": [{"text": "a", "score": false}]', "documents.0.score: must be a number"),
        ('"documents": [{"text": "a", "score": NaN}]', "documents.0: NaN, infinity and whole numbers"),
        (f'"documents": [{{"text": "a", "score": 1{"0" * 400}}}]', "documents.0: NaN, infinity and whole numbers"),
        ('"documents": [{"text": "a", "score": 1}], "scores": [1]', "are given beside the documents and in them"),
        ('"documents": [{"text": "a", "score": 1}], "candidates": "unordered"', "unordered says that nothing does"),
    ],
)
async def test_scores_that_cannot_be_meant_are_refused(one: RankingService, fields: str, message: str) -> None:
    documents = "" if '"documents"' in fields else f', "documents": {json.dumps(DOCUMENTS)}'
    content = f'{{"query": "cat", {fields}{documents}}}'
    async with http_client(one) as http:
        for path in ("/v1/rerank", "/v1/plan"):
            reply = await http.post(path, content=content.encode())
            assert (reply.status_code, message in reply.json()["error"]["message"]) == (422, True), reply.text


async def test_a_whole_number_beyond_any_float_is_no_score(one: RankingService) -> None:
    content = f'{{"query": "cat", "documents": ["a"], "scores": [1{"0" * 400}]}}'
    async with http_client(one) as http:
        reply = await http.post("/v1/rerank", content=content)
    assert (reply.status_code, "scores" in reply.json()["error"]["message"]) == (422, True)


async def test_what_a_search_finds_is_ranked_with_its_scores(tmp_path: Path) -> None:
    class Found:
        def search(self, query: str, k: int) -> list[Hit]:
            return [Hit(f"d{i}", text, score) for i, (text, score) in enumerate(zip(DOCUMENTS, (3, 2, 1), strict=True))]

    weights = {"large": 2.0}
    one = service(tmp_path, weights, candidates="unordered", search={"index": "somewhere"})
    async with http_client(one, retriever=Found()) as http:
        reply = await http.post("/v1/search", json={"query": "cat"})
        check_documented(await openapi_page(http), reply)
        refused = await http.post("/v1/search", json={"query": "cat", "candidates": "unordered"})
    body = reply.json()
    assert [result["id"] for result in body["results"]] == ["d0", "d2", "d1"]  # 7.45, 6.55 and 6
    assert [result["retrieval"] for result in body["results"]] == [
        {"rank": 1, "score": 3},
        {"rank": 3, "score": 1},
        {"rank": 2, "score": 2},
    ]
    assert body["rankfleet"]["fusion"] == {"by": "scores", "weight": 2.0}
    assert (refused.status_code, "'candidates' is unknown" in refused.json()["error"]["message"]) == (422, True)
