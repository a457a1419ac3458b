"""Scores as probabilities: the map of a tier, its place in the quality table, and replies under routing."""

import math

import numpy as np
import pytest

from rankfleet.estimates.calibration import PLAIN, Calibration, parse_calibrations, probability


def test_the_map_is_a_line_in_log_odds_and_float64() -> None:
    scores = np.array([2.0, -1.0, -np.inf], np.float32)
    log_odds = Calibration(0.5, -1.0).log_odds(scores)
    assert log_odds.dtype == np.float64
    assert log_odds.tolist() == [0.0, -1.5, -math.inf]
    assert probability(log_odds) == pytest.approx([0.5, 0.18242552, 0.0])


@pytest.mark.parametrize(("logit", "score"), [(0.0, 0.5), (2.0, 0.8807970779778823), (-800.0, 0.0), (800.0, 1.0)])
def test_probability_of_log_odds(logit: float, score: float) -> None:
    assert probability(PLAIN.log_odds(np.array(logit))) == pytest.approx(score)


def test_high_scores_and_neighbours_in_float32_stay_distinct() -> None:
    scores = np.array([8.6, 9.9, 10.8, np.nextafter(np.float32(10.8), np.float32(11))], np.float32)
    assert (np.diff(probability(Calibration(0.9, 0.6).log_odds(scores))) > 0).all()


@pytest.mark.parametrize(
    "own",
    [
        {"slope": 0.0, "intercept": 1.0},
        {"slope": -1.0, "intercept": 1.0},
        {"slope": math.inf, "intercept": 1.0},
        {"slope": 1.0, "intercept": math.nan},
    ],
)
def test_a_map_that_loses_the_order_is_refused(own: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="calibration"):
        parse_calibrations({"small": own})
