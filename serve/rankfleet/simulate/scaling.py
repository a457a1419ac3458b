"""Autoscaling in the simulator: the policy that serves, Ray Serve's own, and one that knows the future."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from rankfleet.autoscaler.drain import drain_times_s
from rankfleet.autoscaler.policy import Decision, FleetScaler, Observation
from rankfleet.autoscaler.sharing import Resources
from rankfleet.core.config import FleetConfig, LiveSettings
from rankfleet.core.errors import ConfigError
from rankfleet.core.sections import Autoscaling
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.load import LoadCounters

TICK_S = 0.25  # between decisions
LAG_S = 0.5  # from what happens to a report of it: the push interval that `cluster/environment.py` sets
FORMS = "need, or ray:TARGET ongoing requests with Ray's default delays"


@dataclass(frozen=True)
class SimulatedGroup:
    """What there is to know of a group at a tick. ongoing: requests that wait or are scored; ready: replicas that
    score; all: those that start, too."""

    ready: int
    all: int
    sources: Mapping[str, LoadCounters]
    backlog_s: float
    ongoing: int


class Scaler(Protocol):
    """Targets by group. Asked every TICK_S."""

    def targets(self, groups: Mapping[str, SimulatedGroup], now_s: float) -> dict[str, int]: ...


def scaler_of(spec: str, fleet: FleetConfig, models: Mapping[str, LatencyModel], budgets_ms: list[float]) -> "Scaler":
    """budgets_ms: those of the workload, in place of SLO classes. Raises ConfigError for a spec that is none."""
    name, _, value = spec.partition(":")
    if spec == "need":
        return Need(fleet, models, budgets_ms)
    try:
        if name == "ray" and float(value) > 0:
            return Ongoing({n: (g.replicas.min, g.replicas.max) for n, g in fleet.groups.items()}, float(value))
    except ValueError:
        pass
    raise ConfigError(f"scaler {spec!r} does not exist; write {FORMS}")


class Need:
    """The policy that serves, on reports that are LAG_S old."""

    def __init__(self, fleet: FleetConfig, models: Mapping[str, LatencyModel], budgets_ms: list[float]) -> None:
        self.decisions: list[tuple[float, dict[str, Decision]]] = []  # those that change something
        self._fleet = fleet
        self._settings: Autoscaling = fleet.autoscaling
        self._scaler = FleetScaler()
        self._units = {name: Resources(g.gpus, g.cpus) for name, g in fleet.groups.items()}
        classes = {f"c{i}": {"slo_ms": ms} for i, ms in enumerate(budgets_ms)}
        live = LiveSettings.model_validate({"slo_classes": classes, "autoscaling": fleet.autoscaling.model_dump()})
        self._drains_s = drain_times_s(fleet, live, models)
        self._late: deque[tuple[float, Mapping[str, SimulatedGroup]]] = deque()

    def targets(self, groups: Mapping[str, SimulatedGroup], now_s: float) -> dict[str, int]:
        self._late.append((now_s, groups))
        while len(self._late) > 1 and self._late[1][0] <= now_s - LAG_S:
            self._late.popleft()
        reported = self._late[0][1]
        fleet = {}
        for name, group in groups.items():
            bounds, old = self._fleet.groups[name].replicas, reported[name]
            drain_s = self._drains_s.get(name)
            fleet[name] = Observation(
                group.ready, group.all, bounds.min, bounds.max, old.sources, old.backlog_s, drain_s
            )
        decisions = self._scaler.decide(fleet, self._units, self._settings, now_s)
        if any(decision.replicas != groups[name].all for name, decision in decisions.items()):
            self.decisions.append((now_s, decisions))
        return {name: decision.replicas for name, decision in decisions.items()}


@dataclass
class Ongoing:
    """Ray Serve 2.60's default policy with its default settings: `_core_replica_queue_length_policy` and
    `_apply_delay_logic` of `ray/serve/autoscaling_policy.py` on requests averaged over the look-back.
    tests/unit/test_ray_policy.py compares it with those functions."""

    bounds: Mapping[str, tuple[int, int]]
    target_ongoing: float = 2.0
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0
    look_back_s: float = 30.0
    _seen: dict[str, deque[tuple[float, int]]] = field(default_factory=dict)
    _wish: dict[str, tuple[int, float]] = field(default_factory=dict)  # direction and since when

    def targets(self, groups: Mapping[str, SimulatedGroup], now_s: float) -> dict[str, int]:
        return {name: self._target(name, group, now_s) for name, group in groups.items()}

    def _target(self, name: str, group: SimulatedGroup, now_s: float) -> int:
        seen = self._seen.setdefault(name, deque())
        seen.append((now_s, group.ongoing))
        while seen[0][0] < now_s - self.look_back_s:
            seen.popleft()
        mean = sum(count for _, count in seen) / len(seen)
        return self.decide(name, mean, group.ready, group.all, now_s)

    def decide(self, name: str, ongoing: float, running: int, target: int, now_s: float) -> int:
        min_replicas, max_replicas = self.bounds[name]
        if running == 0:
            return max(min_replicas, min(max_replicas, max(1, target) if ongoing > 0 else target))
        # running × (ongoing ÷ (target × running)), then running + 1.0 × (desired − running), rounded up
        desired = math.ceil(running + 1.0 * (running * (ongoing / (self.target_ongoing * running)) - running))
        direction = (desired > target) - (desired < target)
        before, since_s = self._wish.get(name, (0, now_s))
        if direction != before:
            since_s = now_s
        delay_s = self.upscale_delay_s if direction > 0 else self.downscale_delay_s
        if direction == 0 or now_s - since_s + 1e-6 < delay_s:
            self._wish[name] = direction, since_s
            return max(min_replicas, min(max_replicas, target))
        self._wish[name] = 0, now_s
        if direction < 0 and target > 1:
            desired = max(1, desired)
        return max(min_replicas, min(max_replicas, desired))


@dataclass
class Schedule:
    """Replicas of the one group by tick, decided in advance: what a scaler does that knows the arrivals."""

    group: str
    replicas: np.ndarray  # int [ticks]

    def targets(self, groups: Mapping[str, SimulatedGroup], now_s: float) -> dict[str, int]:
        tick = min(len(self.replicas) - 1, round(now_s / TICK_S))
        return {self.group: int(self.replicas[tick])}
