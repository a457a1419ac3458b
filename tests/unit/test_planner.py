import math
from dataclasses import replace

import numpy as np
import pytest

from rankfleet.core.decisions import GivenOrder, Plan, Refusal, Stage
from rankfleet.core.pairs import MIN_CHUNK_TOKENS
from rankfleet.core.sections import Routing
from rankfleet.core.work import Work
from rankfleet.estimates.arrivals import ArrivalStats
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.lengths import Lengths
from rankfleet.estimates.quality import QualityTable
from rankfleet.router.plan_options import PlanRequest
from rankfleet.router.planner import plan
from rankfleet.router.snapshot import FleetSnapshot, GroupState, TierState, spread
from tests.unit.fakes import arrivals_of

# 1,000 tokens take 10, 40 and 160 ms.
TIERS = tuple(
    TierState(name, quality, "g", LatencyModel(0.0, per_token, 0.0))
    for name, quality, per_token in (("small", 0.3, 0.01), ("medium", 0.4, 0.04), ("large", 0.5, 0.16))
)
WORK = dict.fromkeys(("small", "medium", "large"), Work(10, 1000, 100_000))


def fleet(backlog_s: float = 0.0, replicas: int = 1, network_ms: float = 5.0) -> FleetSnapshot:
    return FleetSnapshot(TIERS, {"g": GroupState(replicas, backlog_s)}, network_ms)


@pytest.mark.parametrize(
    ("budget_ms", "tier", "predicted_ms"),
    [(15, "small", 15), (44, "small", 15), (45, "medium", 45), (165, "large", 165), (None, "large", 165)],
)
def test_the_best_tier_that_fits(budget_ms: float | None, tier: str, predicted_ms: float) -> None:
    decision = plan(PlanRequest(WORK, 0.0, budget_ms), fleet(), 0.0)
    assert isinstance(decision, Plan)
    assert decision.tier == tier
    assert decision.predicted_ms == pytest.approx(predicted_ms)
    assert decision.fits


def test_work_ahead_counts() -> None:
    decision = plan(PlanRequest(WORK, 0.0, 165.0), fleet(backlog_s=0.1), 0.0)
    assert isinstance(decision, Plan)
    assert decision.tier == "medium"
    assert decision.predicted_ms == pytest.approx(145)


def test_time_already_spent_counts() -> None:
    decision = plan(PlanRequest(WORK, arrived_s=10.0, budget_ms=165.0), fleet(), now_s=10.13)
    assert isinstance(decision, Plan)
    assert decision.tier == "small"


def test_replicas_share_work_that_is_worth_its_transfer() -> None:
    large = dict.fromkeys(WORK, Work(40, 4 * MIN_CHUNK_TOKENS, 0))
    # 8,192 tokens take 1,311 ms on one replica, 328 on four.
    decision = plan(PlanRequest(large, 0.0, 340.0), fleet(replicas=4), 0.0)
    assert isinstance(decision, Plan)
    assert decision.tier == "large"
    assert decision.predicted_ms == pytest.approx(5 + 8192 * 0.16 / 4)
    # 1,000 tokens go to one replica whole, however many there are.
    small = plan(PlanRequest(WORK, 0.0, 100.0), fleet(replicas=4), 0.0)
    assert isinstance(small, Plan)
    assert small.tier == "medium"


@pytest.mark.parametrize(
    ("tokens", "replicas", "chunks"), [(10, 8, 1), (4095, 8, 1), (4096, 8, 2), (99999, 8, 8), (0, 1, 1)]
)
def test_work_is_cut_into_one_chunk_per_replica_while_each_is_worth_it(tokens: int, replicas: int, chunks: int) -> None:
    assert spread(Work(1, tokens, 0), replicas) == chunks


def test_a_pinned_tier_is_taken_whether_it_fits_or_not() -> None:
    fits = plan(PlanRequest({"medium": WORK["medium"]}, 0.0, 100.0, pinned="name"), fleet(), 0.0)
    late = plan(PlanRequest({"large": WORK["large"]}, 0.0, 100.0, pinned="arm"), fleet(), 0.0)
    assert isinstance(fits, Plan)
    assert isinstance(late, Plan)
    assert (fits.tier, fits.fits, fits.reason) == ("medium", True, "medium is asked for by name")
    assert (late.tier, late.fits) == ("large", False)
    assert late.reason == "large is given by the experiment, though 165 ms are predicted and 100 allowed"


def test_each_tier_is_judged_by_its_own_work() -> None:
    work = WORK | {"large": Work(10, 100, 0)}  # cut short: 16 ms
    decision = plan(PlanRequest(work, 0.0, 44.0), fleet(), 0.0)
    assert isinstance(decision, Plan)
    assert (decision.tier, decision.predicted_ms) == ("large", pytest.approx(21))


def test_a_tier_not_measured_fits_no_budget_while_others_are() -> None:
    tiers = (*TIERS[:2], TierState("large", 0.5, "g", None))
    snapshot = FleetSnapshot(tiers, {"g": GroupState(1, 0.0)}, 5.0)
    decision = plan(PlanRequest(WORK, 0.0, 1000.0), snapshot, 0.0)
    assert isinstance(decision, Plan)
    assert decision.tier == "medium"
    assert decision.considered[0].verdict == "not measured yet"
    assert decision.reason.endswith("; not ready: large")
    free = plan(PlanRequest(WORK, 0.0), snapshot, 0.0)
    assert isinstance(free, Plan)
    assert free.tier == "large"


def test_when_nothing_fits_the_order_stays_as_given() -> None:
    decision = plan(PlanRequest(WORK, 0.0, 5.0), fleet(), 0.0)
    assert isinstance(decision, GivenOrder)
    assert (decision.tier, decision.fits) == (None, False)
    assert decision.degraded == "the order as given"
    assert decision.reason == "no tier fits 5 ms; the fastest, small, would take 15 ms; the order as given instead"
    late = plan(PlanRequest(WORK, -0.0003, 15.0), fleet(), 0.0)
    assert late.reason.startswith("no tier fits 15 ms; the fastest, small, would take 16 ms"), "15.3 does not fit 15"
    assert late.considered[0].verdict == "too slow by 151 ms"


def test_fewer_candidates_are_better_than_none() -> None:
    # 10 pairs of 100 tokens; small takes 1 ms each, medium 4, large 16; 7 ms are left.
    decision = plan(PlanRequest(WORK, 0.0, 12.0), fleet(), 0.0)
    assert isinstance(decision, Plan)
    # 7 of 10 by small are taken to be worth 0.3 × 0.7, 1 of 10 by medium 0.4 × 0.1.
    assert (decision.stages, decision.fits) == ((Stage.of("small", 7),), False)
    assert decision.quality == pytest.approx(0.21)
    assert decision.predicted_ms == pytest.approx(12)
    assert decision.degraded == "first 7 of 10"


def test_fewer_tokens_come_before_fewer_candidates() -> None:
    lengths = dict.fromkeys(WORK, Lengths(np.array([20] * 8 + [420] * 2)))
    decision = plan(PlanRequest(WORK, 0.0, 9.17, lengths=lengths), fleet(), 0.0)
    assert isinstance(decision, Plan)
    # Cut to 128 tokens: 8·20 + 2·128 = 416 tokens, 4.16 ms by small; to 129 it would be 4.18, and 4.17 are left.
    assert (decision.stages, decision.max_tokens) == ((Stage.of("small", 10),), 128)
    assert decision.predicted_ms == pytest.approx(9.16)
    assert decision.degraded == "128 tokens a pair"


def test_pairs_are_not_cut_to_their_prompt() -> None:
    tokens = np.array([20] * 8 + [420] * 2)

    def cut(frame: int) -> int | None:
        decision = plan(PlanRequest(WORK, 0.0, 9.17, lengths=dict.fromkeys(WORK, Lengths(tokens, frame))), fleet(), 0.0)
        assert isinstance(decision, Plan)
        return decision.max_tokens

    assert [cut(frame) for frame in (0, 96, 97)] == [128, 128, None]


def test_when_none_fits_a_class_may_refuse_and_say_when() -> None:
    decision = plan(PlanRequest(WORK, 0.0, 50.0, when_none_fits="refuse"), fleet(backlog_s=2.0), 0.0)
    assert isinstance(decision, Refusal)
    # small would be done after 5 + 2000 + 10 ms, 1965 ms late.
    assert (decision.cause, decision.retry_after_s) == ("load", pytest.approx(1.965))
    assert decision.reason == "no tier fits 50 ms; the fastest, small, would take 2015 ms"
    assert [c.verdict for c in decision.considered][-1] == "too slow by 1965 ms"


def test_the_plan_explains_itself() -> None:
    decision = plan(PlanRequest(WORK, 0.0, 100.0), fleet(), 0.0)
    assert isinstance(decision, Plan)
    assert [(c.tier, c.verdict) for c in decision.considered] == [
        ("large", "too slow by 65 ms"),
        ("medium", "chosen"),
        ("small", "fits, but ranks worse"),
    ]
    assert decision.reason == "medium is the best that fits: predicted 45 of 100 ms; too slow: large"


def test_predictions_are_at_the_99th_percentile() -> None:
    tiers = (TierState("only", 0.5, "g", LatencyModel(0.0, 0.1, 0.0, p99_factor=1.5)),)
    decision = plan(
        PlanRequest({"only": WORK["small"]}, 0.0, 120.0), FleetSnapshot(tiers, {"g": GroupState(1, 0.0)}, 0.0), 0.0
    )
    assert isinstance(decision, Plan)
    assert not decision.fits


def test_before_any_measurement_the_best_tier_answers() -> None:
    tiers = tuple(TierState(t.name, t.quality, "g", None) for t in TIERS)
    decision = plan(PlanRequest(WORK, 0.0, 50.0), FleetSnapshot(tiers, {"g": GroupState(1, 0.0)}, 5.0), 0.0)
    assert isinstance(decision, Plan)
    assert decision.tier == "large"


def test_only_work_served_first_is_ahead_of_a_request() -> None:
    # Of a second of work, a tenth has an earlier deadline and is smaller than the 10 ms of this at its cheapest tier.
    in_flight = tuple((5.0, 0.1) for _ in range(20)) + tuple((9.0, 0.2) for _ in range(100))
    group = GroupState(1, 1.0, in_flight, whole_tokens=500)  # too few for late binding
    snapshot = FleetSnapshot(TIERS, {"g": group}, 5.0)
    decision = plan(PlanRequest(WORK, 0.0, 165.0), snapshot, 0.0)
    assert isinstance(decision, Plan)
    assert (decision.tier, decision.predicted_ms) == ("medium", pytest.approx(145))


def test_a_plan_that_makes_others_late_is_not_taken() -> None:
    # Ten requests a second come: 0.62 arrivals are 62 ms. Prices per 500 ms of budget, qualities in shares of 0.2:
    # medium gains 0.5 in 30 ms, 8.3; large 0.5 in 120 ms, 2.1. Horizons by price: 0.25 · 500 · 8.3 ** 0.5 = 361 ms
    # and 0.25 · 500 · 2.1 ** 0.5 = 180 ms.
    rule = Routing(horizon=0.25, horizon_exponent=0.5)

    def decide(backlog_s: float) -> Plan:
        behind = ((backlog_s * 1e3, 9.0),)  # its deadline is later
        group = GroupState(1, backlog_s, behind, whole_tokens=500, arrivals=arrivals_of(500.0, 10.0))
        decision = plan(PlanRequest(WORK, 0.0, 500.0), FleetSnapshot(TIERS, {"g": group}, 5.0, rule=rule), 0.0)
        assert isinstance(decision, Plan)
        return decision

    assert [decide(s).tier for s in (0.015, 0.025, 0.315, 0.325)] == ["large", "medium", "medium", "small"]
    assert decide(0.025).considered[0].verdict == "would hold up those behind"
    assert decide(0.025).reason == "medium is the best that fits: predicted 45 of 500 ms; would hold up others: large"


def test_a_request_is_held_back_by_the_arrivals_of_its_own_size() -> None:
    # As above with a backlog of 325 ms. Ten requests come a second for one of 64 tokens, one for one of 256: half of
    # an arrival is 50 ms and 500. For a quarter of the work prices are four times as high: at 718 and 361 ms, medium
    # and its 10 ms fit, large and its 41 do not.
    def decide(work: dict[str, Work]) -> Plan:
        arrivals = ArrivalStats(500.0, 500.0, (10.0, 1.0, *[0.0] * 5))
        group = GroupState(1, 0.325, ((325.0, 9.0),), whole_tokens=500, arrivals=arrivals)
        rule = Routing(horizon=0.25, horizon_exponent=0.5)
        decision = plan(PlanRequest(work, 0.0, 500.0), FleetSnapshot(TIERS, {"g": group}, 5.0, rule=rule), 0.0)
        assert isinstance(decision, Plan)
        return decision

    assert decide(WORK).tier == "large"
    assert decide(dict.fromkeys(WORK, Work(1, 255, 0))).tier == "medium"


def test_min_quality_is_a_lower_bound() -> None:
    # 9 of 10 by medium would fit, and are taken to be worth 0.36.
    decision = plan(PlanRequest(WORK, 0.0, 44.0, min_quality=0.37), fleet(), 0.0)
    assert isinstance(decision, Refusal)
    assert (decision.cause, decision.considered[-1].verdict) == ("budget", "below the quality of 0.37 asked for")
    out_of_reach = plan(PlanRequest(WORK, 0.0, 1000.0, min_quality=0.6), fleet(), 0.0)
    assert isinstance(out_of_reach, Refusal)
    assert (out_of_reach.cause, out_of_reach.reason) == (
        "quality",
        "min_quality 0.6 is out of reach: the best here is 0.5, by large",
    )


def test_a_request_of_one_chunk_gets_late_binding() -> None:
    snapshot = FleetSnapshot(TIERS, {"g": GroupState(4, 0.0, whole_tokens=16384)}, 5.0)
    work = dict.fromkeys(WORK, Work(40, 4 * MIN_CHUNK_TOKENS, 0))
    decision = plan(PlanRequest(work, 0.0, 400.0, min_quality=0.35), snapshot, 0.0)
    assert isinstance(decision, Plan)
    # 8,192 tokens on one replica: medium takes 328 ms, large 1,311.
    assert (decision.tier, decision.stages[0].tiers) == ("medium", ("medium", "large"))
    assert plan(PlanRequest(work, 0.0, None, pinned="name"), snapshot, 0.0).stages[0].tiers == ("large",)  # type: ignore[union-attr]
    larger = dict.fromkeys(WORK, Work(80, 16385, 0))  # one token more than a batch
    assert plan(PlanRequest(larger, 0.0), snapshot, 0.0).stages[0].tiers == ("large",)  # type: ignore[union-attr]


TABLE = QualityTable(
    {"small": 0.3, "medium": 0.4, "large": 0.5},
    retriever=0.2,
    depths={"large": {5: 0.48, 10: 0.5}},
    cascades={("small", "large"): {4: 0.49}},
)


def test_a_cascade_is_a_plan_like_any_other() -> None:
    snapshot = FleetSnapshot(TIERS, {"g": GroupState(1, 0.0)}, 2.0, 3.0, TABLE)
    # 2 ms of network, small on 10 in 3 + 10 ms, then large on 4 in 3 + 64 ms.
    decision = plan(PlanRequest(WORK, 0.0, 82.0, max_stages=2), snapshot, 0.0)
    assert isinstance(decision, Plan)
    assert (decision.tier, decision.quality, decision.predicted_ms) == ("large", 0.49, pytest.approx(82))
    assert decision.stages == (Stage.of("small", 10), Stage.of("large", 4))
    assert decision.considered[1].how == "best 4 by small"
    # Who can make one pass only gets the first candidates by medium; large on 5 takes 5 + 80 ms.
    single = plan(PlanRequest(WORK, 0.0, 85.0), snapshot, 0.0)
    assert isinstance(single, Plan)
    assert (single.stages, single.quality) == ((Stage.of("large", 5),), 0.48)


def test_an_arm_may_fix_a_cascade() -> None:
    snapshot = FleetSnapshot(TIERS, {"g": GroupState(1, 0.0)}, 2.0, 3.0, TABLE)
    work = {tier: WORK[tier] for tier in ("small", "large")}
    request = PlanRequest(work, 0.0, 200.0, pinned="arm", max_stages=2, cascade=("small", "large", 5))
    # 2 ms of network, small on 10 in 3 + 10 ms, then large on 5 in 3 + 80 ms; the table knows the best 4.
    fits = plan(request, snapshot, 0.0)
    assert isinstance(fits, Plan)
    assert (fits.stages, fits.quality) == ((Stage.of("small", 10), Stage.of("large", 5)), 0.49)
    assert (fits.predicted_ms, fits.reason) == (pytest.approx(98), "large is given by the experiment")
    late = plan(replace(request, budget_ms=50.0), snapshot, 0.0)
    assert isinstance(late, Plan)
    assert (late.stages, late.fits) == (fits.stages, False)
    # Where the second tier would score all documents, the first has nothing to say.
    whole = plan(replace(request, cascade=("small", "large", 10)), snapshot, 0.0)
    assert isinstance(whole, Plan)
    assert whole.stages == (Stage.of("large", 10),)


def test_work_of_the_first_documents_and_of_cut_pairs() -> None:
    lengths = Lengths(np.array([3, 1, 5]))
    assert lengths.work == Work(3, 9, 35)
    assert lengths.cut(2) == Work(3, 5, 9)
    assert lengths.first(2) == Work(2, 4, 10)
    assert lengths.first(0) == Work(0, 0, 0)


def test_a_tier_that_is_asleep_counts_for_the_best_quality() -> None:
    table = QualityTable(TABLE.tiers, 0.2, {}, {}, {("small", "large"): {4: 0.6}})
    asleep = FleetSnapshot(TIERS, {"g": GroupState(1, 0.0, asleep=True)}, 5.0, table=table)
    decision = plan(PlanRequest(WORK, 0.0, 200.0, min_quality=0.55, max_stages=2), asleep, 0.0)
    assert isinstance(decision, Refusal)
    assert (decision.cause, decision.reason) == (
        "load",
        "no replica runs; one is being started, and 200 ms are not enough to wait for it",
    )
    beyond = plan(PlanRequest(WORK, 0.0, 200.0, min_quality=0.65, max_stages=2), asleep, 0.0)
    assert isinstance(beyond, Refusal)
    assert (beyond.cause, "the best here is 0.6, by large" in beyond.reason) == ("quality", True)


def test_a_tier_that_is_not_measured_is_not_exchanged_for_one_that_is() -> None:
    tiers = (TIERS[0], TierState("large", 0.5, "g", None))
    snapshot = FleetSnapshot(tiers, {"g": GroupState(1, 0.0, whole_tokens=8192)}, 5.0)
    decision = plan(PlanRequest({"small": WORK["small"], "large": WORK["large"]}, 0.0), snapshot, 0.0)
    assert isinstance(decision, Plan)
    assert decision.stages == (Stage("large", 10, ("large",)),)


@pytest.mark.parametrize(
    ("deadline_s", "min_ms", "now_s", "ahead_ms"),
    [
        (1.5, 200.0, 0.0, 100.0),  # of 300, 100 and 50 ms, those that are due first and are smaller
        (2.0, 200.0, 0.0, 150.0),
        (0.9, 200.0, 0.0, 0.0),
        (1.5, 100.0, 0.0, 0.0),  # one of its own size may be dropped in its place
        (1.5, 100.0, 0.6, 100.0),  # but not for longer than twice its budget
        (1.5, 100.0, 0.5, 0.0),
        (1.5, 81.0, 0.6, 100.0),  # 81 ms are about 100
        (1.5, 79.0, 0.6, 0.0),
        (math.inf, math.inf, 0.0, 450.0),
    ],
)
def test_of_the_work_in_flight_what_is_smaller_and_more_urgent_is_ahead(
    deadline_s: float, min_ms: float, now_s: float, ahead_ms: float
) -> None:
    in_flight = ((300.0, 1.0), (100.0, 1.0), (50.0, 2.0))
    group = GroupState(1, 0.45, in_flight, busy_since_s=-1.3, whole_tokens=1000)
    assert group.ahead_ms(deadline_s, min_ms, now_s) == pytest.approx(ahead_ms)
    one_tier = GroupState(1, 0.45, in_flight, busy_since_s=-1.3)
    assert one_tier.ahead_ms(deadline_s, min_ms, now_s) == pytest.approx(450.0), "all of it, however late it came"


def test_work_of_other_routers_is_taken_to_be_like_this_routers_own() -> None:
    group = GroupState(1, 0.9, ((100.0, 1.0), (200.0, 2.0)), whole_tokens=1000)
    assert group.ahead_ms(1.5, 150.0, 0.0) == pytest.approx(300.0), "a third of the 900 ms"
    assert GroupState(1, 0.9, whole_tokens=1000).ahead_ms(1.5, 150.0, 0.0) == pytest.approx(900.0), "all of it theirs"
