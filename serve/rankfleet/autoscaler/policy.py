"""The autoscaling policy: how many replicas each group should have. docs/autoscaling.md derives it.

    need = demand ÷ utilisation + backlog ÷ max(drain_s, start_s)     replicas

demand: seconds of work per second, backlog: seconds of work, both at the tiers of the requests' unloaded plans. By the
tiers they actually get, a group under load would look calm, because late binding gives it cheaper ones.

Demand is the mean of the stable window, or of a shorter window in which it is significantly higher. A group grows to
its need at once. It shrinks to the highest need within `downscale_window_s`, with a margin.

    state      meaning                                                  decision
    starting   less than MIN_HISTORY_S of reports                       keeps its target
    steady     the target covers the need, within the margin            keeps its target
    growing    the need is above the target                             grows to the need
    panic      demand was panic_threshold × the running capacity        grows to the need, does not shrink
               within the last panic_hold_s
    holding    fewer replicas would do, but it has grown or started     keeps its target
               too recently
    shrinking  fewer have been enough for downscale_window_s               shrinks
    asleep     replicas.min is 0 and demand is rare                     no replicas
    waking     asleep, and demand is not rare any more                  grows to the need
    silent     reports of the routers or of the replicas are missing    grows to the need, does not shrink
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from rankfleet.autoscaler.demand import History, Window
from rankfleet.autoscaler.sharing import Claim, Resources, share
from rankfleet.core.autoscaling import Autoscaling
from rankfleet.estimates.load import LoadCounters

DEFAULT_DRAIN_S = 1.0  # if neither the settings nor an SLO class give a drain time
SIGMAS = 3.5  # standard errors by which demand must exceed a capacity to be significant
PANIC_PARTS = (1, 3, 6)  # fractions of the panic window that are tested too: a large surge shows in them sooner
MIN_HISTORY_S = 1.0  # a shorter history decides nothing
MAX_NEED = 1e6  # replicas; keeps wrong reports, however large, within the range of int

State = Literal["starting", "steady", "growing", "panic", "holding", "shrinking", "asleep", "waking", "silent"]


@dataclass(frozen=True)
class Observation:
    """A group at one instant.

    running: replicas that take work
    target: replicas that were decided last
    min_replicas, max_replicas: bounds of the fleet file
    sources: load counters by replica and by router
    backlog_s: of all replicas
    drain_s: by the SLO classes (`autoscaler/drain.py`); None if none applies
    complete: whether every report that is expected is fresh
    """

    running: int
    target: int
    min_replicas: int
    max_replicas: int
    sources: Mapping[str, LoadCounters]
    backlog_s: float = 0.0
    drain_s: float | None = None
    complete: bool = True


@dataclass(frozen=True)
class Decision:
    """replicas: the new target; reason: why this many, in words; need: in replicas, before bounds and budget."""

    replicas: int
    state: State
    reason: str
    need: float = 0.0


@dataclass
class GroupScaler:
    """The policy for one group, and what it remembers."""

    group: str
    _history: History = field(default_factory=lambda: History(0.0))
    _needs: deque[tuple[float, float]] = field(default_factory=deque)  # time, need plus one standard error
    _panic_until_s: float = -math.inf
    _grown_s: float = -math.inf  # when the target was last raised
    _started_s: float = -math.inf
    _target: int | None = None

    def decide(self, seen: Observation, settings: Autoscaling, now_s: float) -> Decision:
        """Decide the target. now_s: by a steady clock."""
        self._remember(seen, settings, now_s)
        dispersion_s = self._history.dispersion_s(settings.stable_s, settings.panic_s)
        stable = self._history.over(settings.stable_s, dispersion_s)
        if stable.elapsed_s < MIN_HISTORY_S:
            return bounded(Decision(seen.target, "starting", "the reports have just begun"), seen)
        panic_windows = [self._history.over(settings.panic_s / part, dispersion_s) for part in PANIC_PARTS]
        utilisation = settings.utilisation_of(self.group)
        drain_s = settings.drain_of(self.group) or seen.drain_s or DEFAULT_DRAIN_S
        for_backlog = panic_windows[0].backlog_s / max(drain_s, settings.start_s)
        capacity, running_capacity = utilisation * seen.target, utilisation * max(1, seen.running)
        panic_demand = settings.panic_threshold * running_capacity
        # While the stable window is less than half full, only a significant demand counts.
        is_full = stable.elapsed_s >= settings.stable_s / 2
        stable_demand = stable.demand if is_full else stable.demand_above(capacity, SIGMAS)
        surge, *early_surges = (window.demand_above(capacity, SIGMAS) for window in panic_windows)
        # A fraction of the panic window is believed up to the panic threshold only, the whole of it without limit.
        need = max(stable_demand, surge, min(panic_demand, max(early_surges))) / utilisation + for_backlog
        if max(window.demand_above(running_capacity, SIGMAS) for window in panic_windows) >= panic_demand:
            self._panic_until_s = now_s + settings.panic_hold_s
        cautious_demand = stable.demand + stable.standard_error(stable.demand)
        self._needs.append((now_s, max(need, cautious_demand / utilisation + for_backlog)))
        while self._needs[0][0] < now_s - settings.downscale_window_s:
            self._needs.popleft()
        decision = self._decide(seen, settings, stable, need, now_s)
        return bounded(replace(decision, reason=f"{decision.reason}: {figures(stable, seen, need)}"), seen)

    def _remember(self, seen: Observation, settings: Autoscaling, now_s: float) -> None:
        """Add the observation to the history."""
        if self._target is None:
            self._started_s = now_s
        if self._target is None or seen.target > self._target:
            self._grown_s = now_s
        self._target = seen.target
        self._history.max_age_s = max(
            settings.stable_s + settings.panic_s, settings.idle_s if seen.min_replicas == 0 else 0.0
        )
        self._history.add(seen.sources, seen.backlog_s, now_s)

    def _decide(self, seen: Observation, settings: Autoscaling, stable: Window, need: float, now_s: float) -> Decision:
        if seen.min_replicas == 0 and seen.target == 0:
            if stable.demand <= settings.idle_utilisation:
                return Decision(0, "asleep", "too rarely used", need)
            return Decision(max(1, whole(need)), "waking", "wanted again", need)
        if not seen.complete:  # replicas that are too busy to report have work
            return grow_only(seen, "silent", "some reports are missing", need)
        if now_s < self._panic_until_s:
            return grow_only(seen, "panic", "a surge", need)
        if whole(need) > seen.target:
            return Decision(whole(need), "growing", "the load needs more", need)
        if self._is_rarely_used(seen, settings, now_s):
            return Decision(0, "asleep", "too rarely used", need)
        highest_need = max(remembered for _, remembered in self._needs)
        enough = max(1, whole(highest_need * (1 + settings.margin)))
        if enough >= seen.target:
            return Decision(seen.target, "steady", "enough for the load", need)
        if now_s < max(self._grown_s + settings.cooldown_s, self._started_s + settings.downscale_window_s):
            return Decision(seen.target, "holding", f"{enough} would do if the load stays as it is", need)
        return Decision(enough, "shrinking", "fewer have been enough for a while", need)

    def _is_rarely_used(self, seen: Observation, settings: Autoscaling, now_s: float) -> bool:
        """Whether demand over idle_s is below half of what wakes the group, so that it does not wake again at once."""
        if seen.min_replicas > 0 or now_s < self._grown_s + settings.idle_s:
            return False
        idle = self._history.over(settings.idle_s)
        return (
            idle.elapsed_s >= settings.idle_s and idle.demand <= settings.idle_utilisation / 2 and seen.backlog_s <= 0
        )


def grow_only(seen: Observation, state: State, why: str, need: float) -> Decision:
    """The need or the present target, whichever is more."""
    return Decision(max(seen.target, whole(need)), state, why, need)


def whole(need: float) -> int:
    """Replicas for a need, rounded up. What rounding errors may have added does not count."""
    return math.ceil(min(need, MAX_NEED) - 1e-6)


def bounded(decision: Decision, seen: Observation) -> Decision:
    """The decision within the bounds of the fleet file."""
    replicas = max(seen.min_replicas, min(seen.max_replicas, decision.replicas))
    return limited(decision, replicas, f"{replicas} within the bounds")


def limited(decision: Decision, replicas: int, why: str) -> Decision:
    """The decision with this number of replicas. why: added to the reason where that is another number."""
    if replicas == decision.replicas:
        return decision
    return replace(decision, replicas=replicas, reason=f"{decision.reason}; {why}")


def budget_of(settings: Autoscaling) -> Resources:
    """The common budget; infinity for no limit."""
    return Resources(
        math.inf if settings.max_gpus is None else settings.max_gpus,
        math.inf if settings.max_cpus is None else settings.max_cpus,
    )


def figures(stable: Window, seen: Observation, need: float) -> str:
    """The numbers behind a decision."""
    downgraded = f", {stable.downgraded_share:.0%} downgraded" if stable.downgraded_share > 0 else ""
    return (
        f"demand of {stable.demand:.2f} s of work per second and a backlog of {seen.backlog_s:.2f} s need {need:.2f} "
        f"replicas; {seen.running} run, device load {stable.device_load:.2f}{downgraded}"
    )


@dataclass
class FleetScaler:
    """The policy for all groups of a fleet, which share one budget."""

    _groups: dict[str, GroupScaler] = field(default_factory=dict)

    def decide(
        self,
        fleet: Mapping[str, Observation],
        replicas: Mapping[str, Resources],
        settings: Autoscaling,
        now_s: float,
    ) -> dict[str, Decision]:
        """Decide the targets by group. replicas: the resources of one replica of each."""
        decisions: dict[str, Decision] = {}
        for name, seen in fleet.items():
            scaler = self._groups.setdefault(name, GroupScaler(name))
            decisions[name] = scaler.decide(seen, settings, now_s)
        claims = {
            name: Claim(
                decision.replicas,
                fleet[name].min_replicas,
                fleet[name].target,
                decision.need,
                settings.drain_of(name) or fleet[name].drain_s or DEFAULT_DRAIN_S,
                replicas.get(name, Resources()),
            )
            for name, decision in decisions.items()
        }
        granted = share(claims, budget_of(settings))
        return {
            name: limited(decision, granted[name], f"the common budget leaves {granted[name]}")
            for name, decision in decisions.items()
        }
