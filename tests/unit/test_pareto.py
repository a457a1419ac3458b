"""All plans with quality, time and cost, and those that nothing beats."""

from pathlib import Path
from typing import Any

import numpy as np

from rankfleet.evaluate.pareto import front, plans_of
from rankfleet.evaluate.picture import draw

VALUES = {
    "retriever": {"": np.array([0.2, 0.4])},
    "alone": {"s": np.array([0.3, 0.5]), "l": np.array([0.6, 0.6]), "s>l 20": np.array([0.5, 0.6])},
    "order": {"s": np.array([0.4, 0.6])},
    "against": {"now": np.array([0.5, 0.5])},
}
FIGURES: dict[str, Any] = {
    "retriever": {"name": "bm25", "ndcg@10": 0.3},
    "tiers": {"s": {"p50_ms": 10.0, "usd_per_1000": 0.5}, "l": {"p50_ms": 100.0, "usd_per_1000": 4.0}},
    "against": {"now": {"p50_ms": 150.0}},
}


def test_each_plan_has_the_sum_of_its_stages_and_an_interval_on_the_retrievers_line() -> None:
    plans = {(each["plan"], each["kind"]): each for each in plans_of([VALUES], FIGURES, top_k=100)}
    assert [*plans] == [("s", "tier"), ("l", "tier"), ("s>l 20", "cascade"), ("s", "fused"), ("now", "compared with")]
    # the large tier scores a fifth of the candidates again
    assert plans["s>l 20", "cascade"] | {"interval": ()} == {
        **{"plan": "s>l 20", "kind": "cascade", "ndcg@10": 0.55, "interval": ()},
        **{"ms": 30.0, "usd_per_1000": 1.3},
    }
    # both queries are .1 better than with bm25, in every draw
    assert plans["s", "tier"]["interval"] == [0.4, 0.4]
    assert "usd_per_1000" not in plans["now", "compared with"]
    assert plans["now", "compared with"]["ms"] == 150.0


def test_the_plans_that_nothing_beats_are_cheapest_first() -> None:
    plans = plans_of([VALUES], FIGURES, top_k=100)
    assert [(each["plan"], each["kind"]) for each in front(plans, "ms")] == [
        *(("s", "fused"), ("s>l 20", "cascade"), ("l", "tier")),  # s alone costs as much as fused, and ranks worse
    ]
    assert [each["plan"] for each in front(plans, "usd_per_1000")] == ["s", "s>l 20", "l"]


def test_the_picture_has_a_panel_for_time_and_one_for_cost(tmp_path: Path) -> None:
    from matplotlib.image import imread

    whole = FIGURES | {"plans": plans_of([VALUES], FIGURES, top_k=100)}
    draw("shop", whole, tmp_path / "deep" / "both.png")
    draw("shop", whole | {"plans": [each for each in whole["plans"] if each["plan"] == "now"]}, tmp_path / "one.png")
    both, one = (imread(tmp_path / name).shape for name in ("deep/both.png", "one.png"))
    assert both[1] == 2 * one[1]
