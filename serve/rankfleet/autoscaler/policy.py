"""How many replicas a group should have. docs/autoscaling.md derives the rule and shows what each setting does.

    need = demand ÷ utilisation + backlog ÷ max(drain_s, start_s)

Demand is work asked for per second and backlog is work that waits, both at the tiers that requests would get on an
idle fleet, since late binding makes queues look short by taking lesser ones. Demand is the mean of the stable window,
or of a shorter one where that is surely more. A group grows to its need at once, and shrinks to the most that it
needed within `hold_s`, with a margin. A surge to `panic_threshold` times what runs is panic: nothing shrinks.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from rankfleet.autoscaler.demand import BACK_S, History, Window
from rankfleet.autoscaler.sharing import Claim, Unit, share
from rankfleet.core.sections import Autoscaling
from rankfleet.estimates.load import LoadCounters

DRAIN_S = 1.0  # where neither the settings nor an SLO class say in what time a backlog has to be gone
ERRORS = 3.5  # standard deviations beyond which a change is not put down to chance
PARTS = (1, 3, 6)  # of the panic window, in which a surge shows sooner where it is large
MIN_S = 1.0  # a history shorter than this tells nothing

MOST = 1e6  # replicas; so that no report, however wrong, is beyond counting

State = Literal["starting", "steady", "growing", "panic", "holding", "shrinking", "asleep", "waking", "silent"]


@dataclass(frozen=True)
class Observed:
    """A group at one instant. running: replicas that take work; target: as it stands; least, most: bounds; sources:
    sums by replica and by router; backlog_s: of all replicas, at preferred tiers; drain_s: as derived from the SLO
    classes, None where none applies; heard: whether every report that was to be expected is fresh."""

    running: int
    target: int
    min_replicas: int
    max_replicas: int
    sources: Mapping[str, LoadCounters]
    backlog_s: float = 0.0
    drain_s: float | None = None
    heard: bool = True


@dataclass(frozen=True)
class Decision:
    """replicas: the target; reason: one sentence for people; need: in replicas, before bounds and the budget."""

    replicas: int
    state: State
    reason: str
    need: float = 0.0


@dataclass
class GroupScaler:
    """The rule for one group, and what it remembers."""

    group: str
    _history: History = field(default_factory=lambda: History(0.0))
    _peaks: deque[tuple[float, float]] = field(default_factory=deque)  # time, need with the benefit of the doubt
    _panic_until_s: float = -math.inf
    _grown_s: float = -math.inf
    _since_s: float = -math.inf
    _target: int | None = None
    _now_s: float = -math.inf

    def decide(self, seen: Observed, settings: Autoscaling, now_s: float) -> Decision:
        """now_s: of a clock that goes on while nobody asks."""
        now_s = self._remember(seen, settings, now_s)
        clump_s = self._history.clump_s(settings.stable_s, settings.panic_s)
        windows = settings.stable_s, *(settings.panic_s / n for n in PARTS)
        stable, *quick = (self._history.over(window_s, clump_s) for window_s in windows)
        if stable.elapsed_s < MIN_S:
            return bounded(
                Decision(seen.target, "starting", f"stay at {seen.target}: the reports have just begun"), seen
            )
        utilisation = settings.utilisation_of(self.group)
        waiting = quick[0].backlog_s / max(self._drain_s(seen, settings), settings.start_s)
        here, running = utilisation * seen.target, utilisation * max(1, seen.running)
        # The first reports are few: what chance may explain is no demand yet.
        calm = stable.demand if stable.elapsed_s >= settings.stable_s / 2 else stable.above(here, ERRORS)
        surge, *sooner = (window.above(here, ERRORS) for window in quick)
        max_replicas = (
            settings.panic_threshold * running
        )  # that a part of the window is believed: doubling, and then more
        need = max(calm, surge, min(max_replicas, max(sooner))) / utilisation + waiting
        if max(window.above(running, ERRORS) for window in quick) >= max_replicas:
            self._panic_until_s = now_s + settings.panic_hold_s
        likely = stable.demand + stable.error(stable.demand)
        self._peaks.append((now_s, max(need, likely / utilisation + waiting)))
        while self._peaks[0][0] < now_s - settings.hold_s:
            self._peaks.popleft()
        decision = self._decide(seen, settings, stable, need, now_s)
        return bounded(replace(decision, reason=f"{decision.reason}: {words(stable, seen, need)}"), seen)

    def _remember(self, seen: Observed, settings: Autoscaling, now_s: float) -> float:
        """The time that counts as now: clocks are set back by a moment now and then."""
        if now_s < self._now_s - BACK_S or self._target is None:  # or by so much that nothing timed by it holds
            self._panic_until_s, self._grown_s, self._since_s = -math.inf, now_s, now_s
            self._peaks.clear()
        else:
            now_s = max(now_s, self._now_s)
        self._now_s = now_s
        windows = settings.stable_s + settings.panic_s, settings.idle_s if seen.min_replicas == 0 else 0.0
        self._history.reach_s = max(windows)
        self._history.add(seen.sources, seen.backlog_s, now_s)
        if self._target is not None and seen.target > self._target:
            self._grown_s = now_s
        self._target = seen.target
        return now_s

    def _drain_s(self, seen: Observed, settings: Autoscaling) -> float:
        return settings.drain_of(self.group) or seen.drain_s or DRAIN_S

    def _decide(self, seen: Observed, settings: Autoscaling, stable: Window, need: float, now_s: float) -> Decision:
        if seen.min_replicas == 0 and seen.target == 0:
            if stable.demand <= settings.rarely:
                return Decision(0, "asleep", "stay asleep, too rarely used", need)
            return Decision(max(1, up(need)), "waking", "wake up", need)
        if not seen.heard:  # silence is not calm: replicas too busy to report have work
            return no_less(seen, "silent", "some reports are missing", need)
        if now_s < self._panic_until_s:
            return no_less(seen, "panic", "a surge", need)
        if up(need) > seen.target:
            return Decision(up(need), "growing", f"grow to {up(need)}", need)
        if self._rarely_used(seen, settings, now_s):
            return Decision(0, "asleep", "let go, too rarely used", need)
        peak = max(max_replicas for _, max_replicas in self._peaks)
        floor = max(1, up(peak * (1 + settings.margin)))
        if floor >= seen.target:
            return Decision(seen.target, "steady", f"stay at {seen.target}", need)
        ready_s = max(self._grown_s + settings.cooldown_s, self._since_s + settings.hold_s)
        if now_s < ready_s:
            return Decision(seen.target, "holding", f"stay at {seen.target} for now, {floor} would do", need)
        return Decision(floor, "shrinking", f"shrink to {floor}", need)

    def _rarely_used(self, seen: Observed, settings: Autoscaling, now_s: float) -> bool:
        """Half of what would wake it, so that it does not come back at once."""
        if seen.min_replicas > 0 or now_s < self._grown_s + settings.idle_s:
            return False
        idle = self._history.over(settings.idle_s)
        return idle.elapsed_s >= settings.idle_s and idle.demand <= settings.rarely / 2 and seen.backlog_s <= 0


def no_less(seen: Observed, state: State, why: str, need: float) -> Decision:
    wanted = max(seen.target, up(need))
    return Decision(wanted, state, f"{'grow to' if wanted > seen.target else 'stay at'} {wanted}, {why}", need)


def up(need: float) -> int:
    """Whole replicas; what rounding may have added is no need."""
    return math.ceil(min(need, MOST) - 1e-6)


def bounded(decision: Decision, seen: Observed) -> Decision:
    replicas = max(seen.min_replicas, min(seen.max_replicas, decision.replicas))
    if replicas == decision.replicas:
        return decision
    return replace(decision, replicas=replicas, reason=f"{decision.reason}; {replicas} within the bounds")


def limited(wish: Decision, granted: int) -> Decision:
    """wish, where the common budget leaves so many."""
    if granted == wish.replicas:
        return wish
    return replace(wish, replicas=granted, reason=f"{wish.reason}; the common budget leaves {granted}")


def budget_of(settings: Autoscaling) -> Unit:
    gpus, cpus = (
        math.inf if max_replicas is None else max_replicas for max_replicas in (settings.max_gpus, settings.max_cpus)
    )
    return Unit(gpus, cpus)


def words(stable: Window, seen: Observed, need: float) -> str:
    below = f", {stable.below:.0%} below the preferred tier" if stable.below > 0 else ""
    return (
        f"{stable.demand:.2f} s of work asked for per second, {seen.backlog_s:.2f} s waiting, "
        f"{stable.rate:.2f} s done per second{below}; needs {need:.2f} replicas, {seen.running} run"
    )


@dataclass
class FleetScaler:
    """All groups of a fleet under one budget."""

    _groups: dict[str, GroupScaler] = field(default_factory=dict)

    def decide(
        self, fleet: Mapping[str, Observed], units: Mapping[str, Unit], settings: Autoscaling, now_s: float
    ) -> dict[str, Decision]:
        """By group. units: what a replica of each takes. Every group keeps its least."""
        wishes: dict[str, Decision] = {}
        for name, seen in fleet.items():
            scaler = self._groups.setdefault(name, GroupScaler(name))
            wishes[name] = scaler.decide(seen, settings, now_s)
        claims = {
            name: Claim(
                wish.replicas,
                fleet[name].min_replicas,
                fleet[name].target,
                wish.need,
                settings.drain_of(name) or fleet[name].drain_s or DRAIN_S,
                units.get(name, Unit()),
            )
            for name, wish in wishes.items()
        }
        granted = share(claims, budget_of(settings))
        return {name: limited(wish, granted[name]) for name, wish in wishes.items()}
