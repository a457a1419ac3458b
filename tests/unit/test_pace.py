import math

import pytest

from rankfleet.core.sections import Routing
from rankfleet.scheduling.pace import Pace, PaceMeter

RULE = Routing(expected_arrivals=0.6, horizon=0.25, horizon_exponent=0.5, crowd_window=0.2, memory_s=30)


def test_short_budgets_count_most() -> None:
    meter = PaceMeter(RULE)
    meter.arrived(50.0, 0.0)
    meter.arrived(200.0, 0.0)
    assert meter.pace.budget_ms == pytest.approx(80)  # 2 ÷ (1/50 + 1/200)


def test_even_arrivals_are_as_crowded_as_they_are_frequent() -> None:
    meter = PaceMeter(RULE)
    for i in range(2000):
        meter.arrived(100.0, i * 0.01)
    # Every 10 ms, seen through a window that fades with 20 ms: 50 · e^-0.5 ÷ (1 − e^-0.5) = 77 a second.
    assert meter.pace.crowd_per_s == pytest.approx(77.1, abs=0.5)


def test_the_same_number_in_bursts_is_more_crowded() -> None:
    meter = PaceMeter(RULE)
    for i in range(200):
        for _ in range(10):
            meter.arrived(100.0, i * 0.1)
    # The k-th of ten meets k − 1 at 50 a second each, and e^-5 of the burst before: 225 in the mean.
    assert meter.pace.crowd_per_s == pytest.approx(228, abs=2)


def test_a_crowd_is_forgotten() -> None:
    meter = PaceMeter(RULE)
    for _ in range(100):
        meter.arrived(100.0, 0.0)
    meter.arrived(300.0, 3000.0)
    assert meter.pace.crowd_per_s == pytest.approx(0, abs=1e-9)
    assert meter.pace.budget_ms == pytest.approx(300)


def test_requests_without_a_budget_set_no_scale() -> None:
    meter = PaceMeter(RULE)
    meter.arrived(math.inf, 0.0)
    meter.arrived(math.inf, 0.0)
    assert meter.pace == Pace(math.inf, 0.0)
    assert meter.pace.horizon_ms(1.0, RULE) == math.inf


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
    assert Pace(100.0, crowd).horizon_ms(price, RULE) == pytest.approx(horizon_ms)


def test_who_asks_again_only_when_answered_makes_no_crowd() -> None:
    meter = PaceMeter(RULE)
    for i in range(100):
        meter.arrived(1000.0, i * 0.02, alone=True)
    assert meter.pace.crowd_per_s == 0
    assert meter.pace.horizon_ms(0.0, RULE) == math.inf
    meter.arrived(1000.0, 2.0)
    # One in company, which sees 5 · e^-0.1 ÷ (1 − e^-0.1) = 47.5 a second, out of 97.7 that are remembered.
    assert meter.pace.crowd_per_s == pytest.approx(0.486, abs=0.002)
