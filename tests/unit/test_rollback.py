"""When an arm of an experiment is stopped."""

from collections.abc import Mapping

import numpy as np
import pytest

from rankfleet.core.experiments import Rollback
from rankfleet.estimates.rollback import Share, latency_bin, latency_p99, worse_arms

ONLY_ERRORS = Rollback(attainment=None)


def arm(requests: int, errors: int, units: int | None = None, budgets: int = 0, missed: int = 0) -> np.ndarray:
    """Counts of this many units with equal numbers of requests; the first of them have the errors."""
    units = units or requests
    each = requests // units
    rows = np.zeros((units, 6), dtype=np.int64)
    rows[:, 0] = each
    rows[: errors // each, 1] = each
    if budgets:
        rows[:, 2] = 1
        rows[:missed, 3] = 1
    return rows


def stopped(arms: Mapping[str, np.ndarray], rollback: Rollback = ONLY_ERRORS, period: int = 1) -> set[str]:
    return set(worse_arms({"control": arm(200, 0)} | arms, "control", rollback, len(arms), period))


@pytest.mark.parametrize(
    ("requests", "errors", "is_stopped"),
    [
        (4, 4, False),
        (5, 5, True),  # an arm that only fails
        (100, 0, False),
        (100, 5, False),
        (100, 30, True),
    ],
)
def test_an_arm_is_stopped_once_it_is_certainly_worse(requests: int, errors: int, is_stopped: bool) -> None:
    assert (stopped({"new": arm(requests, errors)}) == {"new"}) == is_stopped


def test_one_user_whose_requests_all_fail_stops_no_arm() -> None:
    assert stopped({"new": arm(1000, 1000, units=1)}) == set()
    mixed = np.concatenate([arm(1000, 1000, units=1), arm(100, 0)])
    assert stopped({"new": mixed}) == set()
    assert stopped({"new": arm(1000, 1000)}) == {"new"}, "of different users"


def test_what_is_bad_in_the_control_too_stops_no_arm() -> None:
    assert stopped({"control": arm(200, 100), "new": arm(200, 110)}) == set()
    assert stopped({"control": arm(200, 0), "new": arm(200, 110)}) == {"new"}


def test_nothing_is_decided_without_a_control() -> None:
    assert worse_arms({"new": arm(100, 100)}, "control", ONLY_ERRORS, 1, 1) == {}
    assert worse_arms({"control": arm(100, 100)}, "control", ONLY_ERRORS, 0, 1) == {}


def test_a_measure_that_is_null_is_not_tested() -> None:
    arms = {"new": arm(200, 200)}
    assert stopped(arms, Rollback(error_rate=None)) == set()
    assert stopped(arms, Rollback(error_rate=None, attainment=None)) == set()


def test_missed_budgets_stop_an_arm_and_the_reason_has_the_figures() -> None:
    arms = {"control": arm(400, 0, budgets=1, missed=20), "new": arm(300, 0, budgets=1, missed=150)}
    assert worse_arms(arms, "control", Rollback(), 1, 1) == {
        "new": "50.0% of 300 budgets were missed, and 5.0% of 400 of the control's; 2.00% more are allowed"
    }


def test_a_margin_allows_what_it_says() -> None:
    arms = {"control": arm(2000, 20), "new": arm(2000, 180)}  # 1% and 9%
    assert stopped(arms, Rollback(error_rate=0.01)) == {"new"}
    assert stopped(arms, Rollback(error_rate=0.1)) == set()


def test_later_periods_and_more_arms_need_more_evidence() -> None:
    arms = {"new": arm(6, 6)}
    assert stopped(arms, period=1) == {"new"}
    assert stopped(arms, period=1000) == set()
    assert stopped({"new": arm(20, 20)}, period=1000) == {"new"}


def test_slow_answers_stop_an_arm_where_more_than_one_in_a_hundred_is_slow() -> None:
    def timed(answers: int, slow: int) -> np.ndarray:
        rows = np.zeros((answers, 6), dtype=np.int64)
        rows[:, [0, 4]] = 1
        rows[:slow, 5] = 1
        return rows

    rollback = Rollback(latency_p99=1.5)
    assert stopped({"control": timed(1000, 2), "new": timed(1000, 10)}, rollback) == set()
    assert stopped({"control": timed(1000, 2), "new": timed(1000, 100)}, rollback) == {"new"}


def test_the_bounds_are_those_of_the_beta_binomial_mixture() -> None:
    # 10 of 10: B(10.5, 0.5) ⁄ B(0.5, 0.5) = 0.1762, and 0.1762 ⁄ p¹⁰ = 20 at p = 0.6229.
    certain = Share(10.0, 10.0)
    assert certain.is_above(0.62, 0.05)
    assert not certain.is_above(0.626, 0.05)
    # 0 of 10 is the same from the other side.
    assert Share(0.0, 10.0).upper(0.05) == pytest.approx(1 - 0.6229, abs=2e-4)
    assert Share(0.0, 0.0).upper(0.05) == 1.0


def test_outcomes_that_differ_by_unit_count_for_fewer() -> None:
    one_each = Share.effective(np.array([1] * 10 + [0] * 90), np.full(100, 1))
    # Residuals 0.9 and -0.1, ÷ 0.99 each: (8.1 + 0.9) ⁄ 0.9801 = 9.183, and (9.183 + 1) ⁄ (9 + 1) = 1.0183.
    assert (one_each.bad, one_each.of) == (pytest.approx(10 / 1.0183, rel=1e-4), pytest.approx(100 / 1.0183, rel=1e-4))
    # 100 units of 10 requests; 10 units only fail. Residuals 9 and -1, ÷ 0.99 each: (10 * 81 + 90) ⁄ 0.9801 = 918.3,
    # and one more bad bucket of 10: (918.3 + 100) ⁄ (1000 * 0.1 * 0.9 + 10) = 10.183.
    by_unit = Share.effective(np.array([10] * 10 + [0] * 90), np.full(100, 10))
    assert (by_unit.bad, by_unit.of) == (pytest.approx(100 / 10.183, rel=1e-4), pytest.approx(1000 / 10.183, rel=1e-4))


def test_percentiles_come_from_bins_of_five_percent() -> None:
    assert [latency_bin(ms) for ms in (0.0, 0.5, 1.0, 1.04, 1.06, 2.0)] == [0, 0, 0, 1, 2, 15]  # ln 2 ⁄ ln 1.05 = 14.2
    assert latency_bin(1e9) == 299
    counts = np.zeros(300, dtype=np.int64)
    counts[10] = 199
    assert latency_p99(counts) is None
    counts[[10, 40]] = 980, 20
    assert latency_p99(counts) == pytest.approx(1.05**40)  # 7.04 ms
