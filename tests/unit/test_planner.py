import pytest

from rankfleet.core.messages import Plan, Work
from rankfleet.routing.latency import LatencyModel
from rankfleet.routing.planner import Ask, FleetSnapshot, GroupState, Refusal, TierState, plan

# 1,000 tokens take 10, 40 and 160 ms.
TIERS = tuple(
    TierState(name, quality, "g", LatencyModel(0.0, per_token, 0.0))
    for name, quality, per_token in (("small", 0.3, 0.01), ("medium", 0.4, 0.04), ("large", 0.5, 0.16))
)
WORK = Work(10, 1000, 100_000)


def fleet(backlog_s: float = 0.0, replicas: int = 1, overhead_ms: float = 5.0) -> FleetSnapshot:
    return FleetSnapshot(TIERS, {"g": GroupState(replicas, backlog_s)}, overhead_ms)


@pytest.mark.parametrize(
    ("budget_ms", "tier", "predicted_ms"),
    [(15, "small", 15), (44, "small", 15), (45, "medium", 45), (165, "large", 165), (None, "large", 165)],
)
def test_the_best_tier_that_fits(budget_ms: float | None, tier: str, predicted_ms: float) -> None:
    decision = plan(Ask(WORK, 0.0, budget_ms), fleet(), 0.0)
    assert isinstance(decision, Plan)
    assert decision.tier == tier
    assert decision.predicted_ms == pytest.approx(predicted_ms)
    assert decision.fits


def test_what_waits_ahead_counts() -> None:
    decision = plan(Ask(WORK, 0.0, 165.0), fleet(backlog_s=0.1), 0.0)
    assert isinstance(decision, Plan)
    assert decision.tier == "medium"
    assert decision.predicted_ms == pytest.approx(145)


def test_time_already_spent_counts() -> None:
    decision = plan(Ask(WORK, arrived_s=10.0, budget_ms=165.0), fleet(), now_s=10.13)
    assert isinstance(decision, Plan)
    assert decision.tier == "small"


def test_replicas_share_the_work() -> None:
    decision = plan(Ask(WORK, 0.0, 45.0), fleet(replicas=4), 0.0)
    assert isinstance(decision, Plan)
    assert decision.tier == "large"
    assert decision.predicted_ms == pytest.approx(45)


def test_a_pinned_tier_is_taken_whether_it_fits_or_not() -> None:
    fits = plan(Ask(WORK, 0.0, 100.0, pinned="medium"), fleet(), 0.0)
    late = plan(Ask(WORK, 0.0, 100.0, pinned="large"), fleet(), 0.0)
    assert isinstance(fits, Plan)
    assert isinstance(late, Plan)
    assert (fits.tier, fits.fits) == ("medium", True)
    assert (late.tier, late.fits) == ("large", False)


def test_when_none_fits_the_fastest_answers_flagged() -> None:
    decision = plan(Ask(WORK, 0.0, 5.0), fleet(), 0.0)
    assert isinstance(decision, Plan)
    assert (decision.tier, decision.fits) == ("small", False)
    assert decision.reason == "no tier fits 5 ms; the fastest, small, would take 15 ms"


def test_when_none_fits_a_class_may_refuse_and_say_when() -> None:
    decision = plan(Ask(WORK, 0.0, 50.0, when_none_fits="refuse"), fleet(backlog_s=2.0), 0.0)
    # small would be done after 5 + 2000 + 10 ms, 1965 ms late.
    assert decision == Refusal(pytest.approx(1.965), "no tier fits 50 ms; the fastest, small, would take 2015 ms")


def test_the_plan_explains_itself() -> None:
    decision = plan(Ask(WORK, 0.0, 100.0), fleet(), 0.0)
    assert isinstance(decision, Plan)
    assert [(c.tier, c.verdict) for c in decision.considered] == [
        ("large", "too slow by 65 ms"),
        ("medium", "chosen"),
        ("small", "fits, but ranks worse"),
    ]
    assert decision.reason == "medium is the best that fits: predicted 45 of 100 ms; too slow: large"


def test_a_slow_tail_counts_as_slow() -> None:
    tiers = (TierState("only", 0.5, "g", LatencyModel(0.0, 0.1, 0.0, p99_factor=1.5)),)
    decision = plan(Ask(WORK, 0.0, 120.0), FleetSnapshot(tiers, {"g": GroupState(1, 0.0)}, 0.0), 0.0)
    assert isinstance(decision, Plan)
    assert not decision.fits


def test_before_any_measurement_the_best_tier_answers() -> None:
    tiers = tuple(TierState(t.name, t.quality, "g", None) for t in TIERS)
    decision = plan(Ask(WORK, 0.0, 50.0), FleetSnapshot(tiers, {"g": GroupState(1, 0.0)}, 5.0), 0.0)
    assert isinstance(decision, Plan)
    assert decision.tier == "large"
