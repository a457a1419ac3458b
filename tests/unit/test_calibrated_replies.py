"""`relevance_score` and thresholds on it: the same whichever tier answered, through the service and the API."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rankfleet.core.decisions import Stage
from rankfleet.core.messages import Chunk, ChunkScores, RankedDocument, RerankRequest
from rankfleet.estimates.latency import LatencyModel
from rankfleet.router.replica_record import Entry
from rankfleet.router.service import RankingService
from tests.unit import fakes
from tests.unit.fakes import FakeGroup, fleet, http_client

# Pairs with the query `cat`: 5, 6, 7 and 9 tokens
DOCUMENTS = ["a", "a dog", "a dog sat", "a dog is an animal"]
MAPS = {"small": {"slope": 1.0, "intercept": -7.0}, "large": {"slope": 0.5, "intercept": -2.0}}


class TwoScales(FakeGroup):
    """`small` gives a pair its number of tokens n, `large` 2·n − 10: both are n − 7 by MAPS."""

    async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
        scores = await super().score(chunk, entry)
        logits = scores.logits if chunk.tier == "small" else 2 * scores.logits - 10
        return ChunkScores(logits, 1.0, 2.0, "r1", 0.0, chunk.tier)


def service(folder: Path, data: dict[str, Any], **changes: Any) -> RankingService:
    table = folder / "table.json"
    table.write_text(json.dumps({"data_sets": {"mine": {"retriever": 0.2} | data}}))
    return fakes.service(TwoScales(), fleet(quality={"table": str(table)}, **changes))


def told(documents: list[RankedDocument]) -> list[tuple[int, float | None, Any]]:
    return [(each.index, each.logit, pytest.approx(each.relevance, abs=1e-6)) for each in documents]


async def test_a_threshold_passes_the_same_documents_whichever_tier_answers(tmp_path: Path) -> None:
    body = {"query": "cat", "documents": DOCUMENTS, "score_threshold": 0.4}
    async with http_client(service(tmp_path, {"calibration": MAPS})) as http:
        small, large = [(await http.post("/v1/rerank", json=body | {"model": tier})).json() for tier in MAPS]
    assert [(small["model"], small["results"][0]["logit"]), (large["model"], large["results"][0]["logit"])] == [
        ("small", 9.0),
        ("large", 8.0),
    ]
    for reply in (small, large):  # n − 7 is 2 and 0: 1 ÷ (1 + e^−2) and a half; the next, −1, is .27
        scores = [(result["index"], result["relevance_score"]) for result in reply["results"]]
        assert scores == [(3, pytest.approx(0.88079708)), (2, 0.5)]


async def test_without_a_map_a_tier_has_the_plain_sigmoid(tmp_path: Path) -> None:
    one = service(tmp_path, {"calibration": {"small": MAPS["small"]}})
    ranking = await one.rank(RerankRequest("cat", DOCUMENTS[:2], model="large"))
    assert told(ranking.documents) == [(1, 2.0, 0.88079708), (0, 0.0, 0.5)]


async def test_raw_scores_stay_raw(tmp_path: Path) -> None:
    async with http_client(service(tmp_path, {"calibration": MAPS})) as http:
        body = {"query": "cat", "texts": DOCUMENTS[:2]}
        calibrated = await http.post("/rerank", json=body)
        raw = await http.post("/rerank", json=body | {"raw_scores": True})
    assert [row["score"] for row in raw.json()] == [2.0, 0.0]  # of large: 2·6 − 10 and 2·5 − 10
    assert [row["score"] for row in calibrated.json()] == [pytest.approx(0.26894142), pytest.approx(0.11920292)]


async def test_fused_scores_have_maps_of_their_own(tmp_path: Path) -> None:
    fused = {"weights": {"large": 2.0}, "calibration": {"large": {"slope": 0.5, "intercept": 0.0}}}
    one = service(tmp_path, {"calibration": MAPS, "fused": fused}, candidates="ranked")
    # ±2 · ln(2) ÷ 2 beside the logits 0 and 2, halved: .346574 and .653426
    ranking = await one.rank(RerankRequest("cat", DOCUMENTS[:2], model="large"))
    assert told(ranking.documents) == [(1, 2.0, 0.65778218), (0, 0.0, 0.58578644)]
    # A tier without a weight is not fused, and has the map of its logits.
    ranking = await one.rank(RerankRequest("cat", DOCUMENTS[:2], model="small"))
    assert told(ranking.documents) == [(1, 6.0, 0.26894142), (0, 5.0, 0.11920292)]
    ranking = await one.rank(RerankRequest("cat", DOCUMENTS[:2], model="large", candidates="unordered"))
    assert told(ranking.documents) == [(1, 2.0, 0.26894142), (0, 0.0, 0.11920292)]


async def test_each_document_of_a_cascade_has_the_map_of_the_tier_that_scored_it(tmp_path: Path) -> None:
    one = service(tmp_path, {"cascades": {"small>large": {"2": 0.45}}, "calibration": MAPS}, network_ms=3)
    times = {"small": (10.0, 0.0), "medium": (900.0, 0.0), "large": (1.0, 7.0)}
    one.fleet.update_latency({tier: LatencyModel(a, b, 0) for tier, (a, b) in times.items()})
    ranking = await one.rank(RerankRequest("cat", DOCUMENTS, slo_ms=180))
    assert ranking.stages == (Stage.of("small", 4), Stage.of("large", 2))
    # n − 7 by either tier's map: the second stage's documents, and behind them those of the first stage
    assert told(ranking.documents) == [
        (3, 8.0, 0.88079708),
        (2, 4.0, 0.5),
        (1, 6.0, 0.26894142),
        (0, 5.0, 0.11920292),
    ]


async def test_a_passage_has_the_map_of_the_logits(tmp_path: Path) -> None:
    fused = {"weights": {"large": 2.0}, "calibration": {"large": {"slope": 9.0, "intercept": 9.0}}}
    one = service(tmp_path, {"calibration": MAPS, "fused": fused}, candidates="ranked")
    request = RerankRequest("cat", ["a dog"], model="large", long_documents="max_passage", spans=True)
    [document] = (await one.rank(request)).documents
    assert document.span == (0, 5, pytest.approx(0.26894142))


async def test_order_is_never_lost(tmp_path: Path) -> None:
    one = service(tmp_path, {"calibration": {"large": {"slope": 0.01, "intercept": -9.0}}})
    texts = [" ".join(["a"] * count) for count in range(1, 40)]
    ranking = await one.rank(RerankRequest("cat", texts, model="large"))
    assert [document.index for document in ranking.documents] == [*range(38, -1, -1)]
    assert (np.diff([document.relevance for document in ranking.documents]) < 0).all()
