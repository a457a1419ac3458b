"""What a request would get on an idle fleet, and what follows from it: demand by group, and drain times."""

import numpy as np
import pytest

from rankfleet.autoscaler.drain import drain_times_s
from rankfleet.core.config import LiveSettings
from rankfleet.core.decisions import Decision, Plan, Refusal, Stage, UnloadedPlan
from rankfleet.core.work import Work
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.lengths import Lengths
from rankfleet.estimates.quality import QualityTable
from rankfleet.router.plan_options import PlanRequest
from rankfleet.router.planner import plan
from rankfleet.router.snapshot import FleetSnapshot, GroupState, TierState
from tests.unit.fakes import fleet as config

# Two groups. 1,000 tokens take 10, 40 and 160 ms, and each batch 8 ms more.
TIERS = tuple(
    TierState(name, quality, group, LatencyModel(8.0, per_token, 0.0))
    for name, quality, per_token, group in (
        ("small", 0.3, 0.01, "a"),
        ("medium", 0.4, 0.04, "a"),
        ("large", 0.5, 0.16, "b"),
    )
)
WORK = dict.fromkeys(("small", "medium", "large"), Work(10, 1000, 100_000))


def fleet(a_s: float = 0.0, b_s: float = 0.0, b_asleep: bool = False, **more: object) -> FleetSnapshot:
    groups = {
        "a": GroupState(1, a_s, whole_tokens=4000, batch_tokens=4000),
        "b": GroupState(1, b_s, asleep=b_asleep, batch_tokens=4000),
    }
    return FleetSnapshot(TIERS, groups, 5.0, **more)  # type: ignore[arg-type]


def planned(budget_ms: float | None, snapshot: FleetSnapshot, **more: object) -> Decision:
    return plan(PlanRequest(WORK, 0.0, budget_ms, **more), snapshot, 0.0)  # type: ignore[arg-type]


def test_backlog_changes_the_plan_but_not_the_unloaded_plan() -> None:
    for waiting_s in (0.0, 0.5, 100.0):
        decision = planned(200.0, fleet(b_s=waiting_s))
        # 160 ms, and a quarter of what a batch costs
        assert decision.unloaded == UnloadedPlan("large", (("b", pytest.approx(162.0)),))
    assert isinstance(decision, Plan)
    assert decision.tier == "medium"


def test_a_refusal_counts_as_offered_load() -> None:
    refusal = planned(60.0, fleet(a_s=5.0, b_s=5.0), when_none_fits="refuse")
    assert isinstance(refusal, Refusal)
    assert refusal.unloaded == UnloadedPlan("medium", (("a", pytest.approx(42.0)),))


def test_an_infeasible_request_is_no_offered_load() -> None:
    refusal = planned(20.0, fleet(), when_none_fits="refuse")
    assert isinstance(refusal, Refusal)
    assert refusal.unloaded is None


def test_of_a_degraded_plan_only_the_scored_part_is_offered_load() -> None:
    # Within 20 ms: 5 of overhead, 8 a batch, 7 for 700 tokens of seven pairs.
    decision = planned(20.0, fleet())
    assert isinstance(decision, Plan)
    assert decision.stages == (Stage.of("small", 7),)
    assert decision.unloaded == UnloadedPlan("small", (("a", pytest.approx(7.0 + 8.0 * 700 / 4000)),))


def test_a_group_that_is_asleep_still_gets_offered_load() -> None:
    decision = planned(200.0, fleet(b_asleep=True))
    assert isinstance(decision, Plan)
    assert decision.tier == "medium"
    assert decision.considered[0].verdict == "too slow by 19973 ms"  # it would have to start first
    assert decision.unloaded == UnloadedPlan("large", (("b", pytest.approx(162.0)),))


def test_a_request_that_names_a_sleeping_tier_waits_for_it() -> None:
    work = {"large": WORK["large"]}
    decision = plan(PlanRequest(work, 0.0, 200.0, pinned="name"), fleet(b_asleep=True), 0.0)
    assert isinstance(decision, Plan)
    assert decision.tier == "large"
    assert decision.unloaded == UnloadedPlan("large", (("b", pytest.approx(162.0)),))


def test_a_cascade_is_offered_load_of_both_groups() -> None:
    table = QualityTable({"small": 0.3, "medium": 0.4, "large": 0.5}, 0.1, cascades={("small", "large"): {5: 0.6}})
    lengths = dict.fromkeys(WORK, Lengths(np.full(10, 100)))
    decision = planned(None, fleet(table=table), max_stages=2, lengths=lengths)
    assert isinstance(decision, Plan)
    assert len(decision.stages) == 2
    # All ten by small; five, 500 tokens, by large.
    assert decision.unloaded == UnloadedPlan(None, (("a", pytest.approx(12.0)), ("b", pytest.approx(81.0))))


def test_min_quality_counts() -> None:
    assert planned(60.0, fleet(), min_quality=0.45, when_none_fits="refuse").unloaded is None


def drains(**scaling: object) -> dict[str, float]:
    settings = {"a": {"tiers": ["small", "medium"]}, "b": {"tiers": ["large"]}}
    classes = {"fast": {"slo_ms": 40}, "slow": {"slo_ms": 1000}, "batch": {"slo_ms": None}}
    models = {tier.name: tier.latency for tier in TIERS if tier.latency is not None}
    live = LiveSettings.model_validate({"slo_classes": classes, "autoscaling": scaling})
    return drain_times_s(config(groups=settings, network_ms=5), live, models)


def test_drain_times_follow_the_classes_that_a_group_can_serve() -> None:
    # 2,048 tokens take small 33.5 ms with the overhead, so it serves `fast`; large takes 340.7, so it does not.
    assert drains() == {"a": 0.02, "b": 0.5}
    assert drains(drain_share=0.25) == {"a": 0.01, "b": 0.25}


def test_without_a_class_or_a_model_there_is_no_drain_time() -> None:
    assert drain_times_s(config(), LiveSettings(), {}) == {}
