from collections.abc import Sequence
from math import log2

import numpy as np
import pytest

from rankfleet.core.errors import RankfleetError
from rankfleet.evaluate import (
    Scored,
    cascade,
    evaluate_retriever,
    figures_of,
    first_scored,
    mean_of,
    mean_of_steps,
    measure_run,
    quality_steps,
    ranked_run,
    score_candidates,
)
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
    result = figures_of(score_candidates(FakeReranker(clock), JUDGED, HITS, clock=clock), JUDGED, HITS)
    # 30 ms for three documents and 20 ms for two: median 25, 95th percentile 29.5
    assert result == {"ndcg@10": 1.0, "mrr@10": 1.0, "p50_ms": 25.0, "p95_ms": 29.5}


def test_a_query_without_candidates_counts_as_nothing() -> None:
    clock = FakeClock()
    hits = HITS | {"q2": []}
    result = figures_of(score_candidates(FakeReranker(clock), JUDGED, hits, clock=clock), JUDGED, hits)
    assert result["ndcg@10"] == 0.5


def test_scores_that_are_no_numbers_are_no_order() -> None:
    class Broken:
        def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
            return np.full(len(documents), np.nan)

    with pytest.raises(RankfleetError, match="'q1' got scores that are not finite"):
        score_candidates(Broken(), JUDGED, HITS, clock=FakeClock())


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


def test_orders_of_parts() -> None:
    small, large = np.array([1.0, 4.0, 3.0, 2.0]), np.array([9.0, 5.0, 7.0, 8.0])
    assert first_scored(large, 3).tolist() == [0, 2, 1, 3]
    # Both orders together keep 1 (first and second) and 0 (last and first); large turns them round.
    assert cascade(small, large, 2).tolist() == [0, 1, 2, 3]
    assert cascade(small, large, 4).tolist() == [0, 3, 2, 1]


def test_steps_of_quality_by_hand() -> None:
    # q1 is c b a with grades 0 1 2; q2 is y x with grades 0 1. `small` has q1 right and q2 wrong, `large` the reverse.
    small = Scored({"q1": np.array([1.0, 2.0, 3.0]), "q2": np.array([2.0, 1.0])}, [])
    large = Scored({"q1": np.array([3.0, 2.0, 1.0]), "q2": np.array([1.0, 2.0])}, [])
    steps = quality_steps({"small": small, "large": large}, JUDGED, HITS, (2, 50))
    ideal, as_given, second = 2 + 1 / log2(3), (1 / log2(3) + 2 / 2), 1 / log2(3)
    b_first = 1 + 2 / 2  # b c a
    assert steps["retriever"] == round(RETRIEVER, 5)
    assert steps["tiers"]["small"] == {"2": round((b_first / ideal + second) / 2, 5), "3": round((1 + second) / 2, 5)}
    assert steps["tiers"]["large"] == {
        "2": round((as_given / ideal + 1) / 2, 5),
        "3": round((as_given / ideal + 1) / 2, 5),
    }
    # q1: small gives a b c and the retriever c b a, so a and c go on and large puts c first: c a b; q2: y x, turned
    # round: x y
    assert steps["cascades"] == {"small>large": {"2": round(((2 / log2(3) + 1 / 2) / ideal + 1) / 2, 5)}}


def test_the_mean_of_steps_leaves_out_what_one_lacks() -> None:
    tables = [{"retriever": 0.2, "tiers": {"a": {"5": 0.3, "9": 0.5}}}, {"retriever": 0.4, "tiers": {"a": {"5": 0.5}}}]
    assert mean_of_steps(tables) == {"retriever": pytest.approx(0.3), "tiers": {"a": {"5": pytest.approx(0.4)}}}
