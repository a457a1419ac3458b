"""Leaving ranked candidates as they came is a plan like any other."""

import asyncio
import math

import pytest

from rankfleet.api.dialects.native_plan import plan_json
from rankfleet.api.dialects.native_replies import ranking_json
from rankfleet.core.decisions import GivenOrder, Plan, Refusal, Stage, UnloadedPlan
from rankfleet.core.messages import RerankRequest
from rankfleet.core.work import Work
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.quality import QualityTable
from rankfleet.router.plan_options import PlanRequest
from rankfleet.router.planner import plan
from rankfleet.router.snapshot import FleetSnapshot, GroupState, TierState
from tests.unit.fakes import FakeGroup, on_virtual_time, service

# 1,000 tokens take 10, 40 and 160 ms, and the way to the client 5.
QUALITIES = {"small": 0.3, "medium": 0.4, "large": 0.5}
TIERS = tuple(
    TierState(name, QUALITIES[name], "g", LatencyModel(0.0, per_token, 0.0))
    for name, per_token in (("small", 0.01), ("medium", 0.04), ("large", 0.16))
)
WORK = dict.fromkeys(QUALITIES, Work(10, 1000, 100_000))


def fleet(retriever: float, group: GroupState | None = None, **curves: object) -> FleetSnapshot:
    table = QualityTable(QUALITIES, retriever, **curves)  # type: ignore[arg-type]
    return FleetSnapshot(TIERS, {"g": group or GroupState(1, 0.0)}, 5.0, table=table)


@pytest.mark.parametrize("budget_ms", [None, 100.0, 5.0])
def test_if_every_tier_ranks_worse_the_order_given_is_complete(budget_ms: float | None) -> None:
    decision = plan(PlanRequest(WORK, 0.0, budget_ms), fleet(0.6), 0.0)
    assert isinstance(decision, GivenOrder)
    assert (decision.fits, decision.degraded, decision.quality, decision.predicted_ms) == (True, None, 0.6, 5.0)
    assert decision.reason == "no tier ranks better than the order that came in"
    assert [(each.tier, each.verdict) for each in decision.considered] == [
        (None, "chosen"),
        *((tier, "ranks worse than the order given") for tier in ("large", "medium", "small")),
    ]
    assert decision.unloaded is None, "no device is needed for it"


def test_a_tier_that_ranks_as_well_is_a_plan() -> None:
    decision = plan(PlanRequest(WORK, 0.0, 200.0), fleet(0.5), 0.0)
    assert isinstance(decision, Plan)
    assert (decision.tier, decision.reason) == ("large", "large ranks best and fits: predicted 165 of 200 ms")


@pytest.mark.parametrize("pinned", ["name", "arm", "default"])
def test_a_pinned_tier_is_taken_however_it_ranks(pinned: str) -> None:
    request = PlanRequest({"small": WORK["small"]}, 0.0, 100.0, pinned=pinned)  # type: ignore[arg-type]
    decision = plan(request, fleet(0.6), 0.0)
    assert isinstance(decision, Plan)
    assert (decision.tier, decision.fits, decision.considered[0].verdict) == ("small", True, "chosen")
    beyond = plan(PlanRequest({"small": WORK["small"]}, 0.0, 100.0, "name", min_quality=0.5), fleet(0.6), 0.0)
    assert isinstance(beyond, Refusal)
    assert beyond.reason.endswith("the best here is 0.3, by small"), "the order given is not what was asked for"


def test_a_tier_that_ranks_worse_is_not_taken_for_lack_of_time() -> None:
    # 3 ms are left: three candidates by small, which ranks worse, and none by medium.
    decision = plan(PlanRequest(WORK, 0.0, 8.0), fleet(0.35), 0.0)
    assert isinstance(decision, GivenOrder)
    assert (decision.fits, decision.degraded, decision.quality) == (False, "the order as given", 0.35)
    assert decision.reason == (
        "no tier that ranks as well as the order given fits 8 ms; the fastest, medium, would take 45 ms; "
        "the order as given instead"
    )
    verdicts = {(each.tier, each.how): each.verdict for each in decision.considered}
    assert verdicts["small", ""] == verdicts["small", "first 3 of 10"] == "ranks worse than the order given"
    # 15 ms would do for all by small, or for three by medium: 0.35 and three tenths of its gain of 0.05.
    some = plan(PlanRequest(WORK, 0.0, 20.0), fleet(0.35), 0.0)
    assert isinstance(some, Plan)
    assert (some.stages, some.quality) == ((Stage.of("medium", 3),), pytest.approx(0.365))


def test_less_that_ranks_worse_is_not_taken_either() -> None:
    # Within 28 ms medium scores five candidates, which the table knows to spoil the order, and large one, which changes
    # nothing.
    curves = {"medium": {5: 0.3, 10: 0.4}, "large": {5: 0.3, 10: 0.5}}
    decision = plan(PlanRequest(WORK, 0.0, 28.0), fleet(0.35, depths=curves), 0.0)
    assert isinstance(decision, GivenOrder)
    assert (decision.degraded, decision.quality) == ("the order as given", 0.35)


def test_a_class_that_refuses_refuses_rather_than_spoil_the_order() -> None:
    decision = plan(PlanRequest(WORK, 0.0, 20.0, when_none_fits="refuse"), fleet(0.35), 0.0)
    assert isinstance(decision, Refusal)
    assert (decision.cause, decision.unloaded) == ("budget", None)
    assert decision.reason == (
        "no tier that ranks as well as the order given fits 20 ms; "
        "the fastest, medium, would take 45 ms even on an idle fleet"
    )


def test_load_counts_with_what_an_idle_fleet_would_do() -> None:
    busy = fleet(0.35, GroupState(1, 1.0))
    refused = plan(PlanRequest(WORK, 0.0, 50.0, when_none_fits="refuse"), busy, 0.0)
    assert isinstance(refused, Refusal)
    assert (refused.cause, refused.unloaded) == ("load", UnloadedPlan("medium", (("g", pytest.approx(40.0)),)))


def test_late_binding_is_among_tiers_that_rank_as_well() -> None:
    snapshot = fleet(0.35, GroupState(1, 0.0, whole_tokens=4096))
    decision = plan(PlanRequest(WORK, 0.0, 200.0), snapshot, 0.0)
    assert isinstance(decision, Plan)
    assert decision.stages == (Stage("large", 10, ("medium", "large")),)


def test_the_order_given_counts_for_min_quality() -> None:
    beyond = plan(PlanRequest(WORK, 0.0, min_quality=0.7), fleet(0.6), 0.0)
    assert isinstance(beyond, Refusal)
    assert (beyond.cause, beyond.reason) == (
        "quality",
        "min_quality 0.7 is out of reach: the best here is 0.6, by the order given",
    )
    reached = plan(PlanRequest(WORK, 0.0, min_quality=0.55), fleet(0.6), 0.0)
    assert isinstance(reached, GivenOrder)
    assert reached.fits
    # medium does not fit, and less of it is not good enough; the order given is.
    rather = plan(PlanRequest(WORK, 0.0, 8.0, min_quality=0.33), fleet(0.35), 0.0)
    assert isinstance(rather, GivenOrder)
    assert rather.degraded == "the order as given"


def test_an_order_that_cannot_be_returned_in_time_is_late_or_refused() -> None:
    late = plan(PlanRequest(WORK, 0.0, 2.0), fleet(0.6), 0.0)
    assert isinstance(late, GivenOrder)
    assert (late.fits, late.degraded) == (False, "the order as given")
    why = "no tier ranks better than the order that came in, and 2 ms are not enough to return it"
    assert late.reason == f"{why}; the order as given instead"
    refused = plan(PlanRequest(WORK, 0.0, 2.0, when_none_fits="refuse"), fleet(0.6), 0.0)
    assert isinstance(refused, Refusal)
    assert (refused.cause, refused.reason) == ("budget", f"{why} even on an idle fleet")


def test_a_tier_that_is_not_measured_may_rank_better() -> None:
    tiers = (*TIERS[:2], TierState("large", 0.5, "g", None))
    snapshot = FleetSnapshot(tiers, {"g": GroupState(1, 0.0)}, 5.0, table=QualityTable(QUALITIES, 0.45))
    free = plan(PlanRequest(WORK, 0.0), snapshot, 0.0)
    assert isinstance(free, Plan)
    assert (free.tier, free.predicted_ms) == ("large", math.inf)
    bounded = plan(PlanRequest(WORK, 0.0, 100.0), snapshot, 0.0)
    assert isinstance(bounded, GivenOrder)
    assert not bounded.fits
    assert bounded.reason == "how long large takes has not been measured yet; the order as given instead"


@on_virtual_time
async def test_an_order_that_is_complete_is_answered_without_scoring_or_waking_a_group() -> None:
    group = FakeGroup()
    kept = {"demo": {"tiers": [*QUALITIES], "replicas": {"min": 0, "max": 1}}}
    one = service(group, candidates="ranked", quality={"retriever": 0.6}, groups=kept)
    one.fleet.ledgers["demo"].update(frozenset())
    asked = RerankRequest("cat", ["a", "a dog"], slo_ms=200)
    ranking = await one.rank(asked)
    await asyncio.sleep(0)
    assert group.chunks == []
    assert [(d.index, d.logit, d.score) for d in ranking.documents] == [(0, None, None), (1, None, None)]
    reply = ranking_json(ranking, None)["rankfleet"]
    assert (reply["tier"], reply["quality"], reply["stages"]) == ("none", 0.6, [])
    assert (reply["slo"]["degraded"], "degraded" in reply, "fusion" in reply) == (False, False, False)
    planned = plan_json(await one.explain(asked))
    assert (planned["tier"], planned["fits"], planned["degraded"]) == ("none", True, None)
    # Of unordered candidates any tier ranks better.
    one.fleet.ledgers["demo"].update(frozenset({"r1"}))
    unordered = await one.rank(RerankRequest("cat", ["a", "a dog"], candidates="unordered"))
    assert (unordered.plan.tier, unordered.plan.quality) == ("large", 0.5)
