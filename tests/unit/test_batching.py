"""The four rules by which a replica forms its next batch."""

import math
from dataclasses import replace

import pytest

from rankfleet.core.sections import Routing
from rankfleet.estimates.arrivals import ArrivalStats
from rankfleet.estimates.frontier import Frontier
from rankfleet.replica.batching import SHORTEST_BATCH_MS, QueuedChunk, feasible_chunks, select_batch
from tests.unit.fakes import arrivals_of, tier_option

ROUTING = Routing(horizon=0.235, horizon_exponent=0.54)
# Typical budgets of 100 ms and no bursts: only deadlines bind. The step from small to medium has a price of
# 0.5 ÷ 30 ms · 100 ms = 1.67, that from medium to large 0.5 ÷ 120 ms · 100 ms = 0.42; for a fifth of the work 8.3, 2.1.
CALM = arrivals_of(100.0, 0.0)


def chunk(
    deadline_ms: float, size: float = 1.0, tokens: int = 10, tiers: int = 3, fixed_ms: float = 0.0
) -> QueuedChunk[str]:
    """small takes 10 ms · size, medium 40, large 160; their qualities are 0.5 apart."""
    times = (("small", 0.0, 10.0), ("medium", 0.5, 40.0), ("large", 1.0, 160.0))
    options = [tier_option(tier, quality, ms * size, fixed_ms) for tier, quality, ms in times[:tiers]]
    return QueuedChunk(tokens, deadline_ms / 1e3, Frontier.of(options), "")


def selected(
    *waiting: QueuedChunk[str], arrivals: ArrivalStats = CALM, max_tokens: int = 100
) -> tuple[str | None, tuple[int, ...]]:
    """Tier and batch at time 0."""
    decision = select_batch(waiting, arrivals, ROUTING, max_tokens, 0.0)
    return decision.tier, decision.batch


def test_all_chunks_are_feasible_that_are_in_time_one_after_the_other() -> None:
    assert feasible_chunks([chunk(10), chunk(20), chunk(30)], 0.0) == [0, 1, 2]


def test_the_largest_chunk_is_given_up_first() -> None:
    # 10 + 10 ms are too long for 14; without the first, 10 is in time, and 20 is for 24.
    assert feasible_chunks([chunk(12), chunk(14, size=0.5), chunk(24)], 0.0) == [1, 2]
    # 5 + 8 ms are too long for 12; without the second, 5 + 5 are in time for 14.
    assert feasible_chunks([chunk(10, size=0.5), chunk(12, size=0.8), chunk(14, size=0.5)], 0.0) == [0, 2]


def test_a_chunk_that_is_late_already_displaces_no_other() -> None:
    assert feasible_chunks([chunk(5, size=0.4), chunk(9), chunk(14)], 0.0) == [0, 2]


def test_a_single_chunk_pays_the_fixed_cost_of_its_batch() -> None:
    # 6 ms for the batch and 10 for the chunk.
    assert feasible_chunks([chunk(16, fixed_ms=6.0)], 0.0) == [0]
    assert feasible_chunks([chunk(15.9, fixed_ms=6.0)], 0.0) == []


@pytest.mark.parametrize(("deadline_ms", "tier"), [(10, "small"), (39, "small"), (40, "medium"), (160, "large")])
def test_a_chunk_alone_gets_the_best_tier_in_time(deadline_ms: float, tier: str) -> None:
    assert selected(chunk(deadline_ms)) == (tier, (0,))


def test_chunks_behind_the_first_have_to_be_in_time_too() -> None:
    # medium for both takes 80 ms. The second does not fit into the 50 ms of the first, so it is not in its batch.
    assert selected(chunk(50), chunk(80)) == ("medium", (0,))
    assert selected(chunk(50), chunk(60)) == ("small", (0, 1))


def test_small_chunks_get_larger_tiers_than_large_chunks() -> None:
    # At a price above 1.67 the first takes small and the second large, 10 + 32 ms. Two steps apart: not in one batch.
    assert selected(chunk(50), chunk(60, size=0.2)) == ("small", (0,))
    # For 30 ms the price is above 2.1: the second would take medium, one step away, and joins the batch at small.
    assert selected(chunk(28), chunk(30, size=0.2)) == ("small", (0, 1))
    assert selected(chunk(60, size=0.2)) == ("large", (0,))


def test_bursts_shorten_the_horizon() -> None:
    # 0.5 further arrivals at 10 a second: 50 ms. large takes 160, though the deadline is far.
    assert selected(chunk(10_000), arrivals=arrivals_of(100.0, 10.0)) == ("medium", (0,))
    # At 20 a second: 25 ms. At a price of 1.67 the horizon is 0.235 · 100 · 1.67^0.54 = 31 ms: small.
    assert selected(chunk(10_000), arrivals=arrivals_of(100.0, 20.0)) == ("small", (0,))
    # With budgets of 1,000 ms prices are ten times as high, and the horizon at 16.7 is 0.235 · 1000 · 4.6 = 1,074 ms.
    assert selected(chunk(10_000), arrivals=arrivals_of(1000.0, 20.0)) == ("large", (0,))


def test_a_stream_of_tiny_requests_shortens_the_horizon_of_no_large_one() -> None:
    # 20 tiny ones a second, or one of 1,024 tokens: horizons of 25 ms and of 500.
    stream = ArrivalStats(100.0, 100.0, (20.0, 5.0, 1.0, 0.2, 0.0, 0.0, 0.0))
    tiny, large = chunk(10_000, size=0.01, tokens=10), chunk(10_000, tokens=2000)
    assert selected(chunk(10_000), arrivals=stream) == ("small", (0,))
    assert selected(large, arrivals=stream) == ("large", (0,))
    assert selected(large, tiny, arrivals=stream) == ("large", (0,))
    assert selected(tiny, large, arrivals=stream) == ("large", (0,))
    assert selected(chunk(10_000), large, arrivals=stream) == ("small", (0,)), "before a large one it drains as before"


def test_a_batch_stays_within_its_tokens_and_the_deadline_of_its_first_chunk() -> None:
    three = [chunk(1000, tokens=40, tiers=1) for _ in range(3)]
    assert selected(*three) == ("small", (0, 1))
    assert selected(chunk(25, tiers=1), chunk(1000, tiers=1), chunk(1000, tiers=1)) == ("small", (0, 1))


def test_a_chunk_that_the_tier_may_not_score_waits() -> None:
    other = QueuedChunk(10, 1.0, Frontier.of([tier_option("other", 0.5, 10.0)]), "")
    assert selected(chunk(20, tiers=1), other, chunk(1000, tiers=1)) == ("small", (0, 2))


def test_best_effort_work_gets_the_best_tier_and_lowers_no_others() -> None:
    assert selected(chunk(math.inf), chunk(math.inf), arrivals=arrivals_of(100.0, 10.0)) == ("large", (0,))
    assert selected(chunk(40), chunk(math.inf)) == ("medium", (0,))


def test_no_tier_is_selected_if_no_chunk_is_feasible() -> None:
    decision = select_batch([chunk(5), chunk(6)], CALM, ROUTING, 100, 0.0)
    assert (decision.tier, decision.batch, decision.infeasible) == (None, (), (0, 1))
    assert decision.reason == "no waiting chunk can meet its deadline; 2 infeasible"


def test_a_decision_has_a_reason() -> None:
    decision = select_batch([chunk(5), chunk(40)], arrivals_of(100.0, 10.0), ROUTING, 100, 0.0)
    assert (
        decision.reason
        == "medium for a batch of 1, 40 ms: all waiting chunks have to be done within 50 ms; 1 infeasible"
    )


def test_of_what_can_wait_a_part_is_taken_that_takes_the_shortest_horizon() -> None:
    # Of 160 ms for 100 pairs: typical budgets are 100 ms, the shortest horizon is 23.5.
    def share(each: QueuedChunk[str], pairs: int, deficit_ms: float = 0.0) -> tuple[str | None, float, float]:
        decision = select_batch([replace(each, pairs=pairs)], CALM, ROUTING, 100, 0.0, deficit_ms)
        return decision.tier, decision.share, decision.predicted_ms

    for can_wait in (chunk(1e6), chunk(math.inf), replace(chunk(170), over_share=True)):
        assert share(can_wait, 100) == ("large", pytest.approx(23.5 / 160), pytest.approx(23.5))
    assert share(chunk(1e6), 2) == ("large", 0.5, 80.0)
    assert share(chunk(1e6), 1) == ("large", 1.0, 160.0)
    assert share(chunk(100, size=0.6), 100) == ("large", 1.0, 96.0), "no more time than the typical request"


def test_work_can_wait_that_has_more_time_than_is_typical_of_any_tenant() -> None:
    waiting = [replace(chunk(100, size=0.6), pairs=100), chunk(100, size=0.01)]
    decisions = [select_batch(waiting, replace(CALM, shortest_budget_ms=ms), ROUTING, 100, 0.0) for ms in (100, 60)]
    assert [decision.predicted_ms for decision in decisions] == [pytest.approx(97.6), pytest.approx(0.235 * 60)]


def test_budgets_of_milliseconds_make_no_part_as_short() -> None:
    waiting = [replace(chunk(1e6), pairs=100)]
    decision = select_batch(waiting, arrivals_of(4.0, 0.0), ROUTING, 100, 0.0)
    assert (decision.share, decision.predicted_ms) == (pytest.approx(SHORTEST_BATCH_MS / 160), SHORTEST_BATCH_MS)


def test_fixed_costs_are_no_more_than_a_sixth_of_a_part() -> None:
    waiting = [replace(chunk(1e6, fixed_ms=6.0), pairs=100)]
    decision = select_batch(waiting, arrivals_of(4.0, 0.0), ROUTING, 100, 0.0)
    assert (decision.share, decision.predicted_ms) == (pytest.approx(36 / 166), pytest.approx(36.0))


def test_best_effort_work_goes_first_once_its_deficit_covers_a_part() -> None:
    def batch(pairs: int, deficit_ms: float) -> tuple[int, ...]:
        waiting = [chunk(90, tiers=1), replace(chunk(math.inf, size=9, tiers=1), pairs=pairs)]
        return select_batch(waiting, CALM, ROUTING, 100, 0.0, deficit_ms).batch

    assert (batch(9, 23.4), batch(9, 23.5)) == ((0,), (1,))
    assert (batch(2, 44.9), batch(2, 45.0)) == ((0,), (1,))
    assert (batch(1, 89.9), batch(1, 90.0)) == ((0,), (1,)), "one pair cannot be cut"


def test_best_effort_work_goes_first_once_its_deficit_covers_it() -> None:
    waiting = [chunk(50, tiers=1), chunk(math.inf, tiers=1), chunk(math.inf, tiers=1)]
    batches = [
        select_batch(waiting, CALM, ROUTING, 100, 0.0, deficit_ms).batch for deficit_ms in (0.0, 9.9, 10.0, 20.0)
    ]
    # Each takes 10 ms, and the shortest horizon is 23.5. The batch takes no more than the deficit, and chunks with a
    # deadline do not join it.
    assert batches == [(0, 1), (0, 1), (1,), (1, 2)]


def test_a_deficit_is_of_no_use_without_best_effort_work() -> None:
    assert select_batch([chunk(5), chunk(40)], CALM, ROUTING, 100, 0.0, deficit_ms=1e9).batch == (1,)


def test_a_chunk_is_feasible_as_long_as_it_is_in_time_at_the_mean() -> None:
    # 20 ms at the 99th percentile, 10 at the mean.
    def chunk(slack_ms: float) -> QueuedChunk[str]:
        return QueuedChunk(10, slack_ms / 1e3, Frontier.of([tier_option("t", 0.5, 20.0, spread=2.0)]), "x")

    assert not chunk(10.0).is_infeasible(0.0)
    assert chunk(9.9).is_infeasible(0.0)
    assert chunk(10.0).latest_start_s == pytest.approx(0.0)
    assert feasible_chunks([chunk(10.0), chunk(20.0)], 0.0) == [0, 1]
    assert feasible_chunks([chunk(10.0), chunk(19.0)], 0.0) == [1]


def test_a_batch_in_time_at_the_mean_only_is_filled_by_mean_times() -> None:
    # A batch costs 12 ms and each chunk 2 at the 99th percentile, half of that at the mean; 10 ms are left.
    frontier = Frontier.of([tier_option("t", 0.5, 2.0, 12.0, 2.6, spread=2.0)])  # a twentieth of a full batch
    waiting = [QueuedChunk(5, 0.010, frontier, i) for i in range(3)]
    assert feasible_chunks(waiting, 0.0) == [0, 1, 2]
    assert select_batch(waiting, CALM, ROUTING, 100, 0.0).batch == (0, 1, 2)


def test_a_queue_in_time_at_the_mean_only_does_not_cost_the_first_chunk_its_tier() -> None:
    # Six chunks of 20 ms at the 99th percentile, 10 at the mean, are due in 110 ms. Before them is one of a quarter of
    # that size, whose medium tier takes 20 ms, or 10 at the mean.
    def chunk(deadline_ms: float, size: float) -> QueuedChunk[str]:
        times = (("small", 0.0, 20.0 * size), ("medium", 0.5, 80.0 * size))
        options = [tier_option(tier, quality, ms, spread=2.0) for tier, quality, ms in times]
        return QueuedChunk(10, deadline_ms / 1e3, Frontier.of(options), "")

    waiting = [chunk(100.0, 0.25), *(chunk(110.0, 1.0) for _ in range(6))]
    assert select_batch(waiting, CALM, ROUTING, 10, 0.0).tier == "medium"
