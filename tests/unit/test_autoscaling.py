"""The autoscaling policy, on a clock that tests advance."""

import itertools
from dataclasses import dataclass, field

import pytest

from rankfleet.autoscaler.demand import History, Window
from rankfleet.autoscaler.policy import Decision, FleetScaler, GroupScaler, Observation
from rankfleet.autoscaler.reports import replica_report
from rankfleet.autoscaler.sharing import Claim, Resources, share
from rankfleet.core.autoscaling import Autoscaling
from rankfleet.estimates.load import LoadCounters, OfferedLoad, ReplicaLoad

SETTINGS = Autoscaling(
    utilisation=0.5, start_s=10, stable_s=20, panic_s=6, panic_hold_s=20, downscale_window_s=20, cooldown_s=5, drain_s=1
)


@dataclass
class Driven:
    """A group under a demand that a test sets, in requests of a millisecond, whose variance is negligible. Replicas
    run as soon as they are decided, unless `ready` says otherwise."""

    settings: Autoscaling = SETTINGS
    min_replicas: int = 1
    max_replicas: int = 20
    target: int = 1
    now: float = 1000.0
    ready: int | None = None
    backlog_s: float = 0.0
    complete: bool = True
    scaler: GroupScaler = field(default_factory=lambda: GroupScaler("g"))
    offered_s: float = 0.0
    seen: list[Decision] = field(default_factory=list)

    def run(self, seconds: float, demand: float, tick: float = 0.25) -> Decision:
        for _ in range(round(seconds / tick)):
            self.now += tick
            self.offered_s += demand * tick
            counts = LoadCounters(offered_load_s=self.offered_s, offered_load_squares=self.offered_s * 0.001)
            running = self.target if self.ready is None else self.ready
            observed = Observation(
                running,
                self.target,
                self.min_replicas,
                self.max_replicas,
                {"r": counts},
                self.backlog_s,
                complete=self.complete,
            )
            self.seen.append(self.scaler.decide(observed, self.settings, self.now))
            self.target = self.seen[-1].replicas
        return self.seen[-1]

    @property
    def targets(self) -> list[int]:
        return [decision.replicas for decision in self.seen]


def test_need_is_demand_over_utilisation() -> None:
    group = Driven()
    decision = group.run(60, 1.4)  # 1.4 ÷ 0.5 = 2.8
    assert (decision.replicas, decision.state) == (3, "steady")
    assert decision.need == pytest.approx(2.8)
    assert decision.reason == (
        "enough for the load: demand of 1.40 s of work per second and a backlog of 0.00 s need 2.80 replicas; "
        "3 run, device load 0.00"
    )


def test_a_backlog_is_drained_in_drain_s_or_in_the_time_that_a_replica_takes_to_start() -> None:
    # 20 s wait; drain_s is 1, but no replica is there before 10 s: 20 ÷ 10 = 2 more.
    group = Driven(backlog_s=20.0)
    assert group.run(60, 1.4).need == pytest.approx(2.8 + 2.0)
    slow = Driven(backlog_s=20.0, settings=SETTINGS.model_copy(update={"drain_s": 40.0}))
    assert slow.run(60, 1.4).need == pytest.approx(2.8 + 0.5)


def test_settings_of_a_group_override_those_of_the_fleet() -> None:
    own = Autoscaling.model_validate(SETTINGS.model_dump() | {"groups": {"g": {"utilisation": 0.7, "drain_s": 50}}})
    assert Driven(settings=own, backlog_s=25.0).run(60, 1.4).need == pytest.approx(2.0 + 0.5)


def test_the_first_second_of_reports_decides_nothing() -> None:
    decision = Driven(target=3).run(0.75, 9.0)
    assert (decision.replicas, decision.state) == (3, "starting")


@pytest.mark.parametrize(("demand", "replicas"), [(0.5, 1), (0.51, 2), (100.0, 20), (0.0, 1)])
def test_targets_stay_within_the_bounds(demand: float, replicas: int) -> None:
    assert Driven().run(60, demand).replicas == replicas


def test_a_fourfold_step_is_answered_within_two_seconds() -> None:
    group = Driven(target=2)
    group.run(60, 1.0)
    assert group.target == 2
    before = len(group.seen)
    group.ready = 2
    group.run(2, 4.0)
    assert group.seen[before + 4].replicas == 4  # within 1.25 s, up to the panic threshold
    assert (group.target, group.seen[-1].state) == (4, "panic")
    group.run(5, 4.0)
    assert group.target == 8


def test_one_large_request_is_no_surge() -> None:
    # A request of 2 s of work at a group of 2 replicas under half its capacity. In the window of 1 s demand is 2.5, but
    # the standard error of 1.0 is √(1 · 2 ÷ 1) = 1.4: not significant.
    scaler, offered_s, squares = GroupScaler("g"), 0.0, 0.0
    for tick in range(200):
        offered_s, squares = offered_s + 0.125, squares + 0.000125
        if tick == 150:
            offered_s, squares = offered_s + 2.0, squares + 4.0
        seen = Observation(2, 2, 1, 9, {"r": LoadCounters(offered_load_s=offered_s, offered_load_squares=squares)})
        assert scaler.decide(seen, SETTINGS, tick / 4).replicas == 2


def test_nothing_shrinks_in_panic() -> None:
    group = Driven(target=2)
    group.run(60, 1.0)
    group.ready = 2
    group.run(7, 4.0)
    group.ready = None
    group.run(10, 0.1)  # the surge is over, the panic is not: it lasts for panic_hold_s after its last sign
    assert (group.target, group.seen[-1].state) == (8, "panic")
    group.run(60, 0.1)
    assert group.target == 1
    panic = [d for d in group.seen if d.state == "panic"]
    assert [a.replicas <= b.replicas for a, b in itertools.pairwise(panic)] == [True] * (len(panic) - 1)


def test_a_group_shrinks_to_its_highest_recent_need_with_a_margin() -> None:
    group = Driven(target=1)
    group.run(60, 2.0)
    assert group.target == 4
    start = len(group.seen)
    group.run(100, 1.0)
    assert group.target == 3  # 2.0 × 1.1 needs three; at two it would grow again at the smallest rise
    first = next(i for i, d in enumerate(group.seen[start:]) if d.replicas < 4)
    # Its mean over 20 s has fallen to 2.7 ÷ 1.1 … after about 16 s, and was above that until then: 20 s more.
    assert 30 < first / 4 < 40
    assert group.targets[start:] == sorted(group.targets[start:], reverse=True)


def test_a_group_does_not_shrink_within_its_cooldown() -> None:
    settings = SETTINGS.model_copy(update={"downscale_window_s": 0.0, "cooldown_s": 100.0, "stable_s": 2.0})
    group = Driven(settings=settings)
    group.run(20, 3.0)
    assert group.target == 6
    group.run(75, 0.1)
    assert (group.target, group.seen[-1].state) == (6, "holding")
    group.run(15, 0.1)
    assert group.target == 1


def test_the_target_of_a_group_under_steady_load_does_not_change() -> None:
    group = Driven()
    group.run(60, 1.4)
    before = len(group.seen)
    group.run(1800, 1.4)
    assert set(group.targets[before:]) == {3}


def test_a_rarely_used_group_goes_to_sleep_and_is_woken_by_demand() -> None:
    settings = SETTINGS.model_copy(update={"idle_s": 60.0, "idle_utilisation": 0.05})
    group = Driven(settings=settings, min_replicas=0, target=1)
    group.run(59, 0.02)
    assert group.target == 1
    group.run(5, 0.02)
    assert (group.target, group.seen[-1].state) == (0, "asleep")
    group.run(60, 0.04)  # below what wakes it, above what let it go
    assert group.target == 0
    decision = group.run(20, 0.1)
    assert (decision.replicas, decision.state) == (1, "steady")
    assert any(d.state == "waking" for d in group.seen)
    group.run(40, 0.0)
    assert group.target == 1  # not yet 60 s since it woke
    group.run(60, 0.0)
    assert group.target == 0


def test_a_backlog_keeps_a_group_awake() -> None:
    settings = SETTINGS.model_copy(update={"idle_s": 30.0})
    assert Driven(settings=settings, min_replicas=0, backlog_s=0.1).run(200, 0.0).replicas == 1


def test_missing_reports_do_not_shrink_a_group() -> None:
    group = Driven(target=6)
    group.run(60, 3.0)
    group.complete = False
    assert group.run(600, 0.0).state == "silent"
    assert group.target == 6
    assert "some reports are missing" in group.seen[-1].reason


def test_counters_that_are_new_or_reset_count_from_then_on() -> None:
    history = History(60)
    history.add({"a": LoadCounters(offered_load_s=500.0)}, 0.0, 0.0)
    history.add({"a": LoadCounters(offered_load_s=502.0), "b": LoadCounters(offered_load_s=900.0)}, 4.0, 2.0)
    history.add({"a": LoadCounters(offered_load_s=1.0), "b": LoadCounters(offered_load_s=902.0)}, 0.0, 4.0)
    # 2 s of a and 2 s of b in 4 s; a has restarted.
    assert history.over(60).demand == pytest.approx(1.0)
    assert history.over(60).backlog_s == pytest.approx(2.0)  # 0 for 2 s, 4 for 2 s
    assert history.over(2).demand == pytest.approx(1.0)


@pytest.mark.parametrize(("offered_s", "arrived_s", "device_s"), [(6.0, 4.0, 2.0), (2.0, 6.0, 4.0), (4.0, 2.0, 6.0)])
def test_demand_is_the_largest_of_offered_arrived_and_device_load(
    offered_s: float, arrived_s: float, device_s: float
) -> None:
    history = History(60)
    history.add({"r": LoadCounters(), "s": LoadCounters()}, 0.0, 0.0)
    replica = LoadCounters(arrived_load_s=arrived_s, device_load_s=device_s)
    history.add({"r": LoadCounters(offered_load_s=offered_s), "s": replica}, 0.0, 2.0)
    assert history.over(60).demand == 3.0


def test_a_window_has_the_figures_of_all_sources() -> None:
    history = History(60)
    history.add({"r": LoadCounters(), "s": LoadCounters()}, 0.0, 0.0)
    replica = LoadCounters(
        arrived_load_s=4.0, arrived_load_squares=8.0, device_load_s=3.0, served_load_s=4.0, downgraded_load_s=1.0
    )
    history.add({"r": LoadCounters(offered_load_s=2.0), "s": replica}, 0.0, 2.0)
    assert history.over(60) == Window(
        elapsed_s=2.0, demand=2.0, dispersion_s=2.0, device_load=1.5, downgraded_share=0.25, backlog_s=0.0
    )


def test_the_load_of_a_replica_is_counted_in_seconds() -> None:
    load = ReplicaLoad()
    load.arrived(300.0)
    load.arrived(100.0)
    assert load.backlog_s == pytest.approx(0.4)
    load.scored(300.0, 60.0, downgraded=True)
    load.left(300.0)
    load.scored(100.0, 100.0, downgraded=False)
    load.left(100.0)
    assert load.backlog_s == 0.0
    counters = load.counters
    assert (
        counters.arrived_load_s,
        counters.device_load_s,
        counters.served_load_s,
        counters.downgraded_load_s,
    ) == pytest.approx((0.4, 0.16, 0.4, 0.3))
    assert counters.arrived_load_squares == pytest.approx(0.09 + 0.01)


def test_a_replica_reports_its_counters_and_its_backlog() -> None:
    load = ReplicaLoad()
    load.arrived(2000.0)
    load.scored(2000.0, 500.0, downgraded=True)
    assert replica_report(17, load) == {
        "report": 17,
        "arrived_load_s": 2.0,
        "arrived_load_squares": 4.0,
        "device_load_s": 0.5,
        "served_load_s": 2.0,
        "downgraded_load_s": 2.0,
        "backlog_s": 2.0,
    }


def test_the_load_offered_to_a_router_is_counted_by_group() -> None:
    offered = OfferedLoad.of(["a", "b"])
    offered.add((("a", 30.0), ("b", 200.0)))
    assert offered.counters["b"] == LoadCounters(offered_load_s=0.2, offered_load_squares=pytest.approx(0.04))


ONE = Resources(gpus=1.0, cpus=1.0)


def claim(
    desired: int, need: float, min_replicas: int = 0, target: int = 0, drain_s: float = 1.0, replica: Resources = ONE
) -> Claim:
    return Claim(desired, min_replicas, target, need, drain_s, replica)


def test_within_the_budget_every_group_gets_its_desired_replicas() -> None:
    assert share({"a": claim(3, 2.5), "b": claim(2, 1.5)}, Resources(5, 100)) == {"a": 3, "b": 2}


def test_a_budget_that_is_short_is_shared_by_need() -> None:
    # 6 and 3 of 6 GPUs: by highest averages 6, 3, 3, 2, 2, 1.5 … → 4 and 2.
    assert share({"a": claim(6, 6.0), "b": claim(3, 3.0)}, Resources(6, 100)) == {"a": 4, "b": 2}


def test_every_group_gets_its_minimum_even_beyond_the_budget() -> None:
    assert share({"a": claim(9, 9.0), "b": claim(1, 0.0, min_replicas=1)}, Resources(1, 100)) == {"a": 0, "b": 1}
    assert share({"a": claim(2, 1.0, min_replicas=2), "b": claim(2, 1.0, min_replicas=2)}, Resources(1, 1)) == {
        "a": 2,
        "b": 2,
    }


def test_among_equal_needs_the_shorter_drain_time_goes_first() -> None:
    assert share({"a": claim(1, 1.0, drain_s=0.5), "b": claim(1, 1.0, drain_s=0.1)}, Resources(1, 9)) == {
        "a": 0,
        "b": 1,
    }


def test_a_replica_that_does_not_fit_leaves_room_for_smaller_ones() -> None:
    whole, quarter = Resources(1.0, 0.0), Resources(0.25, 0.0)
    claims = {"a": claim(3, 3.0, replica=whole), "b": claim(2, 0.5, replica=quarter)}
    assert share(claims, Resources(2.5, 9)) == {"a": 2, "b": 2}


def test_two_groups_do_not_swap_a_replica_back_and_forth() -> None:
    claims = {"a": claim(2, 1.5, target=1), "b": claim(2, 1.6, target=1)}
    assert share(claims, Resources(2, 9)) == {"a": 1, "b": 1}
    held = {"a": claim(2, 1.95, target=2), "b": claim(2, 2.0, target=0)}
    assert share(held, Resources(1, 9)) == {"a": 1, "b": 0}


def test_cpu_cores_are_a_budget_too() -> None:
    assert share({"a": claim(4, 4.0)}, Resources(9, 2)) == {"a": 2}


def test_a_fleet_shares_one_budget_and_its_reasons_say_so() -> None:
    scaler = FleetScaler()
    settings = SETTINGS.model_copy(update={"max_gpus": 4.0})
    decisions: dict[str, Decision] = {}
    targets = {"a": 1, "b": 1}
    for tick in range(1, 200):
        fleet = {
            name: Observation(
                targets[name], targets[name], 1, 9, {"r": LoadCounters(offered_load_s=tick * 0.25 * demand)}
            )
            for name, demand in (("a", 3.0), ("b", 0.9))
        }
        decisions = scaler.decide(fleet, {"a": ONE, "b": ONE}, settings, tick * 0.25)
        targets = {name: decision.replicas for name, decision in decisions.items()}
    assert targets == {"a": 3, "b": 1}  # 6 and 1.8 of 4
    assert decisions["a"].reason.endswith("; the common budget leaves 3")
    assert sum(targets.values()) <= 4


def test_dispersion_is_higher_where_work_comes_in_bursts() -> None:
    even, bursty = History(100), History(100)
    for tick in range(241):  # 60 s of 1 s of work per second: in every tick, or all at once in every fourth second
        now = tick * 0.25
        even.add({"r": LoadCounters(offered_load_s=now)}, 0.0, now)
        bursty.add({"r": LoadCounters(offered_load_s=4.0 * (tick // 16))}, 0.0, now)
    assert even.dispersion_s(30, 6) == pytest.approx(0.0)
    # Three seconds of none and one of 4 s: variance 3 · 32 ÷ 31, mean 1.
    assert bursty.dispersion_s(32, 6) == pytest.approx(3.0, rel=0.15)
    assert bursty.over(30, bursty.dispersion_s(32, 6)).dispersion_s == pytest.approx(3.0, rel=0.15)
    assert even.dispersion_s(5, 6) == 0.0  # fewer than ten seconds
