"""The policy as Serve calls it, with Serve's own contexts, fed with whatever may come."""

import logging
import math
import random
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve._private.common import DeploymentID
from ray.serve._private.common import TimeStampedValue as Point
from ray.serve.autoscaling_policy import _apply_app_level_autoscaling_config
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from rankfleet.autoscaler.board import parse_board
from rankfleet.autoscaler.reports import replica_report, router_report
from rankfleet.autoscaler.settings import settings_in
from rankfleet.autoscaler.sharing import Resources
from rankfleet.cluster.autoscaling_policy import FleetPolicy
from rankfleet.cluster.fleet_board import BoardWriter
from rankfleet.core.autoscaling import Autoscaling
from rankfleet.estimates.load import OfferedLoad, ReplicaLoad
from tests.unit.fakes import FakeStore

UNITS = {"demo": Resources(0.0, 0.5), "big": Resources(1.0, 1.0)}
DEMO, BIG, ROUTER = (DeploymentID(name=name, app_name="rankfleet") for name in ("demo", "big", "router"))


def series(reports: dict[str, dict[str, float]], stamps: dict[str, float]) -> dict[str, dict[str, list[Point]]]:
    """{metric: {source: points}}, as Serve has it, from {source: {metric: value}} and {source: time stamp}."""
    found: dict[str, dict[str, list[Point]]] = {}
    for source, report in reports.items():
        for metric, value in report.items():
            found.setdefault(metric, {})[source] = [Point(stamps[source] - 0.5, 0.0), Point(stamps[source], value)]
    return found


def context(key: DeploymentID, metrics: Any, target: Any, min_replicas: int = 1) -> AutoscalingContext:
    """What Serve gives to a policy for one deployment of 1 to 8 replicas."""
    return AutoscalingContext(
        deployment_id=key,
        deployment_name=key.name,
        app_name=key.app_name,
        current_num_replicas=target,
        target_num_replicas=target,
        running_replicas=[],
        total_num_requests=0.0,
        total_queued_requests=0.0,
        aggregated_metrics={},
        raw_metrics=lambda: metrics,  # Serve computes it when a policy asks for it
        capacity_adjusted_min_replicas=min_replicas,
        capacity_adjusted_max_replicas=8,
        policy_state={},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=None,
        config=AutoscalingConfig(upscale_delay_s=0, downscale_delay_s=0),
    )


def at_once(store: FakeStore) -> BoardWriter:
    """A writer that does not wait for a thread."""
    return BoardWriter(store, start=lambda write: write())


class Cluster:
    """Two groups and routers whose demand a test sets.

    settings: of the fleet file that each router serves. The first router takes all requests
    ahead_s: by how much a source's clock is ahead of the policy's; 1e9 if a test does not say
    silent: sources that do not report any more
    """

    def __init__(self, **settings: Any) -> None:
        self.store = FakeStore()
        self.policy = FleetPolicy("router", lambda: self.now, at_once(self.store))
        self.settings = {"router-1": Autoscaling.model_validate(settings)}
        self.ahead_s: dict[str, float] = {}
        self.silent: set[str] = set()
        self.offered = OfferedLoad.of(UNITS)
        self.targets = {DEMO: 1, BIG: 1}
        self.states: dict[DeploymentID, dict[str, Any]] = {}
        self.now = 100.0
        self._number = 0
        self._last: dict[str, tuple[float, dict[str, float]]] = {}

    def contexts(self) -> dict[DeploymentID, AutoscalingContext]:
        self._number += 1
        idle = OfferedLoad.of(UNITS)
        routers = {
            name: router_report(
                self._number, self.offered if name == "router-1" else idle, {"demo": 0.05}, settings, UNITS
            )
            for name, settings in self.settings.items()
        }
        found = {ROUTER: context(ROUTER, self._reported(routers), 1)}
        for key, target in self.targets.items():
            replicas = {f"{key.name}-{i}": replica_report(self._number, ReplicaLoad()) for i in range(target)}
            found[key] = context(key, self._reported(replicas), target)
        return found

    def _reported(self, reports: dict[str, dict[str, float]]) -> dict[str, dict[str, list[Point]]]:
        for source, report in reports.items():
            if source not in self.silent:
                self._last[source] = self.now + self.ahead_s.get(source, 1e9), report
        stamps = {source: self._last[source][0] for source in reports}
        return series({source: self._last[source][1] for source in reports}, stamps)

    def run(self, seconds: float, demo: float, big: float = 0.0) -> None:
        for _ in range(round(seconds / 0.25)):
            self.now += 0.25
            for _ in range(25):  # in small pieces
                self.offered.add((("demo", demo * 10), ("big", big * 10)))
            targets, self.states = self.policy(self.contexts())
            self.targets |= targets


def test_targets_follow_demand_and_say_why() -> None:
    cluster = Cluster(utilisation=0.5, panic_hold_s=20)
    cluster.run(100, 1.4)
    assert cluster.targets == {DEMO: 3, BIG: 1}
    assert cluster.states[DEMO]["state"] == "steady"
    assert "need 2.80 replicas; 3 run" in cluster.states[DEMO]["reason"]
    assert ROUTER not in cluster.targets


def test_people_are_told_the_last_change_and_the_present_reason() -> None:
    cluster = Cluster(utilisation=0.5, panic_hold_s=20)
    cluster.run(100, 1.4)
    told = parse_board(cluster.store.texts["board"]).groups
    assert (told["demo"].state, told["demo"].target, told["demo"].running) == ("steady", 3, 3)
    assert "need 2.80 replicas; 3 run" in told["demo"].reason
    change = told["demo"].last_change
    assert change is not None
    assert (change.number, change.before, change.after) == (1, 1, 3)
    assert change.reason.startswith("a surge: demand of 1.40 s")
    assert 90 < change.age_s < 99
    assert told["big"].last_change is None


def test_a_store_that_fails_changes_no_decision(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(utilisation=0.5, panic_hold_s=20)
    cluster.store.fails = True
    cluster.run(100, 1.4)
    assert cluster.targets == {DEMO: 3, BIG: 1}
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said == ["people are not told of scaling decisions: no store"], "one line until it works again"


def test_settings_change_live(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(utilisation=0.5, panic_hold_s=20)
    cluster.run(100, 1.4)
    cluster.settings["router-1"] = Autoscaling(utilisation=0.25)
    caplog.set_level(logging.INFO, "ray.serve")
    cluster.run(1, 1.4)
    assert cluster.targets[DEMO] == 6
    cluster.settings["router-1"] = Autoscaling(utilisation=0.25, max_cpus=3.0)  # demo takes half a core, big one
    cluster.run(1, 1.4)
    assert cluster.targets == {DEMO: 4, BIG: 1}


def test_settings_can_be_read_back_from_the_numbers_that_serve_carries() -> None:
    settings = Autoscaling.model_validate({"max_gpus": 4, "groups": {"a.b": {"drain_s": 2}, "c": {"utilisation": 0.5}}})
    report = router_report(1, OfferedLoad.of(["a.b"]), {"a.b": 0.1}, settings, {})
    assert all(isinstance(value, int | float) for value in report.values())
    assert settings_in(report) == settings


@pytest.mark.parametrize(
    "report",
    [{}, {"offered_load_s:a": 1.0}, {"set:utilisation": -7.0}, {"set:nonsense": 1.0}, {"set:a": 1.0, "set:a:b": 1.0}],
)
def test_settings_that_make_no_sense_are_ignored(report: dict[str, float]) -> None:
    assert settings_in(report) is None


def test_before_any_router_has_reported_groups_keep_their_replicas() -> None:
    policy = FleetPolicy("router", writer=at_once(FakeStore()))
    assert policy({DEMO: context(DEMO, {}, 3)}) == ({}, {})


def test_the_last_good_settings_hold_when_newer_ones_are_wrong() -> None:
    cluster = Cluster(utilisation=0.5, panic_hold_s=20)
    cluster.run(100, 1.4)
    contexts = cluster.contexts()
    contexts[ROUTER].raw_metrics["set:utilisation"]["router-1"][-1].value = 50.0
    assert cluster.policy(contexts)[0][DEMO] == 3


def test_groups_do_not_shrink_when_the_router_stops_reporting() -> None:
    cluster = Cluster(utilisation=0.5, panic_hold_s=20)
    cluster.run(100, 3.4)
    assert cluster.targets[DEMO] == 7
    cluster.silent.add("router-1")
    cluster.run(300, 0.0)
    assert (cluster.targets[DEMO], cluster.states[DEMO]["state"]) == (7, "silent")


@pytest.mark.parametrize("ahead_s", [-6.0, 3600.0])
def test_a_replica_is_fresh_as_long_as_it_reports_whatever_its_clock_says(ahead_s: float) -> None:
    cluster = Cluster(utilisation=0.5)
    cluster.ahead_s = {"router-1": 0.0, "demo-0": ahead_s}
    cluster.run(20, 0.1)
    assert cluster.states[DEMO]["state"] == "steady"
    cluster.silent.add("demo-0")
    cluster.run(5.0, 0.1)
    assert cluster.states[DEMO]["state"] == "steady"
    cluster.run(0.25, 0.1)
    assert cluster.states[DEMO]["state"] == "silent"


def test_the_router_whose_clock_is_ahead_does_not_own_the_settings() -> None:
    cluster = Cluster(utilisation=0.5, panic_hold_s=20)
    cluster.settings["router-2"] = cluster.settings["router-1"]
    cluster.ahead_s = {"router-1": 0.0, "router-2": 3600.0}
    cluster.run(100, 1.4)
    cluster.settings["router-1"] = Autoscaling(utilisation=0.25)  # it is the first to turn to a new file
    cluster.run(1, 1.4)
    assert cluster.targets[DEMO] == 6


@pytest.mark.parametrize("seed", range(3))
def test_clocks_of_other_machines_change_no_decision(seed: int) -> None:
    rng = random.Random(seed)
    exact, skewed = Cluster(utilisation=0.5, panic_hold_s=5), Cluster(utilisation=0.5, panic_hold_s=5)
    for _ in range(8):
        sources = ["router-1", *(f"demo-{i}" for i in range(8)), "big-0"]
        # A clock goes on, faster or slower; Serve drops the reports of one that has been set back.
        skewed.ahead_s = {source: skewed.ahead_s.get(source, 0.0) + rng.choice([0, 1e4]) for source in sources}
        seconds, demand = rng.uniform(1, 30), rng.choice([0.1, 1.4, 3.0])
        for cluster in (exact, skewed):
            cluster.run(seconds, demand)
        assert (skewed.targets, skewed.states) == (exact.targets, exact.states)


GARBAGE: list[Any] = [
    *(None, math.nan, math.inf, -math.inf, -1, 0, 1e308, 10**400, True),
    *("much", b"\x00", [], {}, [None], {"x": {"y": None}}, object(), [SimpleNamespace()]),
    *([Point(math.nan, 1.0)], [Point(1e9, math.nan)], [Point(1e9, -5.0)], [Point(0.0, 1e9)]),
]


@pytest.mark.parametrize("seed", range(20))
def test_with_wrong_input_it_neither_raises_nor_returns_nonsense(seed: int) -> None:
    """Reports and counts wrong at random, one call after the other on the same policy."""
    rng = random.Random(seed)
    cluster = Cluster(utilisation=0.5, panic_hold_s=20)
    cluster.run(5, 1.0)
    for _ in range(150):
        cluster.now += rng.choice([0.1, 0.1, 0.5, 100.0])
        contexts = cluster.contexts()
        for _ in range(rng.randrange(6)):
            broken = rng.choice(list(contexts.values()))
            how = rng.randrange(4)
            if how == 0:
                broken.raw_metrics = rng.choice(GARBAGE)
            elif how == 1 and isinstance(broken.raw_metrics, dict) and broken.raw_metrics:
                broken.raw_metrics[rng.choice(list(broken.raw_metrics))] = rng.choice(GARBAGE)
            elif how == 2 and isinstance(broken.raw_metrics, dict) and broken.raw_metrics:
                sources = broken.raw_metrics[rng.choice(list(broken.raw_metrics))]
                if isinstance(sources, dict):
                    sources[rng.choice(["router-1", "demo-0", "new", 7])] = rng.choice(GARBAGE)
            else:
                broken.current_num_replicas = rng.choice([*GARBAGE, 2])
        if rng.random() < 0.1:
            del contexts[rng.choice(list(contexts))]
        targets, states = cluster.policy(contexts)
        assert targets.keys() <= {DEMO, BIG}
        assert states.keys() == targets.keys()
        for target in targets.values():
            assert type(target) is int
            assert 1 <= target <= 8


@pytest.mark.parametrize("garbage", GARBAGE, ids=str)
def test_contexts_that_are_no_contexts_change_nothing(garbage: object) -> None:
    assert FleetPolicy("router", writer=at_once(FakeStore()))(garbage) == ({}, {})  # type: ignore[arg-type]


def test_serve_adds_no_delay_and_no_factor_to_the_decisions() -> None:
    """Through the wrapper that Serve puts around a policy: no delay, no factor, in either direction."""
    cluster = Cluster(utilisation=0.5, stable_s=2, downscale_window_s=0, cooldown_s=0, panic_s=1, panic_hold_s=0)
    wrapped = _apply_app_level_autoscaling_config(cluster.policy)  # type: ignore[arg-type]
    seen = []
    for demand in (1.9, 0.2):
        for _ in range(100):
            cluster.now += 0.25
            for _ in range(25):
                cluster.offered.add((("demo", demand * 10),))
            contexts = cluster.contexts()
            decided, states = wrapped(contexts)
            assert states.keys() == contexts.keys()
            cluster.targets |= {key: int(n) for key, n in decided.items()}
        seen.append(cluster.targets[DEMO])
    assert seen == [4, 1]
