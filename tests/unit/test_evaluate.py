"""Quality and latency of tiers on judged queries, and the tables of quality by depth and cascade."""

from math import inf, log2
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rankfleet.cli.evaluate import evaluate
from rankfleet.core.decisions import Stage
from rankfleet.core.errors import ConfigError
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.quality import parse_table
from rankfleet.evaluate import (
    ScoredCandidates,
    cascade,
    evaluate_retriever,
    figures_of,
    first_scored,
    mean_of,
    mean_of_steps,
    measure_run,
    quality_steps,
    ranked_run,
)
from rankfleet.evaluate.against import Price
from rankfleet.retrieval.bm25 import Hit
from rankfleet.retrieval.corpus import Judged
from rankfleet.router.cascade import ranked, second_stage

QRELS = {"q1": {"a": 2, "b": 1, "c": 0}, "q2": {"x": 1}}
JUDGED = Judged({"q1": "first", "q2": "second"}, QRELS)
HITS = {
    "q1": [Hit("c", "c", 3.0), Hit("b", "b", 2.0), Hit("a", "a", 1.0)],
    "q2": [Hit("y", "y", 2.0), Hit("x", "x", 1.0)],
}
# q1: (1/log2(3) + 2/log2(4)) ÷ (2/log2(2) + 1/log2(3)); q2: 1/log2(3)
RETRIEVER = ((1 / log2(3) + 2 / 2) / (2 + 1 / log2(3)) + 1 / log2(3)) / 2


# A perfect ranking; 30 ms for three documents and 20 ms for two.
PERFECT = {"q1": np.array([0.0, 1.0, 2.0]), "q2": np.array([0.0, 1.0])}
SCORED = ScoredCandidates(PERFECT, [30.0, 20.0], seconds=0.05, searches=2.0, tokens=600.0)


def test_the_quality_of_the_retrievers_own_order_and_what_its_candidates_hold() -> None:
    result = evaluate_retriever(JUDGED, HITS | {"q1": HITS["q1"][:2]})
    # q1: b second of the first two, of a with grade 2 and b with 1; q2 as ever
    ndcg = round(((1 / log2(3)) / (2 + 1 / log2(3)) + 1 / log2(3)) / 2, 4)
    assert result == {"name": "bm25", "ndcg@10": ndcg, "mrr@10": 0.5, "recall@10": 0.75, "recall": 0.75}


def test_a_tier_that_ranks_perfectly_has_quality_one() -> None:
    result = figures_of(SCORED, JUDGED, HITS)
    # Of 20 and 30 ms: median 25, 95th percentile 29.5, 99th 29.9; 5 pairs in 50 ms
    times = {"p50_ms": 25.0, "p95_ms": 29.5, "p99_ms": 29.9, "pairs_per_s": 100.0}
    assert result == {"ndcg@10": 1.0, "mrr@10": 1.0, "recall@10": 1.0} | times


def test_what_1000_queries_cost_by_time_and_by_the_bill() -> None:
    # 25 ms, one search and 300 tokens a query: 25 s of a device, 1,000 searches, 300,000 tokens
    price = Price(per_1000_searches=2.0, per_million_tokens=0.1, per_hour=3.6)
    assert figures_of(SCORED, JUDGED, HITS, price)["usd_per_1000"] == pytest.approx(2.0 + 0.03 + 0.025)


def test_a_query_without_candidates_counts_as_zero() -> None:
    scored = ScoredCandidates({"q1": PERFECT["q1"]})
    assert figures_of(scored, JUDGED, HITS | {"q2": []})["ndcg@10"] == 0.5


def test_only_the_first_ten_documents_count() -> None:
    run = ranked_run({"q2": [f"n{i}" for i in range(10)] + ["x"]})
    quality = measure_run(run, {"q2": {"x": 1}})
    assert (quality.ndcg_10, quality.mrr_10) == (0.0, 0.0)


def test_collections_have_equal_weight_in_the_mean() -> None:
    def collection(value: float) -> dict:
        return {"retriever": {"name": "bm25", "ndcg@10": value}, "tiers": {"small": {"ndcg@10": value * 2}}}

    mean = mean_of([collection(0.1), collection(0.3)])
    assert mean["retriever"] == {"name": "bm25", "ndcg@10": pytest.approx(0.2)}
    assert mean["tiers"]["small"]["ndcg@10"] == pytest.approx(0.4)


def test_orders_of_partial_scoring_and_of_cascades() -> None:
    small, large = np.array([1.0, 4.0, 3.0, 2.0]), np.array([9.0, 5.0, 7.0, 8.0])
    assert first_scored(large, 3).tolist() == [0, 2, 1, 3]
    # Fusing both orders keeps 1 (first and second) and 0 (last and first); large swaps them.
    assert cascade(small, large, 2).tolist() == [0, 1, 2, 3]
    assert cascade(small, large, 4).tolist() == [0, 3, 2, 1]
    # Keep more than there are; where large scores all alike, the most promising leads, which is 1.
    assert cascade(small, np.ones(4), 9).tolist() == [1, 0, 2, 3]


def test_an_evaluated_cascade_has_the_order_that_is_served() -> None:
    # Two pairs of neighbours apart by a wide gap, 9 8.5 and 8 7.8, and a gap behind them: the planned five go on.
    small = np.array([0.0, 9.0, 8.5, 1.0, 8.0, 7.8, 0.5, 0.2])
    large = np.array([3.0, 1.0, 2.0, 9.0, 2.0, 7.0, 8.0, 9.0])
    kept = second_stage(Stage.of("large", 5), small, np.full(8, 10), LatencyModel(1.0, 1.0, 0.0), inf, retrieved=True)
    order, _ = ranked(small, kept, large[kept], retrieved=True)
    # 1 2 4 0 3 are the most promising (test_cascade.py); large has 3 and 0 first, 2 and 4 alike; 5 6 7 stay behind.
    assert order.tolist() == [3, 0, 2, 4, 1, 5, 6, 7]
    assert cascade(small, large, 5).tolist() == order.tolist()


def test_quality_by_depth_and_cascade_by_hand() -> None:
    # q1 is c b a with grades 0 1 2; q2 is y x with grades 0 1. `small` has q1 right and q2 wrong, `large` the reverse.
    small = ScoredCandidates({"q1": np.array([1.0, 2.0, 3.0]), "q2": np.array([2.0, 1.0])}, [])
    large = ScoredCandidates({"q1": np.array([3.0, 2.0, 1.0]), "q2": np.array([1.0, 2.0])}, [])
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


def table(retriever: float, small: dict[str, float], large: dict[str, float], both: dict[str, float]) -> dict[str, Any]:
    return {"retriever": retriever, "tiers": {"small": small, "large": large}, "cascades": {"small>large": both}}


# Steps 10 and 20 of a data set with 100 candidates and of one with 15.
MANY = table(0.2, {"10": 0.25, "20": 0.3, "100": 0.35}, {"10": 0.3, "20": 0.5, "100": 0.7}, {"10": 0.4, "20": 0.6})
FEW = table(0.4, {"10": 0.45, "15": 0.55}, {"10": 0.5, "15": 0.8}, {"10": 0.6})


def test_beyond_its_candidates_a_data_set_counts_as_scored_whole() -> None:
    mean = mean_of_steps([MANY, FEW])
    assert mean["retriever"] == 0.3
    # At 15 the first lies between its 10 and 20, linear in the logarithm: log(15/10) ÷ log(20/10) = 0.58496 of the
    # way, which is 0.27925 for small and 0.41699 for large.
    assert mean["tiers"]["small"] == {"10": 0.35, "15": 0.41462, "20": 0.425, "100": 0.45}
    assert mean["tiers"]["large"] == {"10": 0.4, "15": 0.6085, "20": 0.65, "100": 0.75}
    # Of the second, 20 are more than all: the large tier on all, 0.8.
    assert mean["cascades"] == {"small>large": {"10": 0.5, "20": 0.7}}
    assert mean_of_steps([FEW, MANY]) == mean, "the order of data sets does not matter"


def test_the_planner_takes_the_mean_of_all_candidates_for_a_tiers_quality() -> None:
    read = parse_table(mean_of_steps([MANY, FEW]), {"small": 0.0, "large": 0.0}, 0.0)
    assert read.tiers == {"small": 0.45, "large": 0.75}
    assert read.at_depth("large", 20, 100) == 0.65
    assert read.cascades == {("small", "large"): {10: 0.5, 20: 0.7}}


def test_the_mean_of_one_data_set_is_that_data_set() -> None:
    assert mean_of_steps([MANY]) == MANY


def test_two_data_folders_with_the_same_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="--data: two folders are called shop; "):
        evaluate([Path("march/shop"), Path("may/shop")])
