import math

import pytest

from rankfleet.core.sections import Routing
from rankfleet.estimates.arrivals import ArrivalStats
from rankfleet.estimates.frontier import TierOption, frontier_of
from rankfleet.replica.batching import Waiting, feasible, select_batch

RULE = Routing(horizon=0.235, horizon_exponent=0.54)
# Typical budgets of 100 ms, and nobody crowds: only deadlines bind. A step from small to medium then has a price of
# 0.5 ÷ 30 ms · 100 ms = 1.67, one from medium to large 0.5 ÷ 120 ms · 100 ms = 0.42; for a fifth of the work 8.3, 2.1.
CALM = ArrivalStats(100.0, 0.0)


def chunk(
    deadline_ms: float, size: float = 1.0, tokens: int = 10, tiers: int = 3, fixed_ms: float = 0.0
) -> Waiting[str]:
    """small takes 10 ms · size, medium 40, large 160; qualities lie 0.5 apart."""
    times = (("small", 0.0, 10.0), ("medium", 0.5, 40.0), ("large", 1.0, 160.0))
    options = [TierOption(tier, quality, fixed_ms, ms * size) for tier, quality, ms in times[:tiers]]
    return Waiting(tokens, deadline_ms / 1e3, frontier_of(options), "")


def bound(*waiting: Waiting[str], arrivals: ArrivalStats = CALM, max_tokens: int = 100) -> tuple[str, tuple[int, ...]]:
    found = select_batch(waiting, arrivals, RULE, max_tokens, 0.0)
    return found.tier, found.batch


def test_all_are_kept_that_can_be_in_time_one_after_the_other() -> None:
    assert feasible([chunk(10), chunk(20), chunk(30)], 0.0) == [0, 1, 2]


def test_the_largest_is_given_up_first() -> None:
    # 10 + 10 ms are too long for 15; without the first, 5 + 10 are not, and 10 more neither for 30.
    assert feasible([chunk(12), chunk(14, size=0.5), chunk(24)], 0.0) == [1, 2]
    assert feasible([chunk(10, size=0.5), chunk(12, size=0.8), chunk(14, size=0.5)], 0.0) == [0, 2]


def test_what_is_lost_already_costs_nobody_else_his_place() -> None:
    assert feasible([chunk(5, size=0.4), chunk(9), chunk(14)], 0.0) == [0, 2]


def test_a_single_chunk_pays_for_the_batch_once() -> None:
    assert feasible([chunk(16, fixed_ms=6.0)], 0.0) == [0]
    assert feasible([chunk(15.9, fixed_ms=6.0)], 0.0) == []


@pytest.mark.parametrize(("deadline_ms", "tier"), [(10, "small"), (39, "small"), (40, "medium"), (160, "large")])
def test_the_best_tier_in_time(deadline_ms: float, tier: str) -> None:
    assert bound(chunk(deadline_ms)) == (tier, (0,))


def test_those_behind_have_to_be_in_time_as_well() -> None:
    # medium for both would take 80 ms.
    assert bound(chunk(50), chunk(80)) == ("medium", (0,))  # the second does not fit into the first one's 50 ms
    assert bound(chunk(50), chunk(60)) == ("small", (0, 1))


def test_small_requests_get_larger_tiers_than_large_ones() -> None:
    # At 1.67 and above the first takes small; the second large, 32 ms: 42 in all. Two steps apart: no batch.
    assert bound(chunk(50), chunk(60, size=0.2)) == ("small", (0,))
    # For 30 ms the price is above 2.1: medium, one step away, joins at small.
    assert bound(chunk(28), chunk(30, size=0.2)) == ("small", (0, 1))
    assert bound(chunk(60, size=0.2)) == ("large", (0,))


def test_a_crowd_shortens_the_horizon() -> None:
    # 0.62 ÷ 10 a second: 62 ms. large would take 160, whatever the time left.
    assert bound(chunk(10_000), arrivals=ArrivalStats(100.0, 10.0)) == ("medium", (0,))
    # 0.62 ÷ 20 a second: 31 ms. At a price of 1.67 the horizon is 0.235 · 100 · 1.67^0.54 = 31 ms: small.
    assert bound(chunk(10_000), arrivals=ArrivalStats(100.0, 20.0)) == ("small", (0,))
    # With budgets of 1,000 ms prices are ten times as high, and the horizon at 16.7 is 0.235 · 1000 · 4.6 = 1,074 ms.
    assert bound(chunk(10_000), arrivals=ArrivalStats(1000.0, 20.0)) == ("large", (0,))


def test_a_batch_is_bounded_by_tokens_and_by_the_first_deadline() -> None:
    three = [chunk(1000, tokens=40, tiers=1) for _ in range(3)]
    assert bound(*three) == ("small", (0, 1))
    assert bound(chunk(25, tiers=1), chunk(1000, tiers=1), chunk(1000, tiers=1)) == ("small", (0, 1))


def test_a_chunk_that_may_not_have_the_tier_waits() -> None:
    other = Waiting(10, 1.0, frontier_of([TierOption("other", 0.5, 0.0, 10.0)]), "")
    assert bound(chunk(20, tiers=1), other, chunk(1000, tiers=1)) == ("small", (0, 2))


def test_without_a_deadline_the_best_tier_answers_and_holds_nobody_up() -> None:
    assert bound(chunk(math.inf), chunk(math.inf), arrivals=ArrivalStats(100.0, 10.0)) == ("large", (0,))
    # What has no deadline waits behind, and does not make the first take a smaller tier.
    assert bound(chunk(40), chunk(math.inf)) == ("medium", (0,))


def test_nothing_left_to_do() -> None:
    found = select_batch([chunk(5), chunk(6)], CALM, RULE, 100, 0.0)
    assert (found.batch, found.infeasible) == ((), (0, 1))
    assert found.reason == "nothing that waits can be in time; 2 given up"


def test_a_decision_says_why() -> None:
    found = select_batch([chunk(5), chunk(40)], ArrivalStats(100.0, 10.0), RULE, 100, 0.0)
    assert found.reason == "medium for 1 of what waits, 40 ms: all has to be done within 50 ms; 1 given up"


def test_what_is_owed_to_work_without_a_deadline_lets_it_lead() -> None:
    line = [chunk(50, tiers=1), chunk(math.inf, tiers=1), chunk(math.inf, tiers=1)]
    turns = [select_batch(line, CALM, RULE, 100, 0.0, deficit_ms).batch for deficit_ms in (0.0, 9.9, 10.0, 20.0)]
    # It takes 10 ms. No more of its kind join than is owed, and nobody else does.
    assert turns == [(0, 1, 2), (0, 1, 2), (1,), (1, 2)]


def test_nobody_leads_who_has_left_the_line() -> None:
    assert select_batch([chunk(5), chunk(40)], CALM, RULE, 100, 0.0, deficit_ms=1e9).batch == (1,)


def test_what_has_a_fair_chance_is_tried() -> None:
    # 20 ms at the 99th percentile, 10 as a rule.
    def chunk(slack_ms: float) -> Waiting[str]:
        return Waiting(10, slack_ms / 1e3, frontier_of([TierOption("t", 0.5, 0.0, 20.0, mean_over_p99=0.5)]), "x")

    assert not chunk(10.0).is_infeasible(0.0)
    assert chunk(9.9).is_infeasible(0.0)
    assert chunk(10.0).last_start_s == pytest.approx(0.0)
    assert feasible([chunk(10.0), chunk(20.0)], 0.0) == [0, 1]
    assert feasible([chunk(10.0), chunk(19.0)], 0.0) == [1]


def test_with_no_more_than_a_fair_chance_batches_are_as_full_as_without_doubt() -> None:
    # A batch costs 12 ms and each chunk 2 at the 99th percentile, half of that as a rule; 10 ms are left.
    steps = frontier_of([TierOption("t", 0.5, 12.0, 2.0, mean_over_p99=0.5)], share=0.05)
    waiting = [Waiting(5, 0.010, steps, i) for i in range(3)]
    assert feasible(waiting, 0.0) == [0, 1, 2]
    taken = select_batch(waiting, CALM, RULE, 100, 0.0)
    assert taken.batch == (0, 1, 2)


def test_a_queue_that_is_in_time_only_as_a_rule_does_not_cost_the_first_its_tier() -> None:
    # Six of 20 ms at the 99th percentile, 10 as a rule, are due in 110 ms. Before them goes one of a quarter of that,
    # whose medium tier takes 20 ms, or 10 as a rule.
    def chunk(deadline_ms: float, size: float) -> Waiting[str]:
        options = [TierOption("small", 0.0, 0.0, 20.0 * size, 0.5), TierOption("medium", 0.5, 0.0, 80.0 * size, 0.5)]
        return Waiting(10, deadline_ms / 1e3, frontier_of(options), "")

    waiting = [chunk(100.0, 0.25), *(chunk(110.0, 1.0) for _ in range(6))]
    assert select_batch(waiting, CALM, RULE, 10, 0.0).tier == "medium"
