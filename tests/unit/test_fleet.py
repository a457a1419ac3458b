import pytest

from rankfleet.estimates.latency import LatencyModel
from rankfleet.router.fleet import REPORT_VALID_S, FleetView
from tests.unit.fakes import fleet


def test_ready_once_every_group_has_reported() -> None:
    view = FleetView(fleet())
    assert not view.ready
    view.update_latency({"small": LatencyModel(1, 0, 0), "medium": LatencyModel(1, 0, 0)})
    assert not view.ready
    view.update_latency({"large": LatencyModel(1, 0, 0)})
    assert view.ready


def test_a_group_that_may_be_asleep_is_not_waited_for() -> None:
    view = FleetView(fleet(groups={"demo": {"tiers": ["small", "medium", "large"], "replicas": {"min": 0, "max": 1}}}))
    assert view.ready


def test_work_in_flight_is_backlog() -> None:
    view = FleetView(fleet())
    first = view.chunk_sent("demo", 300.0, now_s=0.0)
    view.chunk_sent("demo", 200.0, now_s=0.0)
    assert view.snapshot(0.0).groups["demo"].backlog_s == pytest.approx(0.5)
    view.chunk_done("demo", first, now_s=0.0)
    assert view.snapshot(0.0).groups["demo"].backlog_s == pytest.approx(0.2)


def test_work_in_flight_drains_with_time() -> None:
    view = FleetView(fleet())
    first = view.chunk_sent("demo", 300.0, now_s=1.0)
    view.chunk_sent("demo", 200.0, now_s=1.1)
    # The first has run for 150 ms, the second waits behind it.
    assert view.snapshot(1.15).groups["demo"].backlog_s == pytest.approx(0.35)
    # Late, the first counts for nothing more.
    assert view.snapshot(2.0).groups["demo"].backlog_s == pytest.approx(0.2)
    view.chunk_done("demo", first, now_s=2.0)
    assert view.snapshot(2.05).groups["demo"].backlog_s == pytest.approx(0.15)


def test_backlog_is_per_replica() -> None:
    view = FleetView(fleet())
    view.replica_reported("demo", "r1", 0.0, 0.0)
    view.replica_reported("demo", "r2", 0.0, 0.0)
    view.chunk_sent("demo", 1000.0, now_s=0.1)
    assert view.snapshot(0.1).groups["demo"].backlog_s == pytest.approx(0.5)
    assert view.replicas("demo", 0.1) == 2


def test_what_replicas_report_counts_and_drains_with_time() -> None:
    view = FleetView(fleet())
    view.replica_reported("demo", "r1", 0.8, 10.0)
    assert view.snapshot(10.0).groups["demo"].backlog_s == pytest.approx(0.8)
    assert view.snapshot(10.5).groups["demo"].backlog_s == pytest.approx(0.3)
    assert view.snapshot(11.0).groups["demo"].backlog_s == 0.0


def test_a_replica_that_stops_reporting_is_forgotten() -> None:
    view = FleetView(fleet())
    view.replica_reported("demo", "r1", 0.0, 0.0)
    view.replica_reported("demo", "r2", 0.0, REPORT_VALID_S + 1)
    assert view.replicas("demo", REPORT_VALID_S + 1) == 1


def test_replicas_that_serve_always_keeps_count_before_they_report() -> None:
    kept = {"demo": {"tiers": ["small", "medium", "large"], "replicas": {"min": 4, "max": 4}}}
    view = FleetView(fleet(groups=kept))
    assert view.replicas("demo", 0.0) == 4
    view.replica_reported("demo", "r1", 0.0, 0.0)
    assert view.replicas("demo", 0.0) == 4
    assert view.awake("demo")


def test_a_profile_of_other_tiers_does_no_harm() -> None:
    view = FleetView(fleet())
    view.update_latency({"huge": LatencyModel(1, 0, 0)})
    assert view.models == {}


def test_without_late_binding_all_work_is_ahead() -> None:
    view = FleetView(fleet(groups={name: {"tiers": [name]} for name in ("small", "medium", "large")}))
    view.chunk_sent("large", 300.0, 0.0, deadline_s=1.0)
    view.chunk_sent("large", 100.0, 0.0, deadline_s=2.0)
    assert view.snapshot(0.0, deadline_s=1.5, min_ms=10.0).groups["large"].ahead_s == pytest.approx(0.4)


def test_with_late_binding_smaller_and_more_urgent_work_is_ahead() -> None:
    view = FleetView(fleet())
    view.chunk_sent("demo", 300.0, 0.0, deadline_s=1.0)
    view.chunk_sent("demo", 100.0, 0.0, deadline_s=1.0)
    view.chunk_sent("demo", 50.0, 0.0, deadline_s=2.0)
    assert view.snapshot(0.0, deadline_s=1.5, min_ms=200.0).groups["demo"].ahead_s == pytest.approx(0.1)
    assert view.snapshot(0.0).groups["demo"].ahead_s == pytest.approx(0.45)


def test_the_arrival_rate_is_that_at_one_replica() -> None:
    kept = {"demo": {"tiers": ["small", "medium", "large"], "replicas": {"min": 4, "max": 4}}}
    view = FleetView(fleet(groups=kept))
    view.request_arrived(100.0, 0.0)
    view.chunk_sent("demo", 5.0, 0.0)
    view.request_arrived(300.0, 0.0)
    arrivals = view.snapshot(0.0).groups["demo"].arrivals
    # Of 100 and 300 the lower quartile; the first met nobody, the second one arrival in 0.2 · 100 ms: 50 a second.
    assert arrivals.typical_budget_ms == 100.0
    assert arrivals.burst_rate_per_s == pytest.approx(25 / 4)


def test_serves_list_of_replicas_overrides_reports() -> None:
    view = FleetView(fleet(groups={"demo": {"tiers": ["small", "medium", "large"], "replicas": {"min": 0, "max": 4}}}))
    assert not view.awake("demo")  # nobody has said so
    assert not view.snapshot(0.0).groups["demo"].asleep
    view.replica_reported("demo", "r1", 0.0, 0.0)
    assert view.awake("demo")
    view.set_running("demo", frozenset(("r1", "r2", "r3")))
    assert (view.replicas("demo", 0.0), view.awake("demo")) == (3, True)
    view.set_running("demo", frozenset())
    assert (view.replicas("demo", 0.0), view.awake("demo")) == (1, False)
    assert view.snapshot(0.0).groups["demo"].asleep


def test_a_group_with_a_minimum_is_not_asleep_when_all_its_replicas_have_died() -> None:
    view = FleetView(fleet())
    view.set_running("demo", frozenset())
    assert not view.snapshot(0.0).groups["demo"].asleep


def test_replicas_that_serve_does_not_list_are_ignored() -> None:
    view = FleetView(fleet())
    view.replica_reported("demo", "r1", 0.4, 0.0)
    view.replica_reported("demo", "r2", 0.4, 0.0)
    view.set_running("demo", frozenset({"r2", "r3", "r4"}))
    assert view.replicas("demo", 0.0) == 3
    # r1 is gone with what it said; a last answer of its does not bring it back.
    view.replica_reported("demo", "r1", 0.4, 0.0)
    assert view.backlog_s("demo", 0.0) == pytest.approx(0.4 / 3)
    view.replica_lost("demo", "r2", 0.0)
    assert (view.replicas("demo", 0.0), view.backlog_s("demo", 0.0)) == (2, 0.0)
    view.set_running("demo", frozenset())
    assert view.replicas("demo", 0.0) == 1, "a plan needs one to come"


def test_a_group_is_awake_when_a_replica_runs() -> None:
    tiers = ["small", "medium", "large"]
    kept, let_go = ({"demo": {"tiers": tiers, "replicas": {"min": least, "max": 1}}} for least in (1, 0))
    before = FleetView(fleet(groups=kept))
    assert before.awake("demo")
    view = FleetView(fleet(groups=let_go), before=before)
    assert view.awake("demo"), "until it takes over"
    view.take_over()
    assert not view.awake("demo")
    assert view.ready
    view.set_running("demo", frozenset({"r1"}))
    assert view.awake("demo")


def test_work_of_the_same_size_is_ahead_only_under_lasting_overload() -> None:
    view = FleetView(fleet())
    for _ in range(4):
        view.chunk_sent("demo", 100.0, now_s=0.0, deadline_s=1.0)

    def ahead_s(now_s: float, min_ms: float) -> float | None:
        return view.snapshot(now_s, now_s + 0.5, min_ms).groups["demo"].ahead_s

    assert ahead_s(0.0, 100.0) == 0.0, "any of the four may be given up in its place"
    assert ahead_s(0.0, 101.0) == 0.0, "their deadlines are later"
    late = 1.1  # busy for more than twice the budget
    for _ in range(4):
        view.chunk_sent("demo", 100.0, now_s=late, deadline_s=late + 0.4)
    # Eight are out, one of them long overdue; four have an earlier deadline than the one that asks.
    backlog_s = view.backlog_s("demo", late)
    assert backlog_s == pytest.approx(0.7)
    assert ahead_s(late, 100.0) == pytest.approx(0.7)
    assert ahead_s(late, 81.0) == pytest.approx(0.7), "about as large"
    assert ahead_s(late, 79.0) == 0.0, "smaller ones still go before the large"


def test_work_of_other_routers_adds_to_this_routers_own() -> None:
    view = FleetView(fleet())
    view.chunk_sent("demo", 300.0, now_s=0.0)
    view.chunk_sent("demo", 200.0, now_s=0.0)
    view.replica_reported("demo", "r1", 0.8, 0.0, others_s=0.4)
    assert view.backlog_s("demo", 0.0) == pytest.approx(0.9)
    # A quarter of what the replica spoke of is done, so 0.3 of others' are left; of the 0.2 s that have passed five
    # eighths are taken to have been one's own, as 0.5 of the 0.8 that were there.
    assert view.backlog_s("demo", 0.2) == pytest.approx(0.3 + 0.5 - 0.125)
    # All that the replica spoke of is done, and the first of one's own.
    assert view.backlog_s("demo", 1.0) == pytest.approx(0.2)


def test_a_new_version_keeps_estimates_and_work_in_flight() -> None:
    before = FleetView(fleet(), {"small": "a1", "medium": "b1", "large": "c1"})
    before.update_latency({"a1": LatencyModel(1, 0, 0), "b1": LatencyModel(2, 0, 0), "c1": LatencyModel(3, 0, 0)})
    before.request_arrived(300.0, 0.0)
    before.chunk_sent("demo", 500.0, 0.0)
    # The small tier is another model from now on, which nobody has measured yet.
    view = FleetView(fleet(), {"small": "a2", "medium": "b1", "large": "c1"}, before)
    assert {tier: model.alpha_ms for tier, model in view.models.items()} == {"medium": 2, "large": 3}
    assert view.backlog_s("demo", 0.0) == pytest.approx(0.5)
    assert view.snapshot(0.0).groups["demo"].arrivals.typical_budget_ms == 300.0
    before.chunk_done("demo", view.chunk_sent("demo", 100.0, 0.0), 0.0)  # the books are the same
    assert view.backlog_s("demo", 0.0) == pytest.approx(0.5)
    view.update_latency({"a2": LatencyModel(9, 0, 0)})
    assert view.models["small"].alpha_ms == 9
    assert before.latency("small").alpha_ms == 1  # type: ignore[union-attr]
