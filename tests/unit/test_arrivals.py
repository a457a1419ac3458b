"""Typical budgets, burst rates and the horizon."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankfleet.core.sections import MAX_SLO_MS, MIN_SLO_MS, Routing
from rankfleet.estimates.arrivals import REMEMBERED_BUDGETS, ArrivalMeter, ArrivalStats

ROUTING = Routing(expected_arrivals=0.6, horizon=0.25, horizon_exponent=0.5, arrival_window=0.2, memory_s=30)


def test_the_typical_budget_is_the_lower_quartile() -> None:
    meter = ArrivalMeter(ROUTING)
    for budget_ms in (400.0, 50.0, 200.0, 100.0, 1000.0, 300.0, 600.0, 150.0):
        meter.arrived(budget_ms, 0.0)
    assert meter.stats.typical_budget_ms == 150.0  # the third of eight


def test_a_client_with_few_requests_does_not_set_the_typical_budget() -> None:
    meter = ArrivalMeter(ROUTING)
    for i in range(1000):
        meter.arrived(0.2 if i % 5 == 0 else 200.0, i * 0.01)
    assert meter.stats.typical_budget_ms == 200.0


def test_a_burst_of_short_budgets_is_forgotten_though_few_requests_follow() -> None:
    meter = ArrivalMeter(ROUTING)
    for i in range(300):
        meter.arrived(14.0, i * 0.05)
    for at_s in (20.0, 40.0, 44.9):
        meter.arrived(200.0, at_s)
        assert meter.stats.typical_budget_ms == 14.0
    meter.arrived(200.0, 15.0 + ROUTING.memory_s)
    assert meter.stats.typical_budget_ms == 200.0


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
def test_any_arrivals_give_finite_stats_within_the_bounds(arrivals: list[tuple[float, float, bool]]) -> None:
    meter = ArrivalMeter(ROUTING)
    for budget_ms, now_s, found_idle in arrivals:
        meter.arrived(budget_ms, now_s, found_idle)
    stats = meter.stats
    assert stats.typical_budget_ms == math.inf or MIN_SLO_MS <= stats.typical_budget_ms <= MAX_SLO_MS
    assert 0 <= stats.burst_rate_per_s < math.inf
    assert stats.horizon_ms(1.0, ROUTING) > 0


def test_the_burst_rate_of_even_arrivals_is_near_their_rate() -> None:
    meter = ArrivalMeter(ROUTING)
    for i in range(2000):
        meter.arrived(100.0, i * 0.01)
    # Every 10 ms, seen through a window that fades with 20 ms: 50 · e^-0.5 ÷ (1 − e^-0.5) = 77 a second.
    assert meter.stats.burst_rate_per_s == pytest.approx(77.1, abs=0.5)


def test_the_burst_rate_of_the_same_arrivals_in_bursts_is_higher() -> None:
    meter = ArrivalMeter(ROUTING)
    for i in range(200):
        for _ in range(10):
            meter.arrived(100.0, i * 0.1)
    # The k-th of ten meets k − 1 at 50 a second each, and e^-5 of the burst before: 225 in the mean.
    assert meter.stats.burst_rate_per_s == pytest.approx(228, abs=2)


def test_a_burst_is_forgotten() -> None:
    meter = ArrivalMeter(ROUTING)
    for _ in range(100):
        meter.arrived(100.0, 0.0)
    meter.arrived(300.0, 3000.0)
    assert meter.stats.burst_rate_per_s == pytest.approx(0, abs=1e-9)
    for _ in range(REMEMBERED_BUDGETS):
        meter.arrived(300.0, 3001.0)
    assert meter.stats.typical_budget_ms == 300.0


def test_a_dense_stream_is_forgotten_though_few_requests_follow() -> None:
    meter, calm = ArrivalMeter(ROUTING), ArrivalMeter(ROUTING)
    for i in range(300):
        meter.arrived(100.0, i * 0.05)
    assert meter.stats.burst_rate_per_s > 4.0
    for i in range(101):
        for each in (meter, calm):
            each.arrived(100.0, 15.0 + i * 0.3)
        if i == 49:
            assert meter.stats.burst_rate_per_s > 3.0, "all of it is younger than memory_s"
    assert max(meter.stats.burst_rate_per_s, calm.stats.burst_rate_per_s) < 0.1


def test_requests_without_a_budget_leave_the_horizon_infinite() -> None:
    meter = ArrivalMeter(ROUTING)
    meter.arrived(math.inf, 0.0)
    meter.arrived(math.inf, 0.0)
    assert meter.stats == ArrivalStats(math.inf, 0.0)
    assert meter.stats.horizon_ms(1.0, ROUTING) == math.inf


@pytest.mark.parametrize(
    ("burst_rate_per_s", "price", "horizon_ms"),
    [
        (10.0, 0.0, 60.0),  # 0.6 ÷ 10 a second
        (10.0, 1.0, 60.0),  # 0.25 · 100 ms is less
        (10.0, 16.0, 100.0),  # 0.25 · 100 ms · √16
        (1000.0, 1.0, 25.0),
        (0.0, 1.0, math.inf),
    ],
)
def test_the_horizon_is_the_longer_of_two(burst_rate_per_s: float, price: float, horizon_ms: float) -> None:
    assert ArrivalStats(100.0, burst_rate_per_s).horizon_ms(price, ROUTING) == pytest.approx(horizon_ms)


def test_a_client_that_waits_for_each_answer_makes_no_burst() -> None:
    meter = ArrivalMeter(ROUTING)
    for i in range(100):
        meter.arrived(1000.0, i * 0.02, found_idle=True)
    assert meter.stats.burst_rate_per_s == 0
    assert meter.stats.horizon_ms(0.0, ROUTING) == math.inf
    meter.arrived(1000.0, 2.0)
    # One that meets others, at 5 · e^-0.1 ÷ (1 − e^-0.1) = 47.5 a second, out of 101.
    assert meter.stats.burst_rate_per_s == pytest.approx(0.4707, abs=0.001)
