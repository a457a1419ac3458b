from collections.abc import Sequence
from math import log2

import numpy as np
import pytest

from rankfleet.core.errors import RankfleetError
from rankfleet.evaluate import evaluate_retriever, evaluate_tier, mean_of, measure_run, ranked_run
from rankfleet.retrieval.bm25 import Hit
from rankfleet.retrieval.corpus import Judged
from tests.unit.fakes import FakeClock

QRELS = {"q1": {"a": 2, "b": 1, "c": 0}, "q2": {"x": 1}}
JUDGED = Judged({"q1": "first", "q2": "second"}, QRELS)
HITS = {
    "q1": [Hit("c", "c", 3.0), Hit("b", "b", 2.0), Hit("a", "a", 1.0)],
    "q2": [Hit("y", "y", 2.0), Hit("x", "x", 1.0)],
}
# q1: (1/log2(3) + 2/log2(4)) ÷ (2/log2(2) + 1/log2(3)); q2: 1/log2(3)
RETRIEVER = ((1 / log2(3) + 2 / 2) / (2 + 1 / log2(3)) + 1 / log2(3)) / 2


class FakeReranker:
    """Prefers texts early in the alphabet, and takes 10 ms a document by the clock it shares."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock

    def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
        self.clock.now += 0.010 * len(documents)
        return np.array([-float(ord(d[0])) for d in documents])


def test_the_retrievers_own_order() -> None:
    result = evaluate_retriever(JUDGED, HITS)
    assert result == {"name": "bm25", "ndcg@10": round(RETRIEVER, 4), "mrr@10": 0.5}


def test_a_tier_that_gets_all_right() -> None:
    clock = FakeClock()
    result = evaluate_tier(FakeReranker(clock), JUDGED, HITS, clock=clock)
    # 30 ms for three documents and 20 ms for two: median 25, 95th percentile 29.5
    assert result == {"ndcg@10": 1.0, "mrr@10": 1.0, "p50_ms": 25.0, "p95_ms": 29.5}


def test_a_query_without_candidates_counts_as_nothing() -> None:
    clock = FakeClock()
    result = evaluate_tier(FakeReranker(clock), JUDGED, HITS | {"q2": []}, clock=clock)
    assert result["ndcg@10"] == 0.5


def test_scores_that_are_no_numbers_are_no_order() -> None:
    class Broken:
        def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
            return np.full(len(documents), np.nan)

    with pytest.raises(RankfleetError, match="'q1' got scores that are not finite"):
        evaluate_tier(Broken(), JUDGED, HITS, clock=FakeClock())


def test_only_ten_places_count() -> None:
    run = ranked_run({"q2": [f"n{i}" for i in range(10)] + ["x"]})
    quality = measure_run(run, {"q2": {"x": 1}})
    assert (quality.ndcg_10, quality.mrr_10) == (0.0, 0.0)


def test_the_mean_counts_collections_alike() -> None:
    def collection(value: float) -> dict:
        return {"retriever": {"name": "bm25", "ndcg@10": value}, "tiers": {"small": {"ndcg@10": value * 2}}}

    mean = mean_of([collection(0.1), collection(0.3)])
    assert mean["retriever"] == {"name": "bm25", "ndcg@10": pytest.approx(0.2)}
    assert mean["tiers"]["small"]["ndcg@10"] == pytest.approx(0.4)
