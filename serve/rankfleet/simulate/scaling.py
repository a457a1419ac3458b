"""Scalers for the simulator: the policy that serves traffic, Ray Serve's default policy, and a fixed schedule."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from rankfleet.autoscaler.drain import drain_times_s
from rankfleet.autoscaler.policy import Decision, FleetScaler, Observation
from rankfleet.autoscaler.sharing import Resources
from rankfleet.core.autoscaling import Autoscaling
from rankfleet.core.config import FleetConfig, LiveSettings
from rankfleet.core.errors import ConfigError
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.load import LoadCounters

TICK_S = 0.25  # between decisions
REPORT_AGE_S = 0.5  # of what a scaler sees: the push interval that `cluster/environment.py` sets
FORMS = "need, or ray:TARGET ongoing requests with Ray's default delays"


@dataclass(frozen=True)
class GroupSnapshot:
    """A group at a tick.

    ready: replicas that have started
    all: replicas that have started or are starting
    sources: load counters by replica and by router
    backlog_s: of all replicas
    ongoing: chunks that wait or are being scored
    """

    ready: int
    all: int
    sources: Mapping[str, LoadCounters]
    backlog_s: float
    ongoing: int


class Scaler(Protocol):
    """Decides targets. Called every TICK_S."""

    def targets(self, groups: Mapping[str, GroupSnapshot], now_s: float) -> dict[str, int]:
        """The number of replicas of each group."""
        ...


def scaler_of(spec: str, fleet: FleetConfig, models: Mapping[str, LatencyModel], budgets_ms: list[float]) -> Scaler:
    """The scaler of a command line. Raises ConfigError if there is none.

    budgets_ms: of the workload's classes, which stand in for SLO classes
    """
    name, _, value = spec.partition(":")
    if spec == "need":
        return NeedScaler(fleet, models, budgets_ms)
    try:
        if name == "ray" and float(value) > 0:
            bounds = {name: (fleet.replicas_of(name).min, fleet.replicas_of(name).max) for name in fleet.groups}
            return OngoingRequestsScaler(bounds, float(value))
    except ValueError:
        pass
    raise ConfigError(f"scaler {spec!r} does not exist; write {FORMS}")


class NeedScaler:
    """The policy that serves traffic (`autoscaler/policy.py`), on reports that are REPORT_AGE_S old."""

    def __init__(self, fleet: FleetConfig, models: Mapping[str, LatencyModel], budgets_ms: list[float]) -> None:
        self.decisions: list[tuple[float, dict[str, Decision]]] = []  # those that change a target
        self._fleet = fleet
        self._settings: Autoscaling = fleet.autoscaling
        self._scaler = FleetScaler()
        self._replicas = {name: Resources(group.gpus, group.cpus) for name, group in fleet.groups.items()}
        classes = {f"c{i}": {"slo_ms": budget_ms} for i, budget_ms in enumerate(budgets_ms)}
        live = LiveSettings.model_validate({"slo_classes": classes, "autoscaling": fleet.autoscaling.model_dump()})
        self._drain_times_s = drain_times_s(fleet, live, models)
        self._recent: deque[tuple[float, Mapping[str, GroupSnapshot]]] = deque()

    def targets(self, groups: Mapping[str, GroupSnapshot], now_s: float) -> dict[str, int]:
        self._recent.append((now_s, groups))
        while len(self._recent) > 1 and self._recent[1][0] <= now_s - REPORT_AGE_S:
            self._recent.popleft()
        reported = self._recent[0][1]
        fleet = {}
        for name, group in groups.items():
            bounds, report = self._fleet.replicas_of(name), reported[name]
            fleet[name] = Observation(
                group.ready,
                group.all,
                bounds.min,
                bounds.max,
                report.sources,
                report.backlog_s,
                self._drain_times_s.get(name),
            )
        decisions = self._scaler.decide(fleet, self._replicas, self._settings, now_s)
        if any(decision.replicas != groups[name].all for name, decision in decisions.items()):
            self.decisions.append((now_s, decisions))
        return {name: decision.replicas for name, decision in decisions.items()}


@dataclass
class OngoingRequestsScaler:
    """Ray Serve 2.60's default policy with its default settings.

    It is `_core_replica_queue_length_policy` and `_apply_delay_logic` of `ray/serve/autoscaling_policy.py`, on ongoing
    requests averaged over the look-back. tests/unit/test_ray_policy.py compares it with those functions.

    bounds: min and max replicas by group
    """

    bounds: Mapping[str, tuple[int, int]]
    target_ongoing: float = 2.0
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0
    look_back_s: float = 30.0
    _recent: dict[str, deque[tuple[float, int]]] = field(default_factory=dict)
    _pending: dict[str, tuple[int, float]] = field(default_factory=dict)  # +1 up or −1 down, and since when

    def targets(self, groups: Mapping[str, GroupSnapshot], now_s: float) -> dict[str, int]:
        return {name: self._target(name, group, now_s) for name, group in groups.items()}

    def _target(self, name: str, group: GroupSnapshot, now_s: float) -> int:
        recent = self._recent.setdefault(name, deque())
        recent.append((now_s, group.ongoing))
        while recent[0][0] < now_s - self.look_back_s:
            recent.popleft()
        mean_ongoing = sum(ongoing for _, ongoing in recent) / len(recent)
        return self.decide(name, mean_ongoing, group.ready, group.all, now_s)

    def decide(self, name: str, ongoing: float, running: int, target: int, now_s: float) -> int:
        """The new target of a group."""
        min_replicas, max_replicas = self.bounds[name]
        if running == 0:
            return max(min_replicas, min(max_replicas, max(1, target) if ongoing > 0 else target))
        # As Ray has it: running × (ongoing ÷ (target × running)), then running + 1.0 × (desired − running), rounded up.
        desired = math.ceil(running + 1.0 * (running * (ongoing / (self.target_ongoing * running)) - running))
        direction = (desired > target) - (desired < target)
        before, since_s = self._pending.get(name, (0, now_s))
        if direction != before:
            since_s = now_s
        delay_s = self.upscale_delay_s if direction > 0 else self.downscale_delay_s
        if direction == 0 or now_s - since_s + 1e-6 < delay_s:
            self._pending[name] = direction, since_s
            return max(min_replicas, min(max_replicas, target))
        self._pending[name] = 0, now_s
        if direction < 0 and target > 1:
            desired = max(1, desired)
        return max(min_replicas, min(max_replicas, desired))


@dataclass
class ScheduleScaler:
    """A schedule that was made in advance, for a fleet of one group (`simulate/clairvoyant.py`).

    replicas: int [ticks]
    """

    group: str
    replicas: np.ndarray

    def targets(self, groups: Mapping[str, GroupSnapshot], now_s: float) -> dict[str, int]:
        tick = min(len(self.replicas) - 1, round(now_s / TICK_S))
        return {self.group: int(self.replicas[tick])}
