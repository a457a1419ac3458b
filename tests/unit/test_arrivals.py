"""Typical budgets, burst rates and the horizon."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankfleet.core.sections import MAX_SLO_MS, MIN_SLO_MS, Routing
from rankfleet.estimates.arrivals import REMEMBERED_BUDGETS, SIZES, ArrivalMeter, ArrivalStats
from tests.unit.fakes import arrivals_of

ROUTING = Routing(expected_arrivals=0.6, horizon=0.25, horizon_exponent=0.5, arrival_window=0.2, memory_s=30)
WHOLE = SIZES[-1]  # tokens of requests that count in full for any other


def test_the_typical_budget_is_the_lower_quartile() -> None:
    meter = ArrivalMeter(ROUTING)
    for budget_ms in (400.0, 50.0, 200.0, 100.0, 1000.0, 300.0, 600.0, 150.0):
        meter.arrived(budget_ms, 0.0, WHOLE)
    assert meter.stats.typical_budget_ms == 150.0  # the third of eight


def test_a_client_with_few_requests_does_not_set_the_typical_budget() -> None:
    meter = ArrivalMeter(ROUTING)
    for i in range(1000):
        meter.arrived(0.2 if i % 5 == 0 else 200.0, i * 0.01, WHOLE)
    assert meter.stats.typical_budget_ms == 200.0


def test_a_burst_of_short_budgets_is_forgotten_though_few_requests_follow() -> None:
    meter = ArrivalMeter(ROUTING)
    for i in range(300):
        meter.arrived(14.0, i * 0.05, WHOLE)
    for at_s in (20.0, 40.0, 44.9):
        meter.arrived(200.0, at_s, WHOLE)
        assert meter.stats.typical_budget_ms == 14.0
    meter.arrived(200.0, 15.0 + ROUTING.memory_s, WHOLE)
    assert meter.stats.typical_budget_ms == 200.0


def test_the_shortest_budget_is_that_of_a_tenant_with_few_requests() -> None:
    meter = ArrivalMeter(ROUTING, default_slo_ms=200.0)
    for i in range(1000):
        tenant, budget_ms = ("few", 60.0) if i % 20 == 0 else ("many", 3.6e6)
        meter.arrived(budget_ms, i * 0.04, 1, tenant=tenant)
    assert (meter.stats.typical_budget_ms, meter.stats.shortest_budget_ms) == (200.0, 60.0)
    meter.arrived(3.6e6, 1000 * 0.04 + ROUTING.memory_s, 1, tenant="many")
    assert meter.stats.shortest_budget_ms == 200.0, "it has left"


def test_a_tenant_does_not_shorten_budgets_by_some_of_its_requests() -> None:
    meter = ArrivalMeter(ROUTING)
    for i in range(100):
        meter.arrived(1.0 if i % 10 == 0 else 200.0, i * 0.1, 1, tenant="a" if i % 2 == 0 else "b")
    assert meter.stats.shortest_budget_ms == 200.0


@given(
    st.lists(
        st.tuples(
            st.one_of(st.floats(), st.sampled_from([5e-324, 1e-310, 0.2, 1.0, 200.0, 1e308, math.inf, math.nan])),
            st.floats(-1e9, 1e9),
            st.integers(1, 10**7),
            st.booleans(),
            st.sampled_from([None, "a", "b"]),
        ),
        max_size=40,
    )
)
def test_any_arrivals_give_finite_stats_within_the_bounds(
    arrivals: list[tuple[float, float, int, bool, str | None]],
) -> None:
    meter = ArrivalMeter(ROUTING)
    for budget_ms, now_s, tokens, found_idle, tenant in arrivals:
        meter.arrived(budget_ms, now_s, tokens, found_idle, tenant)
    stats = meter.stats
    assert MIN_SLO_MS <= stats.shortest_budget_ms <= stats.typical_budget_ms
    assert stats.typical_budget_ms == math.inf or MIN_SLO_MS <= stats.typical_budget_ms <= MAX_SLO_MS
    assert all(0 <= rate < math.inf for rate in stats.burst_rates_per_s)
    assert all(stats.horizon_ms(1.0, ROUTING, tokens) > 0 for tokens in (1, WHOLE))


def test_the_burst_rate_of_even_arrivals_is_near_their_rate() -> None:
    meter = ArrivalMeter(ROUTING)
    for i in range(2000):
        meter.arrived(100.0, i * 0.01, WHOLE)
    # Every 10 ms, seen through a window that fades with 20 ms: 50 · e^-0.5 ÷ (1 − e^-0.5) = 77 a second.
    assert meter.stats.burst_rate_per_s(WHOLE) == pytest.approx(77.1, abs=0.5)


def test_the_burst_rate_of_the_same_arrivals_in_bursts_is_higher() -> None:
    meter = ArrivalMeter(ROUTING)
    for i in range(200):
        for _ in range(10):
            meter.arrived(100.0, i * 0.1, WHOLE)
    # The k-th of ten meets k − 1 at 50 a second each, and e^-5 of the burst before: 225 in the mean.
    assert meter.stats.burst_rate_per_s(WHOLE) == pytest.approx(228, abs=2)


def test_a_burst_is_forgotten() -> None:
    meter = ArrivalMeter(ROUTING)
    for _ in range(100):
        meter.arrived(100.0, 0.0, WHOLE)
    meter.arrived(300.0, 3000.0, WHOLE)
    assert meter.stats.burst_rate_per_s(WHOLE) == pytest.approx(0, abs=1e-9)
    for _ in range(REMEMBERED_BUDGETS):
        meter.arrived(300.0, 3001.0, WHOLE)
    assert meter.stats.typical_budget_ms == 300.0


def test_a_dense_stream_is_forgotten_though_few_requests_follow() -> None:
    meter, calm = ArrivalMeter(ROUTING), ArrivalMeter(ROUTING)
    for i in range(300):
        meter.arrived(100.0, i * 0.05, WHOLE)
    assert meter.stats.burst_rate_per_s(WHOLE) > 4.0
    for i in range(101):
        for each in (meter, calm):
            each.arrived(100.0, 15.0 + i * 0.3, WHOLE)
        if i == 49:
            assert meter.stats.burst_rate_per_s(WHOLE) > 3.0, "all of it is younger than memory_s"
    assert max(meter.stats.burst_rate_per_s(WHOLE), calm.stats.burst_rate_per_s(WHOLE)) < 0.1


def test_a_burst_is_forgotten_though_nothing_has_come_since() -> None:
    meter = ArrivalMeter(ROUTING, default_slo_ms=200.0)
    for _ in range(64):
        meter.arrived(50.0, 0.0, WHOLE, tenant="shop")
    burst = meter.at(30.0)
    assert (burst, burst.typical_budget_ms) == (meter.stats, 50.0)
    assert burst.burst_rate_per_s(WHOLE) > 1000
    assert meter.at(30.1) == meter.stats == ArrivalStats(200.0, 200.0)


def test_requests_without_a_budget_leave_the_horizon_infinite() -> None:
    meter = ArrivalMeter(ROUTING)
    meter.arrived(math.inf, 0.0, WHOLE)
    meter.arrived(math.inf, 0.0, WHOLE)
    assert meter.stats == ArrivalStats()
    assert meter.stats.horizon_ms(1.0, ROUTING, WHOLE) == math.inf


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
    assert arrivals_of(100.0, burst_rate_per_s).horizon_ms(price, ROUTING, WHOLE) == pytest.approx(horizon_ms)


def test_a_client_that_waits_for_each_answer_makes_no_burst() -> None:
    meter = ArrivalMeter(ROUTING)
    for i in range(100):
        meter.arrived(1000.0, i * 0.02, WHOLE, found_idle=True)
    assert meter.stats.burst_rate_per_s(WHOLE) == 0
    assert meter.stats.horizon_ms(0.0, ROUTING, WHOLE) == math.inf
    meter.arrived(1000.0, 2.0, WHOLE)
    # One that meets others, at 5 · e^-0.1 ÷ (1 − e^-0.1) = 47.5 a second, out of 101.
    assert meter.stats.burst_rate_per_s(WHOLE) == pytest.approx(0.4707, abs=0.001)


def test_arrivals_that_are_smaller_count_for_their_share_of_a_request_if_they_can_wait() -> None:
    def rates(tokens: int, budget_ms: float) -> list[float]:
        meter = ArrivalMeter(ROUTING, default_slo_ms=100.0)
        for i in range(2000):
            meter.arrived(budget_ms, i * 0.01, tokens)
        return [meter.stats.burst_rate_per_s(each) for each in (1, 64, 255, 256, 1024, 10**9)]

    # The same 77 a second as above; of 64 tokens, they are 77 ÷ 4 requests of 256 tokens, and 77 ÷ 16 of 1,024.
    assert rates(64, 101.0) == pytest.approx([77.1, 77.1, 77.1, 77.1 / 4, 77.1 / 16, 77.1 / 4**6], rel=0.01)
    assert rates(255, 101.0) == pytest.approx([77.1, 77.1, 77.1, 76.8, 19.2, 0.075], rel=0.01)
    assert rates(10**9, 101.0) == pytest.approx([77.1] * 6, rel=0.01), "none counts for more than one"
    assert rates(64, 100.0) == pytest.approx([77.1] * 6, rel=0.01), "behind a long batch it would be late"


def test_a_stream_of_tiny_requests_lowers_no_rate_of_larger_ones() -> None:
    def rate(others: bool) -> float:
        meter = ArrivalMeter(ROUTING, default_slo_ms=100.0)
        for i in range(2000):
            meter.arrived(100.0, i * 0.01, 4096)
            if others:
                meter.arrived(1000.0, i * 0.01, 16)
        return meter.stats.burst_rate_per_s(4096)

    assert rate(True) == pytest.approx(rate(False), rel=0.01)
