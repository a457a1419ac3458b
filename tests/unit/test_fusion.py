"""What candidates bring with them, and how it counts beside a tier's logits."""

import numpy as np
import pytest

from rankfleet.estimates.fusion import Fusion, evidence_of_order, evidence_of_scores

WEIGHTS = {"small": 10.0}


def test_the_evidence_of_an_order_is_the_logarithm_of_the_rank_about_its_mean() -> None:
    # ln 1, ln 2 and ln 3 are 0, 0.6931472 and 1.0986123; their mean is 0.5972532.
    assert evidence_of_order(3).tolist() == pytest.approx([0.5972532, -0.0958940, -0.5013591], abs=1e-7)
    assert (evidence_of_order(1).tolist(), evidence_of_order(0).tolist()) == ([0.0], [])


def test_the_evidence_of_scores_is_their_distance_from_the_mean_in_standard_deviations() -> None:
    # The standard deviation of 3, 2 and 1 is the root of 2/3, and 1 ÷ that is 1.2247449.
    for scale, offset in ((1.0, 0.0), (20.0, 7.0), (0.001, -5.0)):
        scores = scale * np.array([3.0, 2.0, 1.0]) + offset
        assert evidence_of_scores(scores).tolist() == pytest.approx([1.2247449, 0.0, -1.2247449], abs=1e-6)


@pytest.mark.parametrize(
    ("scores", "evidence"),
    [
        ([], []),
        ([4.5], [0.0]),
        ([0.0, 0.0], [0.0, 0.0]),
        ([0.1] * 7, [0.0] * 7),  # whose mean is not 0.1 in float64
        ([1e308, -1e308], [1.0, -1.0]),  # whose squares and difference are infinite
        ([5e-324, 0.0], [1.0, -1.0]),
    ],
)
def test_any_finite_scores_have_finite_evidence(scores: list[float], evidence: list[float]) -> None:
    assert evidence_of_scores(np.array(scores)).tolist() == evidence


def test_a_fused_score_is_the_logit_and_weighted_evidence() -> None:
    logits, places = np.array([5.0, 6.0, 9.0], np.float32), np.arange(3)
    by_order = Fusion.of(3, None, WEIGHTS)
    assert (by_order.by, by_order.weight("small")) == ("order", 10.0)
    fused = by_order.fused("small", logits, places)
    assert fused.tolist() == pytest.approx([10.972532, 5.041060, 3.986409], abs=1e-6)
    assert (fused.dtype, logits.tolist()) == (np.float64, [5.0, 6.0, 9.0])
    by_scores = Fusion.of(3, np.array([3.0, 2.0, 1.0]), WEIGHTS)
    assert (by_scores.by, by_scores.weight("small")) == ("scores", 10.0)
    assert by_scores.fused("small", logits, places).tolist() == pytest.approx([17.247449, 6.0, -3.247449], abs=1e-6)


def test_the_evidence_of_a_few_is_theirs_among_all() -> None:
    # Of the third and the first of three, not of two.
    fused = Fusion.of(3, None, WEIGHTS).fused("small", np.array([9.0, 5.0]), np.array([2, 0]))
    assert fused.tolist() == pytest.approx([3.986409, 10.972532], abs=1e-6)


def test_a_tier_without_a_weight_is_not_fused() -> None:
    fusion = Fusion.of(3, None, WEIGHTS)
    assert fusion.weight("large") == 0.0
    assert fusion.fused("large", np.array([5.0, 6.0, 9.0]), np.arange(3)).tolist() == [5.0, 6.0, 9.0]
