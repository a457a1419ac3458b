"""The rule for the number of replicas, on a clock that tests advance."""

import itertools
from dataclasses import dataclass, field

import pytest

from rankfleet.autoscaler.demand import History, Window
from rankfleet.autoscaler.policy import Decision, FleetScaler, GroupScaler, Observed
from rankfleet.autoscaler.sharing import Claim, Unit, share
from rankfleet.core.sections import Autoscaling
from rankfleet.estimates.load import LoadCounters, OfferedLoad, ReplicaLoad

SETTINGS = Autoscaling(
    utilisation=0.5, start_s=10, stable_s=20, panic_s=6, panic_hold_s=20, hold_s=20, cooldown_s=5, drain_s=1
)


@dataclass
class Driven:
    """A group whose demand is exactly what a test says: work in pieces of a millisecond, which leaves nothing to
    chance. Replicas are there as soon as decided, unless `ready` says otherwise."""

    settings: Autoscaling = SETTINGS
    min_replicas: int = 1
    max_replicas: int = 20
    target: int = 1
    now: float = 1000.0
    ready: int | None = None
    backlog_s: float = 0.0
    heard: bool = True
    scaler: GroupScaler = field(default_factory=lambda: GroupScaler("g"))
    asked: float = 0.0
    seen: list[Decision] = field(default_factory=list)

    def run(self, seconds: float, demand: float, tick: float = 0.25) -> Decision:
        for _ in range(round(seconds / tick)):
            self.now += tick
            self.asked += demand * tick
            counts = LoadCounters(offered_load_s=self.asked, offered_load_squares=self.asked * 0.001)
            running = self.target if self.ready is None else self.ready
            observed = Observed(
                running,
                self.target,
                self.min_replicas,
                self.max_replicas,
                {"r": counts},
                self.backlog_s,
                heard=self.heard,
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
        "stay at 3: 1.40 s of work asked for per second, 0.00 s waiting, 0.00 s done per second; "
        "needs 2.80 replicas, 3 run"
    )


def test_backlog_is_to_be_drained_in_the_time_that_a_replica_takes_to_start() -> None:
    # 20 s wait; drain_s is 1, but no replica is there before 10 s: 20 ÷ 10 = 2 more.
    group = Driven(backlog_s=20.0)
    assert group.run(60, 1.4).need == pytest.approx(2.8 + 2.0)
    slow = Driven(backlog_s=20.0, settings=SETTINGS.model_copy(update={"drain_s": 40.0}))
    assert slow.run(60, 1.4).need == pytest.approx(2.8 + 0.5)


def test_a_group_may_have_settings_of_its_own() -> None:
    own = Autoscaling.model_validate(SETTINGS.model_dump() | {"groups": {"g": {"utilisation": 0.7, "drain_s": 50}}})
    assert Driven(settings=own, backlog_s=25.0).run(60, 1.4).need == pytest.approx(2.0 + 0.5)


def test_the_first_second_decides_nothing() -> None:
    decision = Driven(target=3).run(0.75, 9.0)
    assert (decision.replicas, decision.state) == (3, "starting")


@pytest.mark.parametrize(("demand", "replicas"), [(0.5, 1), (0.51, 2), (100.0, 20), (0.0, 1)])
def test_bounds(demand: float, replicas: int) -> None:
    assert Driven().run(60, demand).replicas == replicas


def test_a_fourfold_step_is_answered_within_two_seconds() -> None:
    group = Driven(target=2)
    group.run(60, 1.0)
    assert group.target == 2
    before = len(group.seen)
    group.ready = 2
    group.run(2, 4.0)
    assert group.seen[before + 4].replicas == 4  # within 1.25 s, as far as a part of the window is believed
    assert (group.target, group.seen[-1].state) == (4, "panic")
    group.run(5, 4.0)
    assert group.target == 8


def test_chance_is_no_surge() -> None:
    # One request of 2 s of work on a group of 2 replicas at half load. In the window of 1 s demand is 2.5, and chance
    # moves 1.0 by √(1 · 2 ÷ 1) = 1.4: no reason to grow.
    scaler, asked, squares = GroupScaler("g"), 0.0, 0.0
    for tick in range(200):
        asked, squares = asked + 0.125, squares + 0.000125
        if tick == 150:
            asked, squares = asked + 2.0, squares + 4.0
        seen = Observed(2, 2, 1, 9, {"r": LoadCounters(offered_load_s=asked, offered_load_squares=squares)})
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


def test_a_group_shrinks_to_the_most_it_needed_of_late_with_a_margin() -> None:
    group = Driven(target=1)
    group.run(60, 2.0)
    assert group.target == 4
    start = len(group.seen)
    group.run(100, 1.0)
    assert group.target == 3  # 2.0 × 1.1 needs three: at two it would grow again at any breath
    first = next(i for i, d in enumerate(group.seen[start:]) if d.replicas < 4)
    # Its mean over 20 s has fallen to 2.7 ÷ 1.1 … after about 16 s, and was above that until then: 20 s more.
    assert 30 < first / 4 < 40
    assert group.targets[start:] == sorted(group.targets[start:], reverse=True)


def test_a_group_that_has_grown_cools_down_before_it_shrinks() -> None:
    settings = SETTINGS.model_copy(update={"hold_s": 0.0, "cooldown_s": 100.0, "stable_s": 2.0})
    group = Driven(settings=settings)
    group.run(20, 3.0)
    assert group.target == 6
    group.run(75, 0.1)
    assert (group.target, group.seen[-1].state) == (6, "holding")
    group.run(15, 0.1)
    assert group.target == 1


def test_a_steady_group_stays_as_it_is() -> None:
    group = Driven()
    group.run(60, 1.4)
    before = len(group.seen)
    group.run(1800, 1.4)
    assert set(group.targets[before:]) == {3}


def test_what_is_rarely_used_is_let_go_and_woken_by_demand() -> None:
    settings = SETTINGS.model_copy(update={"idle_s": 60.0, "rarely": 0.05})
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


def test_work_that_waits_keeps_a_group_awake() -> None:
    settings = SETTINGS.model_copy(update={"idle_s": 30.0})
    assert Driven(settings=settings, min_replicas=0, backlog_s=0.1).run(200, 0.0).replicas == 1


def test_silence_is_not_calm() -> None:
    group = Driven(target=6)
    group.run(60, 3.0)
    group.heard = False
    assert group.run(600, 0.0).state == "silent"
    assert group.target == 6
    assert "some reports are missing" in group.seen[-1].reason


def test_a_clock_set_back_begins_anew() -> None:
    group = Driven(target=4)
    group.run(60, 2.0)
    group.now -= 3600
    assert group.run(60, 2.0).replicas == 4


def test_sums_that_start_anew_or_are_new_do_not_count_at_once() -> None:
    history = History(60)
    history.add({"a": LoadCounters(offered_load_s=500.0)}, 0.0, 0.0)
    history.add({"a": LoadCounters(offered_load_s=502.0), "b": LoadCounters(offered_load_s=900.0)}, 4.0, 2.0)
    history.add({"a": LoadCounters(offered_load_s=1.0), "b": LoadCounters(offered_load_s=902.0)}, 0.0, 4.0)
    # 2 of a, 2 of b in 4 s; a's fall is a restart.
    assert history.over(60).demand == pytest.approx(1.0)
    assert history.over(60).backlog_s == pytest.approx(2.0)  # 0 for 2 s, 4 for 2 s
    assert history.over(2).demand == pytest.approx(1.0)


def test_demand_is_the_largest_of_what_is_known_of_it() -> None:
    history = History(60)
    history.add({"r": LoadCounters(), "s": LoadCounters()}, 0.0, 0.0)
    sums = LoadCounters(
        arrived_load_s=4.0, arrived_load_squares=8.0, device_load_s=3.0, served_load_s=4.0, downgraded_load_s=1.0
    )
    history.add({"r": LoadCounters(offered_load_s=2.0), "s": sums}, 0.0, 2.0)
    assert history.over(60) == Window(2.0, 2.0, 2.0, 1.5, 0.25, 0.0)


def test_replicas_keep_books_in_seconds() -> None:
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


def test_routers_keep_books_by_group() -> None:
    offered = OfferedLoad.of(["a", "b"])
    offered.add((("a", 30.0), ("b", 200.0)))
    assert offered.counters["b"] == LoadCounters(offered_load_s=0.2, offered_load_squares=pytest.approx(0.04))


ONE = Unit(gpus=1.0, cpus=1.0)


def claim(
    wanted: int, need: float, min_replicas: int = 0, target: int = 0, drain_s: float = 1.0, unit: Unit = ONE
) -> Claim:
    return Claim(wanted, min_replicas, target, need, drain_s, unit)


def test_within_the_budget_all_get_what_they_want() -> None:
    assert share({"a": claim(3, 2.5), "b": claim(2, 1.5)}, Unit(5, 100)) == {"a": 3, "b": 2}


def test_what_is_short_is_shared_by_need() -> None:
    # 6 and 3 of 6 GPUs: by highest averages 6, 3, 3, 2, 2, 1.5 … → 4 and 2.
    assert share({"a": claim(6, 6.0), "b": claim(3, 3.0)}, Unit(6, 100)) == {"a": 4, "b": 2}


def test_every_group_keeps_its_minimum_whatever_the_budget() -> None:
    assert share({"a": claim(9, 9.0), "b": claim(1, 0.0, min_replicas=1)}, Unit(1, 100)) == {"a": 0, "b": 1}
    assert share({"a": claim(2, 1.0, min_replicas=2), "b": claim(2, 1.0, min_replicas=2)}, Unit(1, 1)) == {
        "a": 2,
        "b": 2,
    }


def test_among_equals_the_tighter_slo_goes_first() -> None:
    assert share({"a": claim(1, 1.0, drain_s=0.5), "b": claim(1, 1.0, drain_s=0.1)}, Unit(1, 9)) == {"a": 0, "b": 1}


def test_what_does_not_fit_leaves_room_for_smaller_ones() -> None:
    whole, quarter = Unit(1.0, 0.0), Unit(0.25, 0.0)
    claims = {"a": claim(3, 3.0, unit=whole), "b": claim(2, 0.5, unit=quarter)}
    assert share(claims, Unit(2.5, 9)) == {"a": 2, "b": 2}


def test_two_groups_do_not_swap_a_replica_to_and_fro() -> None:
    claims = {"a": claim(2, 1.5, target=1), "b": claim(2, 1.6, target=1)}
    assert share(claims, Unit(2, 9)) == {"a": 1, "b": 1}
    held = {"a": claim(2, 1.95, target=2), "b": claim(2, 2.0, target=0)}
    assert share(held, Unit(1, 9)) == {"a": 1, "b": 0}


def test_cores_are_a_budget_too() -> None:
    assert share({"a": claim(4, 4.0)}, Unit(9, 2)) == {"a": 2}


def test_a_fleet_shares_one_budget_and_says_so() -> None:
    scaler = FleetScaler()
    settings = SETTINGS.model_copy(update={"max_gpus": 4.0})
    decisions: dict[str, Decision] = {}
    targets = {"a": 1, "b": 1}
    for tick in range(1, 200):
        fleet = {
            name: Observed(targets[name], targets[name], 1, 9, {"r": LoadCounters(offered_load_s=tick * 0.25 * demand)})
            for name, demand in (("a", 3.0), ("b", 0.9))
        }
        decisions = scaler.decide(fleet, {"a": ONE, "b": ONE}, settings, tick * 0.25)
        targets = {name: decision.replicas for name, decision in decisions.items()}
    assert targets == {"a": 3, "b": 1}  # 6 and 1.8 of 4
    assert decisions["a"].reason.endswith("; the common budget leaves 3")
    assert sum(targets.values()) <= 4


def test_clumps_are_seen_where_work_comes_together() -> None:
    even, clumped = History(100), History(100)
    for tick in range(241):  # 60 s of 1 s of work per second: every tick, or every fourth second at once
        now = tick * 0.25
        even.add({"r": LoadCounters(offered_load_s=now)}, 0.0, now)
        clumped.add({"r": LoadCounters(offered_load_s=4.0 * (tick // 16))}, 0.0, now)
    assert even.clump_s(30, 6) == pytest.approx(0.0)
    # Three seconds of none and one of 4: variance 3 · 30 ÷ 29 or so, mean 1.
    assert clumped.clump_s(32, 6) == pytest.approx(3.0, rel=0.15)
    assert clumped.over(30, clumped.clump_s(32, 6)).size_s == pytest.approx(3.0, rel=0.15)
    assert even.clump_s(5, 6) == 0.0  # too little to tell
