"""Paired randomisation tests and Holm's correction: by hand, and beside SciPy."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import permutation_test

from rankfleet.evaluate import tiers_compared
from rankfleet.evaluate.significance import holm, randomisation_p


@pytest.mark.parametrize(
    ("paired", "p"),
    [
        ([[0.1, 0.2, 0.4]], 0.25),  # of 8 assignments, the observed one and its opposite
        ([[0.1, 0.2, -0.3]], 1.0),  # no mean is nearer to 0
        ([[0.1, 0.1, -0.1, 0.4]], 0.5),  # 0.5 or more: +0.4 and two or three of +0.1, 4 of 16, and their opposites
        ([[0.5, 0.0, 0.0]], 1.0),  # one query counts: both of its signs are as far
        ([[0.0, 0.0]], 1.0),
        ([[0.2], [0.1, 0.3]], 0.25),  # 0.1, 0.025 and 0.075 of the mean
        ([[0.1] * 12], 2 / 4096),
    ],
)
def test_few_queries_are_tested_exactly(paired: list[list[float]], p: float) -> None:
    assert randomisation_p([np.array(each) for each in paired]) == pytest.approx(p)


@pytest.mark.parametrize("shift", [0.0, 0.02, 0.05])
def test_many_queries_are_tested_as_by_scipy(shift: float) -> None:
    paired = np.random.default_rng(3).normal(shift, 0.1, size=60)
    theirs = permutation_test((paired,), np.mean, permutation_type="samples", n_resamples=20_000, rng=5).pvalue
    # Two draws of 10,000 and 20,000 assignments differ by less than 0.02 at p = 0.5.
    assert randomisation_p([paired]) == pytest.approx(theirs, abs=0.02)


def test_a_difference_beyond_all_assignments_is_not_impossible() -> None:
    assert randomisation_p([np.full(100, 0.1)]) == 1 / 10_001


def test_holm_by_hand() -> None:
    # In order 0.005, 0.01, 0.03, 0.04: 4 · 0.005, 3 · 0.01, 2 · 0.03, and 0.04, which may not be below the one before.
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert corrected == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(corrected) == ["a", "b", "c", "d"]
    assert holm({"a": 0.7, "b": 0.6}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_each_tier_is_compared_with_the_retriever_and_with_the_best() -> None:
    values: dict[str, Any] = {
        "retriever": {"": np.array([0.2, 0.2, 0.2])},
        "alone": {"small": np.array([0.3, 0.3, 0.3]), "large": np.array([0.5, 0.5, 0.5])},
    }
    compared = tiers_compared([values], ["small", "large"])
    # Each has p = 1/4; of two Holm doubles the smaller, and the other is not below it.
    assert compared["small"]["less_retriever"] == {"mean": 0.1, "interval": [0.1, 0.1], "p": 0.5}
    less = {"less_retriever": {"mean": 0.3, "interval": [0.3, 0.3], "p": 0.5}}
    assert compared["large"] == {"interval": [0.5, 0.5]} | less
    assert compared["small"]["less_best"] == {"mean": -0.2, "interval": [-0.2, -0.2], "p": 0.25}


def test_tiers_are_compared_with_others_who_may_be_the_best() -> None:
    values: dict[str, Any] = {
        "retriever": {"": np.array([0.2, 0.2, 0.2])},
        "alone": {"small": np.array([0.3, 0.3, 0.3]), "large": np.array([0.5, 0.5, 0.5])},
        "against": {"now": np.array([0.6, 0.6, 0.6])},
    }
    compared = tiers_compared([values], ["small", "large"], ["now"])
    assert list(compared["now"]) == ["interval", "less_retriever"]
    # Three have p = 1/4 each against the retriever: three times the smallest. Two are compared with the other.
    assert compared["now"]["less_retriever"] == {"mean": 0.4, "interval": [0.4, 0.4], "p": 0.75}
    assert compared["small"]["less_now"] == {"mean": -0.3, "interval": [-0.3, -0.3], "p": 0.5}
    assert compared["large"]["less_best"] == compared["large"]["less_now"]
