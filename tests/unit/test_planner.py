import pytest

from rankfleet.core.messages import Plan, Work
from rankfleet.routing.latency import LatencyModel
from rankfleet.routing.planner import MIN_CHUNK_TOKENS, Ask, FleetSnapshot, GroupState, Refusal, TierState, plan, spread

# 1,000 tokens take 10, 40 and 160 ms.
TIERS = tuple(
    TierState(name, quality, "g", LatencyModel(0.0, per_token, 0.0))
    for name, quality, per_token in (("small", 0.3, 0.01), ("medium", 0.4, 0.04), ("large", 0.5, 0.16))
)
WORK = dict.fromkeys(("small", "medium", "large"), Work(10, 1000, 100_000))


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


def test_replicas_share_work_that_is_worth_its_transfer() -> None:
    large = dict.fromkeys(WORK, Work(40, 4 * MIN_CHUNK_TOKENS, 0))
    # 8,192 tokens take 1,311 ms on one replica, 328 on four.
    decision = plan(Ask(large, 0.0, 340.0), fleet(replicas=4), 0.0)
    assert isinstance(decision, Plan)
    assert decision.tier == "large"
    assert decision.predicted_ms == pytest.approx(5 + 8192 * 0.16 / 4)
    # 1,000 tokens go to one replica whole, however many there are.
    small = plan(Ask(WORK, 0.0, 100.0), fleet(replicas=4), 0.0)
    assert isinstance(small, Plan)
    assert small.tier == "medium"


@pytest.mark.parametrize(
    ("tokens", "replicas", "chunks"), [(10, 8, 1), (4095, 8, 1), (4096, 8, 2), (99999, 8, 8), (0, 1, 1)]
)
def test_spread(tokens: int, replicas: int, chunks: int) -> None:
    assert spread(Work(1, tokens, 0), replicas) == chunks


def test_a_pinned_tier_is_taken_whether_it_fits_or_not() -> None:
    fits = plan(Ask({"medium": WORK["medium"]}, 0.0, 100.0, pinned="name"), fleet(), 0.0)
    late = plan(Ask({"large": WORK["large"]}, 0.0, 100.0, pinned="arm"), fleet(), 0.0)
    assert isinstance(fits, Plan)
    assert isinstance(late, Plan)
    assert (fits.tier, fits.fits, fits.reason) == ("medium", True, "medium is asked for by name")
    assert (late.tier, late.fits) == ("large", False)
    assert late.reason == "large is given by the experiment, though 165 ms are predicted and 100 allowed"


def test_each_tier_is_judged_by_its_own_work() -> None:
    work = WORK | {"large": Work(10, 100, 0)}  # cut short: 16 ms
    decision = plan(Ask(work, 0.0, 44.0), fleet(), 0.0)
    assert isinstance(decision, Plan)
    assert (decision.tier, decision.predicted_ms) == ("large", pytest.approx(21))


def test_a_tier_not_measured_fits_no_budget_while_others_are() -> None:
    tiers = (*TIERS[:2], TierState("large", 0.5, "g", None))
    snapshot = FleetSnapshot(tiers, {"g": GroupState(1, 0.0)}, 5.0)
    decision = plan(Ask(WORK, 0.0, 1000.0), snapshot, 0.0)
    assert isinstance(decision, Plan)
    assert decision.tier == "medium"
    assert decision.considered[0].verdict == "not measured yet"
    free = plan(Ask(WORK, 0.0), snapshot, 0.0)
    assert isinstance(free, Plan)
    assert free.tier == "large"


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
    decision = plan(Ask({"only": WORK["small"]}, 0.0, 120.0), FleetSnapshot(tiers, {"g": GroupState(1, 0.0)}, 0.0), 0.0)
    assert isinstance(decision, Plan)
    assert not decision.fits


def test_before_any_measurement_the_best_tier_answers() -> None:
    tiers = tuple(TierState(t.name, t.quality, "g", None) for t in TIERS)
    decision = plan(Ask(WORK, 0.0, 50.0), FleetSnapshot(tiers, {"g": GroupState(1, 0.0)}, 5.0), 0.0)
    assert isinstance(decision, Plan)
    assert decision.tier == "large"
