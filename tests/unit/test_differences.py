"""Always-valid differences: the delta method and the width of the intervals, by hand."""

import math

import numpy as np
import pytest

from rankfleet.estimates.differences import Difference, Ratio, half_width, standard_error_for


def test_a_ratio_s_variance_is_that_between_units():
    """Four users with 1, 1, 1 and 5 requests, worth 4, 0, 0 and 4. R = 8/8; residuals 3, −1, −1, −1, whose squares add
    up to 12; the variance is 12 · 4⁄3 ⁄ 8²."""
    ratio = Ratio.of(np.array([4.0, 0.0, 0.0, 4.0]), np.array([1.0, 1.0, 1.0, 5.0]))
    assert ratio.value == 1.0
    assert ratio.units == pytest.approx(64 / 28)  # 8² ⁄ (1 + 1 + 1 + 25)
    assert ratio.standard_error == pytest.approx(math.sqrt(12 * 4 / 3) / 8)


def test_a_rare_event_that_has_not_happened_yet_is_not_known_to_be_impossible():
    """100 users of one request each, no conversion: as if one of them had one, √(1 · 100⁄99) ⁄ 100."""
    ratio = Ratio.of(np.zeros(100), np.ones(100))
    assert ratio.value == 0.0
    assert ratio.standard_error == pytest.approx(math.sqrt(100 / 99) / 100)


def test_a_user_who_is_one_of_many_requests_counts_once():
    """A hundred requests of one user tell as much about others as that user."""
    ratio = Ratio.of(np.array([50.0]), np.array([100.0]))
    assert (ratio.value, ratio.units) == (0.5, 1)
    assert math.isinf(ratio.standard_error)


def test_periods_count_by_their_weights():
    """Two periods of weight ¼ and ¾; in the first, two users with 2 and 0 clicks in 1 request each, R = 1; in the
    second, the same users with 1 and 3 clicks in 2 requests each, R = 1; the value is 1. A user's influence is
    ¼ · (2 − 1) ⁄ 2 + ¾ · (1 − 2) ⁄ 4 = −1/16, the other's 1/16: together less than a usual user's share,
    ½, which is taken: ½² · 2⁄1."""
    sums, counts = np.array([[2.0, 1.0], [0.0, 3.0]]), np.array([[1.0, 2.0], [1.0, 2.0]])
    ratio = Ratio.of(sums, counts, np.array([0.25, 0.75]))
    assert ratio.value == 1.0
    assert ratio.standard_error == pytest.approx(math.sqrt(0.5))
    only_second = Ratio.of(sums, counts, np.array([0.0, 1.0]))
    assert only_second == Ratio.of(sums[:, 1], counts[:, 1])


def test_a_period_that_an_arm_has_not_seen_leaves_its_ratio_unknown():
    assert math.isnan(Ratio.of(np.ones((3, 2)), np.array([[1.0, 0.0]] * 3), np.array([0.5, 0.5])).value)


def test_units_without_a_request_do_not_count():
    assert Ratio.of(np.array([3.0, 0.0, 1.0]), np.array([4.0, 0.0, 4.0])).units == 2
    none = Ratio.of(np.zeros(3), np.zeros(3))
    assert math.isnan(none.value)
    assert none.units == 0


def test_the_width_of_an_interval():
    """s = τ = 1, α = 5%: √(1·2⁄1 · (2 ln 20 + ln 2)) = √(2 · (5.991465 + 0.693147)) = √13.369224 = 3.656395."""
    assert half_width(1.0, 1.0) == pytest.approx(3.656395, abs=1e-6)


def test_an_interval_is_wider_than_one_for_a_single_look():
    """1.96 standard errors hold a single look; all looks together cost more, at any scale."""
    assert all(half_width(0.01, scale) > 1.96 * 0.01 for scale in (0.001, 0.01, 0.1, 1.0))


def test_nothing_is_known_of_arms_with_few_units():
    some, many = Ratio(0.2, 0.01, 49), Ratio(0.5, 0.01, 1000)
    assert Difference.between(some, many, 0.01).low == -math.inf
    known = Difference.between(Ratio(0.2, 0.003, 50), Ratio(0.5, 0.004, 1000), 0.005)
    # s = √(.003² + .004²) = .005 = τ: the width of the test above, times .005
    assert (known.value, known.standard_error) == (pytest.approx(0.3), pytest.approx(0.005))
    assert known.high - known.value == pytest.approx(3.656395 * 0.005, abs=1e-8)


def test_the_standard_error_for_a_width_is_found():
    assert standard_error_for(3.656395, 1.0) == pytest.approx(1.0, abs=1e-5)


def test_without_any_knowledge_the_interval_is_everything():
    assert half_width(math.inf, 0.01) == math.inf
