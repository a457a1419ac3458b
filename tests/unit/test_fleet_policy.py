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

from rankfleet.autoscaler.reports import replica_report, router_report, settings_in
from rankfleet.autoscaler.sharing import Resources
from rankfleet.cluster.autoscaling_policy import FleetPolicy
from rankfleet.core.sections import Autoscaling
from rankfleet.estimates.load import OfferedLoad, ReplicaLoad

UNITS = {"demo": Resources(0.0, 0.5), "big": Resources(1.0, 1.0)}
DEMO, BIG, ROUTER = (DeploymentID(name=name, app_name="rankfleet") for name in ("demo", "big", "router"))


def series(reports: dict[str, dict[str, float]], now: float) -> dict[str, dict[str, list[Point]]]:
    """{metric: {source: points}}, as Serve has it, from {source: {metric: value}}."""
    found: dict[str, dict[str, list[Point]]] = {}
    for source, report in reports.items():
        for metric, value in report.items():
            found.setdefault(metric, {})[source] = [Point(now - 0.5, 0.0), Point(now, value)]
    return found


def context(key: DeploymentID, metrics: Any, target: Any, now: Any, least: int = 1) -> AutoscalingContext:
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
        capacity_adjusted_min_replicas=least,
        capacity_adjusted_max_replicas=8,
        policy_state={},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=now,
        config=AutoscalingConfig(upscale_delay_s=0, downscale_delay_s=0),
    )


class Cluster:
    """Two groups and a router whose demand a test sets."""

    def __init__(self, **settings: Any) -> None:
        self.policy = FleetPolicy("router")
        self.settings = Autoscaling.model_validate(settings)
        self.offered = OfferedLoad.of(UNITS)
        self.targets = {DEMO: 1, BIG: 1}
        self.states: dict[DeploymentID, dict[str, Any]] = {}
        self.now = 1e9

    def contexts(self) -> dict[DeploymentID, AutoscalingContext]:
        router = router_report(self.offered, {"demo": 0.05}, self.settings, UNITS)
        found = {ROUTER: context(ROUTER, series({"router-1": router}, self.now), 1, self.now)}
        for key, target in self.targets.items():
            replicas = {f"{key.name}-{i}": replica_report(ReplicaLoad()) for i in range(target)}
            found[key] = context(key, series(replicas, self.now), target, self.now)
        return found

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
    assert "needs 2.80 replicas, 3 run" in cluster.states[DEMO]["reason"]
    assert ROUTER not in cluster.targets


def test_settings_change_live(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(utilisation=0.5, panic_hold_s=20)
    cluster.run(100, 1.4)
    cluster.settings = Autoscaling(utilisation=0.25)
    caplog.set_level(logging.INFO, "ray.serve")
    cluster.run(1, 1.4)
    assert cluster.targets[DEMO] == 6
    cluster.settings = Autoscaling(utilisation=0.25, max_cpus=3.0)  # demo takes half a core, big one
    cluster.run(1, 1.4)
    assert cluster.targets == {DEMO: 4, BIG: 1}


def test_settings_can_be_read_back_from_the_numbers_that_serve_carries() -> None:
    settings = Autoscaling.model_validate({"max_gpus": 4, "groups": {"a.b": {"drain_s": 2}, "c": {"utilisation": 0.5}}})
    report = router_report(OfferedLoad.of(["a.b"]), {"a.b": 0.1}, settings, {})
    assert all(isinstance(value, float) for value in report.values())
    assert settings_in(report) == settings


@pytest.mark.parametrize(
    "report",
    [{}, {"offered_load_s:a": 1.0}, {"set:utilisation": -7.0}, {"set:nonsense": 1.0}, {"set:a": 1.0, "set:a:b": 1.0}],
)
def test_settings_that_make_no_sense_are_ignored(report: dict[str, float]) -> None:
    assert settings_in(report) is None


def test_before_any_router_has_reported_groups_keep_their_replicas() -> None:
    policy = FleetPolicy("router")
    assert policy({DEMO: context(DEMO, {}, 3, 1e9)}) == ({}, {})


def test_the_last_good_settings_hold_when_newer_ones_are_wrong() -> None:
    cluster = Cluster(utilisation=0.5, panic_hold_s=20)
    cluster.run(100, 1.4)
    contexts = cluster.contexts()
    contexts[ROUTER].raw_metrics["set:utilisation"]["router-1"].append(Point(cluster.now, 50.0))
    assert cluster.policy(contexts)[0][DEMO] == 3


def test_groups_do_not_shrink_when_the_router_stops_reporting() -> None:
    cluster = Cluster(utilisation=0.5, panic_hold_s=20)
    cluster.run(100, 3.4)
    assert cluster.targets[DEMO] == 7
    stale = cluster.contexts()[ROUTER]
    for _ in range(1200):
        cluster.now += 0.25
        contexts = cluster.contexts() | {ROUTER: stale}
        targets, states = cluster.policy(contexts)
        assert targets[DEMO] == 7
    assert states[DEMO]["state"] == "silent"


GARBAGE: list[Any] = [
    *(None, math.nan, math.inf, -math.inf, -1, 0, 1e308, 10**400, True),
    *("much", b"\x00", [], {}, [None], {"x": {"y": None}}, object(), [SimpleNamespace()]),
    *([Point(math.nan, 1.0)], [Point(1e9, math.nan)], [Point(1e9, -5.0)], [Point(0.0, 1e9)]),
]


@pytest.mark.parametrize("seed", range(20))
def test_with_wrong_input_it_neither_raises_nor_returns_nonsense(seed: int) -> None:
    """Reports, counts and clocks wrong at random, one call after the other on the same policy."""
    rng = random.Random(seed)
    cluster = Cluster(utilisation=0.5, panic_hold_s=20)
    cluster.run(5, 1.0)
    for _ in range(150):
        cluster.now += rng.choice([0.1, 0.1, 0.5, 100.0, -50.0, -1000.0])
        contexts = cluster.contexts()
        for _ in range(rng.randrange(6)):
            broken = rng.choice(list(contexts.values()))
            how = rng.randrange(5)
            if how == 0:
                broken.raw_metrics = rng.choice(GARBAGE)
            elif how == 1 and isinstance(broken.raw_metrics, dict) and broken.raw_metrics:
                broken.raw_metrics[rng.choice(list(broken.raw_metrics))] = rng.choice(GARBAGE)
            elif how == 2 and isinstance(broken.raw_metrics, dict) and broken.raw_metrics:
                sources = broken.raw_metrics[rng.choice(list(broken.raw_metrics))]
                if isinstance(sources, dict):
                    sources[rng.choice(["router-1", "demo-0", "new", 7])] = rng.choice(GARBAGE)
            elif how == 3:
                broken.current_time = rng.choice(GARBAGE)
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
    assert FleetPolicy("router")(garbage) == ({}, {})  # type: ignore[arg-type]


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
