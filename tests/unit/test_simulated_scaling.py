"""Autoscaling in the simulator."""

from typing import Any

import numpy as np
import pytest

from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import ConfigError
from rankfleet.estimates.latency import LatencyModel
from rankfleet.simulate.clairvoyant import lulls_filled, schedule, started_ahead
from rankfleet.simulate.policies import policy_of
from rankfleet.simulate.run import IN_TIME, Outcome, Simulation
from rankfleet.simulate.scaling import NeedScaler, Scaler, ScheduleScaler, scaler_of
from rankfleet.simulate.workload import Requests, Workload
from tests.unit.fakes import fleet

# A token takes 0.1, 0.4 and 1.6 ms; pairs have ten tokens, requests ten pairs: 10, 40 and 160 ms.
MODELS = {name: LatencyModel(0.0, ms, 0.0) for name, ms in (("small", 0.1), ("medium", 0.4), ("large", 1.6))}
WORKLOAD = Workload.model_validate(
    {"classes": {"one": {"slo_ms": 200, "share": 1}}, "candidates": [{"count": 10, "share": 1}], "tokens": 10}
)


def even(rate: float, seconds: float) -> np.ndarray:
    return np.arange(0.0, seconds, 1 / rate)


def run(config: FleetConfig, scaler: Scaler, arrived_s: np.ndarray, start_s: float = 5.0) -> Outcome:
    n = len(arrived_s)
    requests = Requests(arrived_s, np.zeros(n, dtype=int), np.full(n, 10))
    return Simulation(config, MODELS, WORKLOAD, policy_of("slo", config, MODELS), 1, scaler, start_s).run(requests)


def one_group(max_replicas: int = 8, **autoscaling: Any) -> FleetConfig:
    group = {"tiers": ["small", "medium", "large"], "replicas": {"min": 1, "max": max_replicas}}
    return fleet(groups={"demo": group}, network_ms=0, autoscaling=autoscaling)


def two_groups(**autoscaling: Any) -> FleetConfig:
    groups = {
        "low": {"tiers": ["small", "medium"], "replicas": {"min": 1, "max": 4}, "gpus": 1},
        "high": {"tiers": ["large"], "replicas": {"min": 0, "max": 4}, "gpus": 1},
    }
    return fleet(groups=groups, network_ms=0, autoscaling=autoscaling)


def need(config: FleetConfig) -> NeedScaler:
    return NeedScaler(config, MODELS, [200.0])


def test_a_group_in_the_router_has_as_many_replicas_as_there_are_routers() -> None:
    config = fleet(groups={"demo": {"tiers": ["small", "medium", "large"], "in_router": True}}, routers=2)
    assert [changes[1:] for changes in run(config, need(config), even(10, 60)).replicas] == [(2, 2)]


def test_replicas_follow_the_demand_of_the_unloaded_plans() -> None:
    # 10 requests/s of 160 ms: 1.6 ÷ 0.7 = 2.3.
    config = one_group()
    outcome = run(config, need(config), even(10, 200))
    assert outcome.replicas[-1][1:] == (3, 3)
    assert (outcome.tier[-500:] == 2).mean() > 0.9
    assert (outcome.state == IN_TIME).mean() > 0.99


def test_a_new_replica_is_ready_after_its_start_time() -> None:
    config = one_group()
    changes = run(config, need(config), even(10, 60)).replicas
    grown = next(at for at, replicas, _ in changes if replicas > 1)
    ready = next(at for at, _, ready in changes if ready > 1)
    assert 5.0 <= ready - grown <= 5.25


def test_a_group_is_woken_by_demand_and_sleeps_without() -> None:
    config = two_groups(idle_s=60, stable_s=20, downscale_window_s=20)
    quiet, busy = even(0.1, 200), 200 + even(4, 100)
    outcome = run(config, need(config), np.concatenate([quiet, busy, 300 + even(0.1, 200)]))
    running = {at: replicas for at, replicas, _ in outcome.replicas}
    assert any(replicas == 1 for at, replicas in running.items() if 60 <= at < 200)  # `high` sleeps
    assert max(replicas for at, replicas in running.items() if 200 < at < 300) >= 2
    assert list(running.values())[-1] == 1
    # `large` answers while its group is awake, and the next best tier while it is not; no request waits for a start.
    arrived = np.concatenate([quiet, busy, 300 + even(0.1, 200)])
    assert (outcome.state == IN_TIME).mean() > 0.98
    assert set(outcome.tier[(arrived > 120) & (arrived < 200)]) == {1}
    assert (outcome.tier[(arrived > 250) & (arrived < 300)] == 2).mean() > 0.8


def test_groups_share_one_budget() -> None:
    config = two_groups(max_gpus=3)
    outcome = run(config, need(config), even(30, 120))
    assert max(replicas for _, replicas, _ in outcome.replicas) <= 3


def test_a_request_for_a_group_without_replicas_starts_one() -> None:
    config = two_groups()

    class NoReplicas:
        def targets(self, groups: object, now_s: float) -> dict[str, int]:
            return {"low": 0, "high": 0}

    outcome = run(config, NoReplicas(), even(5, 60))
    assert outcome.replicas[:3] == [
        (0.0, 0, 0),
        (0.25, 1, 0),
        (5.25, 0, 0),
    ]  # the request waits until the replica is ready


def test_a_schedule_is_followed() -> None:
    config = one_group()
    plan = np.array([2] * 40 + [4] * 40 + [1] * 80)
    outcome = run(config, ScheduleScaler("demo", plan), even(1, 40), start_s=0.0)
    assert [(at, n) for at, n, _ in outcome.replicas] == [(0.0, 2), (10.0, 4), (20.0, 1)]


def test_lulls_up_to_the_start_time_are_filled() -> None:
    needed = np.array([3, 1, 1, 3, 1, 1, 1, 2, 1])
    assert lulls_filled(needed, 2).tolist() == [3, 3, 3, 3, 1, 1, 1, 2, 1]
    assert lulls_filled(needed, 3).tolist() == [3, 3, 3, 3, 2, 2, 2, 2, 1]


def test_replicas_are_started_ahead() -> None:
    assert started_ahead(np.array([1, 1, 1, 3, 1]), 2).tolist() == [1, 3, 3, 3, 1]
    assert started_ahead(np.array([1, 2]), 0).tolist() == [1, 2]


def test_the_schedule_of_a_burst() -> None:
    # 1 s of work in each of four ticks of 0.25 s: 4 a second; at utilisation 1 four replicas, 0.5 s ahead.
    work_s = np.zeros(20)
    work_s[8:12] = 1.0
    assert schedule(work_s, 0.25, 1.0, 0.5, 1, 8).tolist() == [1] * 6 + [4] * 6 + [1] * 8
    assert schedule(work_s, 0.25, 2.0, 0.5, 0, 8).tolist() == [0] * 6 + [2] * 6 + [0] * 8


@pytest.mark.parametrize("spec", ["", "ray", "ray:0", "ray:x", "best"])
def test_a_scaler_that_does_not_exist_is_refused_by_name(spec: str) -> None:
    with pytest.raises(ConfigError, match="does not exist; write need"):
        scaler_of(spec, one_group(), MODELS, [])
