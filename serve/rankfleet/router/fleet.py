"""What a router knows of the fleet: reports of the groups, and the work it has sent out itself."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from rankfleet.core.config import FleetConfig
from rankfleet.core.messages import Work
from rankfleet.estimates.arrivals import ArrivalMeter, ArrivalStats
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.quality import QualityTable, quality_table
from rankfleet.router.inflight import BacklogReport
from rankfleet.router.plan_options import FleetSnapshot, GroupState, TierState

LOST_S = 10.0  # within which Serve notices that a replica has died
REPLICA_SEEN_S = 30.0  # a replica that has answered within this time counts as ready
BURST_PASSES = 2.0  # in budgets: a group that has been busy for longer has too much to do, not a crowd
ABOUT_AS_LARGE = 1.25


@dataclass
class GroupView:
    """One group as seen from here."""

    min_replicas: int = 1  # replicas that Serve always keeps
    whole_tokens: int = 0  # requests up to so many tokens are bound late, in one replica
    batch_tokens: int = 1
    out: dict[int, tuple[float, float]] = field(default_factory=dict)  # ticket → predicted ms, deadline, as sent
    out_ms: float = 0.0  # the sum of what is out
    moved_s: float = 0.0  # when `out` last began to move: the first was sent, or one came back
    busy_s: float = 0.0  # since when something has been out all the time
    replicas: dict[str, BacklogReport] = field(default_factory=dict)  # what each has said last
    running: frozenset[str] | None = None  # names of those that take work, where somebody knows
    lost: dict[str, float] = field(default_factory=dict)  # name → until when it does not count

    def ready(self, now_s: float) -> int:
        """Replicas that take work: those known to, less those just lost, else those heard of lately and at least those
        that Serve keeps."""
        if self.running is not None:
            return max(1, sum(self.lost.get(name, now_s) <= now_s for name in self.running))
        return max(
            1, self.min_replicas, sum(now_s - report.at_s <= REPLICA_SEEN_S for report in self.replicas.values())
        )

    @property
    def asleep(self) -> bool:
        """Whether no replica runs, and none is kept."""
        return self.min_replicas == 0 and self.running is not None and not self.running

    def backlog_s(self, replicas: int, now_s: float) -> float:
        """Seconds of work per replica: what this router has out and what the replicas said last of the others' work, or
        all that they said if that is more, each less what has been done since."""
        # Each replica works on one of the oldest, and has done so since something last moved.
        passed_ms = max(0.0, now_s - self.moved_s) * 1e3
        done_ms = sum(min(ms, passed_ms) for ms, _ in itertools.islice(self.out.values(), replicas))
        reports = [(report, report.left(now_s)) for report in self.replicas.values()]
        others_s = sum(report.others_s * left for report, left in reports)
        own_s = self.out_ms / 1e3
        if own_s > 0:  # what has been done was the others' work in part
            own_s = max(0.0, own_s - done_ms / 1e3 * own_s / (own_s + others_s))
        reported_s = sum(report.backlog_s * left for report, left in reports)
        return max(own_s + others_s, reported_s) / replicas

    def ahead_share(self, deadline_s: float, min_ms: float, now_s: float) -> float:
        """The share of what is out that surely goes before work of this deadline and size.

        Where work is bound late that is what has an earlier deadline and is smaller: what is as large may be given
        up in its place (`replica/batching.py`), and those accepted can still be given smaller tiers. That pays
        while a crowd passes. Once the group has been busy for longer than that, one that is about as large would be
        given up as well, only later, so it counts too. Where the tier is final a promise has to hold though more
        urgent work may come: all counts. The work of other routers is taken to be like one's own.
        """
        if not self.whole_tokens or deadline_s == math.inf or self.out_ms <= 0:
            return 1.0
        crowded = now_s - self.busy_s <= BURST_PASSES * (deadline_s - now_s)
        max_ms = min_ms - 1e-9 if crowded else min_ms * ABOUT_AS_LARGE
        ahead_ms = sum(ms for ms, deadline in self.out.values() if deadline <= deadline_s and ms <= max_ms)
        return min(1.0, ahead_ms / self.out_ms)

    def state(self, arrivals: ArrivalStats, deadline_s: float, min_ms: float, now_s: float) -> GroupState:
        replicas = self.ready(now_s)
        backlog_s = self.backlog_s(replicas, now_s)
        ahead_s = backlog_s * self.ahead_share(deadline_s, min_ms, now_s)
        # A request that stays whole goes to one of the replicas, else each of them gets a part of every request.
        at_one = (
            ArrivalStats(arrivals.typical_budget_ms, arrivals.burst_rate_per_s / replicas)
            if self.whole_tokens
            else arrivals
        )
        return GroupState(replicas, backlog_s, ahead_s, self.whole_tokens, at_one, self.asleep, self.batch_tokens)


class FleetView:
    """Turns events into snapshots for the planner. Time is an argument, in seconds of any steady clock."""

    def __init__(
        self, config: FleetConfig, models: Mapping[str, str] = MappingProxyType({}), before: "FleetView | None" = None
    ) -> None:
        """models: fingerprints by tier, where replicas report by them; else they report by tier. before: the view of
        the fleet as it was, whose books, estimates and arrivals go on. It stays as it is until `take_over`."""
        self._config = config
        self._models = models
        known: Mapping[str, GroupView] = before._groups if before else {}
        self._groups: dict[str, GroupView] = {name: known.get(name, GroupView()) for name in config.groups}
        self._latency: dict[str, LatencyModel] = before._latency if before else {}
        self._quality = quality_table(config)
        self._meter: ArrivalMeter = before._meter if before else ArrivalMeter(config.routing)
        self._entry_ids: itertools.count[int] = before._entry_ids if before else itertools.count()
        self._tiers: tuple[TierState, ...] = ()
        self.learned({})
        if before is None:
            self.take_over()

    def take_over(self) -> None:
        """From now on this is the fleet, and the view before it is for what has begun by it."""
        self._meter.routing = self._config.routing
        for name, group in self._config.groups.items():
            view = self._groups[name]
            view.min_replicas, view.batch_tokens = group.replicas.min, group.batch_tokens
            view.whole_tokens = group.batch_tokens if len(group.tiers) > 1 else 0

    def learned(self, models: Mapping[str, LatencyModel]) -> None:
        """A group has reported its latency models, by fingerprint, or by tier where there are none."""
        self._latency |= models
        self._tiers = tuple(
            TierState(name, self._quality.tiers[name], self._config.group_of(name), self.latency(name))
            for name in self._config.tiers
        )

    def profiled(self, models: Mapping[str, LatencyModel]) -> None:
        """A profile has been read, by tier. What replicas have said is newer."""
        by_name = {self._models.get(tier, tier): model for tier, model in models.items()}
        self.learned({name: model for name, model in by_name.items() if name not in self._latency})

    @property
    def ready(self) -> bool:
        """Whether every group that keeps a replica running has reported."""
        return all(
            self.latency(tier) is not None
            for name, group in self._config.groups.items()
            if self._groups[name].min_replicas > 0
            for tier in group.tiers
        )

    @property
    def models(self) -> dict[str, LatencyModel]:
        """By tier, of those that are known."""
        return {tier: model for tier in self._config.tiers if (model := self.latency(tier)) is not None}

    @property
    def quality(self) -> QualityTable:
        return self._quality

    def latency(self, tier: str) -> LatencyModel | None:
        return self._latency.get(self._models.get(tier, tier))

    def min_ms(self, work: Mapping[str, Work], unknown_ms: float) -> float:
        """What a queue counts for a request or chunk at the cheapest of these tiers: the 99th percentile of its time,
        with its share of a batch's fixed cost. work: by tier; unknown_ms: where none of them is measured."""
        min_ms = math.inf
        for tier, size in work.items():
            if (model := self.latency(tier)) is not None:
                share = min(1.0, size.tokens / self._groups[self._config.group_of(tier)].batch_tokens)
                min_ms = min(min_ms, model.amortized_ms(size, share) * model.p99_factor)
        return unknown_ms if min_ms == math.inf else min_ms

    def arrived(self, budget_ms: float | None, now_s: float) -> None:
        """A request came, with so much time."""
        self._meter.arrived(math.inf if budget_ms is None else budget_ms, now_s, found_idle=not self.busy)

    @property
    def busy(self) -> bool:
        """Whether any work of this router is out."""
        return any(view.out for view in self._groups.values())

    def sent(self, group: str, predicted_ms: float, now_s: float, deadline_s: float = math.inf) -> int:
        """A chunk goes out. Returns a ticket for `back`."""
        view = self._groups[group]
        if not view.out:
            view.moved_s = view.busy_s = now_s
            view.out_ms = 0.0
        entry_id = next(self._entry_ids)
        view.out[entry_id] = (predicted_ms, deadline_s)
        view.out_ms += predicted_ms
        return entry_id

    def back(self, group: str, entry_id: int, now_s: float) -> None:
        """A chunk is no longer out, whatever became of it."""
        view = self._groups[group]
        predicted_ms, _ = view.out.pop(entry_id, (0.0, 0.0))
        view.out_ms -= predicted_ms
        view.moved_s = now_s

    def heard(self, group: str, replica: str, backlog_s: float, now_s: float, others_s: float = 0.0) -> None:
        """A replica has answered, and said how much still waits there, and how much of that for other routers."""
        view = self._groups[group]
        if view.running is not None and replica not in view.running:
            return  # it goes, and takes no more work
        view.lost.pop(replica, None)
        replicas = view.replicas
        replicas[replica] = BacklogReport(now_s, backlog_s, others_s)
        for name in [n for n, report in replicas.items() if now_s - report.at_s > REPLICA_SEEN_S]:
            del replicas[name]

    def lost(self, group: str, replica: str, now_s: float) -> None:
        """A replica went away: nothing that it said counts any more, nor does it itself for a while. Where it is gone
        for good Serve says so by then; where it only seemed to be, it must not stay out."""
        view = self._groups[group]
        view.replicas.pop(replica, None)
        view.lost[replica] = now_s + LOST_S

    def runs(self, group: str, replicas: frozenset[str]) -> None:
        """These replicas take work now, and no others."""
        view = self._groups[group]
        view.running = replicas
        view.lost = {name: until for name, until in view.lost.items() if name in replicas}
        view.replicas = {name: seen for name, seen in view.replicas.items() if name in replicas}

    @property
    def asleep(self) -> bool:
        """Whether no group has a replica, nor keeps one."""
        return all(view.asleep for view in self._groups.values())

    def awake(self, group: str) -> bool:
        """Whether a question would not have to wait for a replica to start, as far as is known."""
        view = self._groups[group]
        return bool(view.min_replicas > 0 or view.replicas) if view.running is None else bool(view.running)

    def backlog_s(self, group: str, now_s: float) -> float:
        """Seconds of work before a replica of this group would be free."""
        view = self._groups[group]
        return view.backlog_s(view.ready(now_s), now_s)

    def replicas(self, group: str, now_s: float) -> int:
        return self._groups[group].ready(now_s)

    def snapshot(self, now_s: float, deadline_s: float = math.inf, min_ms: float = math.inf) -> FleetSnapshot:
        """For a request that has to be answered by `deadline_s`. min_ms: as `FleetView.min_ms` counts it."""
        arrivals = self._meter.stats
        groups = {name: view.state(arrivals, deadline_s, min_ms, now_s) for name, view in self._groups.items()}
        config = self._config
        return FleetSnapshot(
            self._tiers, groups, config.overhead_ms, self._quality, config.routing, config.autoscaling.start_s
        )
