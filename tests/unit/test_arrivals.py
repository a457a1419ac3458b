import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankfleet.core.sections import MAX_SLO_MS, MIN_SLO_MS, Routing
from rankfleet.estimates.arrivals import REMEMBERED, ArrivalMeter, ArrivalStats

RULE = Routing(expected_arrivals=0.6, horizon=0.25, horizon_exponent=0.5, arrival_window=0.2, memory_s=30)


def test_a_typical_budget_is_the_lower_quartile() -> None:
    meter = ArrivalMeter(RULE)
    for budget_ms in (400.0, 50.0, 200.0, 100.0, 1000.0, 300.0, 600.0, 150.0):
        meter.arrived(budget_ms, 0.0)
    assert meter.arrivals.budget_ms == 150.0  # the third of eight


def test_who_sends_few_requests_does_not_set_the_budget_of_all() -> None:
    meter = ArrivalMeter(RULE)
    for i in range(1000):
        meter.arrived(0.2 if i % 5 == 0 else 200.0, i * 0.01)
    assert meter.arrivals.budget_ms == 200.0


@given(
    st.lists(
        st.tuples(
            st.one_of(st.floats(), st.sampled_from([5e-324, 1e-310, 0.2, 1.0, 200.0, 1e308, math.inf, math.nan])),
            st.floats(-1e9, 1e9),
            st.booleans(),
        ),
        max_size=40,
    )
)
def test_whatever_comes_the_estimates_stay_numbers(arrivals: list[tuple[float, float, bool]]) -> None:
    meter = ArrivalMeter(RULE)
    for budget_ms, now_s, alone in arrivals:
        meter.arrived(budget_ms, now_s, alone)
    arrivals = meter.arrivals
    assert arrivals.budget_ms == math.inf or MIN_SLO_MS <= arrivals.budget_ms <= MAX_SLO_MS
    assert 0 <= arrivals.burst_rate_per_s < math.inf
    assert arrivals.horizon_ms(1.0, RULE) > 0


def test_even_arrivals_are_as_crowded_as_they_are_frequent() -> None:
    meter = ArrivalMeter(RULE)
    for i in range(2000):
        meter.arrived(100.0, i * 0.01)
    # Every 10 ms, seen through a window that fades with 20 ms: 50 · e^-0.5 ÷ (1 − e^-0.5) = 77 a second.
    assert meter.arrivals.burst_rate_per_s == pytest.approx(77.1, abs=0.5)


def test_the_same_number_in_bursts_is_more_crowded() -> None:
    meter = ArrivalMeter(RULE)
    for i in range(200):
        for _ in range(10):
            meter.arrived(100.0, i * 0.1)
    # The k-th of ten meets k − 1 at 50 a second each, and e^-5 of the burst before: 225 in the mean.
    assert meter.arrivals.burst_rate_per_s == pytest.approx(228, abs=2)


def test_a_crowd_is_forgotten() -> None:
    meter = ArrivalMeter(RULE)
    for _ in range(100):
        meter.arrived(100.0, 0.0)
    meter.arrived(300.0, 3000.0)
    assert meter.arrivals.burst_rate_per_s == pytest.approx(0, abs=1e-9)
    for _ in range(REMEMBERED):
        meter.arrived(300.0, 3001.0)
    assert meter.arrivals.budget_ms == 300.0


def test_requests_without_a_budget_set_no_scale() -> None:
    meter = ArrivalMeter(RULE)
    meter.arrived(math.inf, 0.0)
    meter.arrived(math.inf, 0.0)
    assert meter.arrivals == ArrivalStats(math.inf, 0.0)
    assert meter.arrivals.horizon_ms(1.0, RULE) == math.inf


@pytest.mark.parametrize(
    ("crowd", "price", "horizon_ms"),
    [
        (10.0, 0.0, 60.0),  # 0.6 ÷ 10 a second
        (10.0, 1.0, 60.0),  # 0.25 · 100 ms is less
        (10.0, 16.0, 100.0),  # 0.25 · 100 ms · √16
        (1000.0, 1.0, 25.0),
        (0.0, 1.0, math.inf),
    ],
)
def test_the_horizon_is_the_longer_of_two(crowd: float, price: float, horizon_ms: float) -> None:
    assert ArrivalStats(100.0, crowd).horizon_ms(price, RULE) == pytest.approx(horizon_ms)


def test_who_asks_again_only_when_answered_makes_no_crowd() -> None:
    meter = ArrivalMeter(RULE)
    for i in range(100):
        meter.arrived(1000.0, i * 0.02, alone=True)
    assert meter.arrivals.burst_rate_per_s == 0
    assert meter.arrivals.horizon_ms(0.0, RULE) == math.inf
    meter.arrived(1000.0, 2.0)
    # One in company, which sees 5 · e^-0.1 ÷ (1 − e^-0.1) = 47.5 a second, out of 97.7 that are remembered.
    assert meter.arrivals.burst_rate_per_s == pytest.approx(0.486, abs=0.002)
