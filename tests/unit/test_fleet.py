import json
import math
from pathlib import Path

import pytest

from rankfleet.core.config import FleetConfig
from rankfleet.core.work import Work
from rankfleet.estimates.latency import LatencyModel
from rankfleet.router.fleet import FleetView
from rankfleet.router.replica_record import Entry
from rankfleet.router.snapshot import GroupState
from tests.unit.fakes import fleet, ledgers

TIERS = ["small", "medium", "large"]


def view_of(config: FleetConfig | None = None) -> FleetView:
    config = config or fleet()
    return FleetView(config, ledgers(config))


def keeps(least: int, most: int) -> FleetConfig:
    """The fleet whose group has so many replicas."""
    return fleet(groups={"demo": {"tiers": TIERS, "replicas": {"min": least, "max": most}}})


def sent(view: FleetView, ms: float, now_s: float = 0.0, deadline_s: float = math.inf, group: str = "demo") -> Entry:
    """A chunk in flight."""
    entry = Entry(ms, deadline_s, now_s)
    view.ledgers[group].open(entry, now_s)
    return entry


def demo(view: FleetView, now_s: float = 0.0) -> GroupState:
    """The group as a decision sees it."""
    return view.snapshot(now_s).groups["demo"]


def test_ready_once_every_group_has_reported() -> None:
    view = view_of()
    assert not view.ready
    view.update_latency({"small": LatencyModel(1, 0, 0), "medium": LatencyModel(1, 0, 0)})
    assert not view.ready
    view.update_latency({"large": LatencyModel(1, 0, 0)})
    assert view.ready


def test_a_group_that_may_be_asleep_is_not_waited_for() -> None:
    assert view_of(keeps(0, 1)).ready


def test_backlog_is_per_replica() -> None:
    view = view_of()
    for name in ("r1", "r2"):
        view.ledgers["demo"].answered(name, 0.0, 0.0)
    sent(view, 1000.0, now_s=0.1)
    assert view.replicas("demo", 0.1) == 2
    assert (demo(view, 0.1).backlog_s, view.backlog_s("demo", 0.1)) == pytest.approx((0.5, 0.5))


def test_replicas_that_serve_always_keeps_count_before_they_report() -> None:
    view = view_of(keeps(4, 4))
    view.ledgers["demo"].answered("r1", 0.0, 0.0)
    assert (view.replicas("demo", 0.0), demo(view).replicas, view.awake("demo")) == (4, 4, True)


def test_a_profile_of_other_tiers_does_no_harm() -> None:
    view = view_of()
    view.update_latency({"huge": LatencyModel(1, 0, 0)})
    assert view.models == {}


def test_without_late_binding_all_work_is_ahead() -> None:
    view = view_of(fleet(groups={name: {"tiers": [name]} for name in TIERS}))
    sent(view, 300.0, deadline_s=1.0, group="large")
    sent(view, 100.0, deadline_s=2.0, group="large")
    assert view.snapshot(0.0).groups["large"].ahead_ms(1.5, 10.0, 0.0) == pytest.approx(400.0)


def test_with_late_binding_smaller_and_more_urgent_work_is_ahead() -> None:
    view = view_of()
    sent(view, 300.0, deadline_s=1.0)
    sent(view, 100.0, deadline_s=1.0)
    sent(view, 50.0, deadline_s=2.0)
    assert demo(view).ahead_ms(1.5, 200.0, 0.0) == pytest.approx(100.0)
    assert demo(view).ahead_ms(math.inf, math.inf, 0.0) == pytest.approx(450.0), "without a deadline, everything"


def test_the_arrival_rate_is_that_at_one_replica() -> None:
    view = view_of(keeps(4, 4))
    view.request_arrived(100.0, 500, 0.0)
    sent(view, 5.0)
    view.request_arrived(300.0, 500, 0.0)
    arrivals = demo(view).arrivals
    # Of 100 and 300 the lower quartile; the first met nobody, the second one arrival in 0.2 · 100 ms: 50 a second.
    assert arrivals.typical_budget_ms == 100.0
    assert arrivals.burst_rate_per_s(100) == pytest.approx(25 / 4)


def test_a_group_is_asleep_when_serve_says_that_no_replica_runs_and_none_is_kept() -> None:
    view = view_of(keeps(0, 4))
    assert (view.awake("demo"), view.asleep, demo(view).asleep) == (False, False, False), "Serve has not said so"
    view.ledgers["demo"].update(frozenset())
    assert (view.replicas("demo", 0.0), view.awake("demo"), view.asleep, demo(view).asleep) == (1, False, True, True)
    view.ledgers["demo"].update(frozenset(("r1", "r2", "r3")))
    assert (view.replicas("demo", 0.0), view.awake("demo"), view.asleep, demo(view).asleep) == (3, True, False, False)


def test_a_group_with_a_minimum_is_not_asleep_when_all_its_replicas_have_died() -> None:
    view = view_of()
    view.ledgers["demo"].update(frozenset())
    assert (demo(view).asleep, view.asleep) == (False, False)


def test_a_group_of_one_replica_that_loses_its_work_is_not_asleep() -> None:
    view = view_of(keeps(0, 1))
    view.ledgers["demo"].update(frozenset({"r1"}))
    view.ledgers["demo"].eject("r1", 0.0)
    assert (view.awake("demo"), view.asleep, demo(view).asleep, demo(view).replicas) == (True, False, False, 1)


def test_each_version_of_the_fleet_goes_by_its_own_minimum() -> None:
    before = view_of(keeps(1, 1))
    view = FleetView(keeps(0, 1), before.ledgers, before=before)
    assert (before.awake("demo"), view.awake("demo")) == (True, False)
    assert view.ready
    view.ledgers["demo"].update(frozenset({"r1"}))
    assert view.awake("demo")


def test_a_snapshot_has_the_qualities_of_ranked_or_of_unordered_candidates(tmp_path: Path) -> None:
    fused = {"weights": {"small": 1.5}, "tiers": {"small": 0.45}}
    (tmp_path / "table.json").write_text(json.dumps({"data_sets": {"mine": {"retriever": 0.42, "fused": fused}}}))
    for candidates, own in (("ranked", (0.45, 0.42)), ("unordered", (0.3, 0.0))):
        view = view_of(fleet(candidates=candidates, quality={"table": str(tmp_path / "table.json")}))
        view.update_latency({tier: LatencyModel(1, 0, 0) for tier in TIERS})
        seen = {}
        for ranked in (True, False, None):
            snapshot = view.snapshot(0.0, ranked)
            assert snapshot.tiers[0].latency is not None
            seen[ranked] = snapshot.tiers[0].quality, snapshot.quality.retriever
        assert seen == {True: (0.45, 0.42), False: (0.3, 0.0), None: own}
        # Replicas bind late by the fleet's own.
        assert view.own_quality["small"] == own[0]
        frontier = view.frontier(("small",), Work(1, 10, 100))
        assert frontier is not None
        assert frontier.points[0].quality == own[0]


def test_work_of_the_same_size_is_ahead_only_under_lasting_overload() -> None:
    view = view_of()
    for _ in range(4):
        sent(view, 100.0, deadline_s=1.0)

    def ahead_ms(now_s: float, min_ms: float) -> float:
        return demo(view, now_s).ahead_ms(now_s + 0.5, min_ms, now_s)

    assert ahead_ms(0.0, 100.0) == 0.0, "any of the four may be given up in its place"
    assert ahead_ms(0.0, 101.0) == 0.0, "their deadlines are later"
    late = 1.1  # busy for more than twice the budget
    for _ in range(4):
        sent(view, 100.0, now_s=late, deadline_s=late + 0.4)
    # Eight are in flight, at no replica yet; all have an earlier deadline than the one that asks.
    assert demo(view, late).backlog_s == pytest.approx(0.8)
    assert ahead_ms(late, 100.0) == pytest.approx(800.0)
    assert ahead_ms(late, 81.0) == pytest.approx(800.0), "about as large"
    assert ahead_ms(late, 79.0) == 0.0, "smaller ones still go before the large"


def test_a_new_version_keeps_estimates_and_work_in_flight() -> None:
    config = fleet()
    before = FleetView(config, ledgers(config), {"small": "a1", "medium": "b1", "large": "c1"})
    before.update_latency({"a1": LatencyModel(1, 0, 0), "b1": LatencyModel(2, 0, 0), "c1": LatencyModel(3, 0, 0)})
    before.request_arrived(300.0, 500, 0.0)
    sent(before, 500.0)
    # The small tier is now another model, which has not been measured.
    view = FleetView(config, before.ledgers, {"small": "a2", "medium": "b1", "large": "c1"}, before)
    assert {tier: model.alpha_ms for tier, model in view.models.items()} == {"medium": 2, "large": 3}
    assert view.backlog_s("demo", 0.0) == pytest.approx(0.5)
    assert demo(view).arrivals.typical_budget_ms == 300.0
    before.ledgers["demo"].close(sent(view, 100.0), 0.0)  # both views share what is in flight
    assert view.backlog_s("demo", 0.0) == pytest.approx(0.5)
    view.update_latency({"a2": LatencyModel(9, 0, 0)})
    assert view.models["small"].alpha_ms == 9
    assert before.latency("small").alpha_ms == 1  # type: ignore[union-attr]
