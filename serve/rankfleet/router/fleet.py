"""What a router knows of the fleet: what the replica groups report, and the work that it has in flight itself."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from rankfleet.core.config import FleetConfig
from rankfleet.core.work import Work
from rankfleet.estimates.arrivals import ArrivalMeter, ArrivalStats
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.quality import QualityTable, quality_table
from rankfleet.router.inflight import BacklogReport
from rankfleet.router.snapshot import FleetSnapshot, GroupState, TierState

LOST_S = 10.0  # how long a lost replica does not count; Serve notices a dead one within this time
REPORT_VALID_S = 30.0  # how long a replica counts as ready after it has answered
BURST_BUDGETS = 2.0  # in budgets: a group that has been busy for longer is overloaded, not hit by a burst
SIMILAR_SIZE = 1.25  # work up to this many times as large as a request is of about its size


@dataclass
class GroupView:
    """One replica group as this router sees it. Times are seconds on the router's clock."""

    min_replicas: int = 1  # replicas that Serve always keeps
    whole_tokens: int = 0  # requests up to this size go to one replica, which selects the tier late
    batch_tokens: int = 1
    in_flight: dict[int, tuple[float, float]] = field(default_factory=dict)  # entry id → (predicted ms, deadline)
    in_flight_ms: float = 0.0  # the sum of the predicted times
    changed_s: float = 0.0  # when the oldest entries came to be the oldest: the first was sent, or one came back
    busy_since_s: float = 0.0  # since when something has been in flight without a break
    reports: dict[str, BacklogReport] = field(default_factory=dict)  # the last one of each replica
    running: frozenset[str] | None = None  # the replicas that take work, by Serve; None if it has not said
    lost: dict[str, float] = field(default_factory=dict)  # replica → until when it does not count

    def ready(self, now_s: float) -> int:
        """How many replicas take work, at least 1.

        Those that Serve names, without those just lost. If Serve has named none yet: those that have reported lately,
        and at least those that Serve always keeps.
        """
        if self.running is not None:
            return max(1, sum(self.lost.get(name, now_s) <= now_s for name in self.running))
        reported = sum(now_s - report.at_s <= REPORT_VALID_S for report in self.reports.values())
        return max(1, self.min_replicas, reported)

    @property
    def asleep(self) -> bool:
        """Whether no replica runs and none is kept."""
        return self.min_replicas == 0 and self.running is not None and not self.running

    def backlog_s(self, replicas: int, now_s: float) -> float:
        """Seconds of work per replica.

        The larger of two figures, each less what has been done since: what this router has in flight plus what the
        replicas last reported of other routers' work; and everything that the replicas last reported.
        """
        # Each replica works on one of the oldest entries, and has done so since `changed_s`.
        passed_ms = max(0.0, now_s - self.changed_s) * 1e3
        done_ms = sum(min(ms, passed_ms) for ms, _ in itertools.islice(self.in_flight.values(), replicas))
        reports = [(report, report.left(now_s)) for report in self.reports.values()]
        others_s = sum(report.others_s * left for report, left in reports)
        own_s = self.in_flight_ms / 1e3
        if own_s > 0:  # a part of what has been done was the work of others
            own_s = max(0.0, own_s - done_ms / 1e3 * own_s / (own_s + others_s))
        reported_s = sum(report.backlog_s * left for report, left in reports)
        return max(own_s + others_s, reported_s) / replicas

    def ahead_share(self, deadline_s: float, min_ms: float, now_s: float) -> float:
        """The share of the work in flight that is certainly served before a request of this deadline and size.

        With late binding, that is work with an earlier deadline that is smaller: work of the same size may be dropped
        in favour of the request (`replica/batching.py`), and accepted work can still be given smaller tiers. That is
        right during a burst. If the group has been busy for longer, work of about the request's size would be dropped
        as well, only later, so it counts too. With a single tier the prediction has to hold even if more urgent work
        arrives, so everything counts. Work of other routers is taken to be like this router's own.
        """
        if not self.whole_tokens or deadline_s == math.inf or self.in_flight_ms <= 0:
            return 1.0
        burst = now_s - self.busy_since_s <= BURST_BUDGETS * (deadline_s - now_s)
        max_ms = min_ms - 1e-9 if burst else min_ms * SIMILAR_SIZE
        ahead_ms = sum(ms for ms, deadline in self.in_flight.values() if deadline <= deadline_s and ms <= max_ms)
        return min(1.0, ahead_ms / self.in_flight_ms)

    def state(self, arrivals: ArrivalStats, deadline_s: float, min_ms: float, now_s: float) -> GroupState:
        """For the planner. arrivals: at this router."""
        replicas = self.ready(now_s)
        backlog_s = self.backlog_s(replicas, now_s)
        ahead_s = backlog_s * self.ahead_share(deadline_s, min_ms, now_s)
        # A request that stays whole goes to one replica; one that is cut sends a part to each of them.
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
        """models: by tier, the fingerprint by which replicas report; without one they report by the tier's name.
        before: the view of the previous version of the fleet. Work in flight, estimates and arrivals go on in this
            one; it keeps the settings it has until `take_over`.
        """
        self._config = config
        self._models = models
        known: Mapping[str, GroupView] = before._groups if before else {}
        self._groups: dict[str, GroupView] = {name: known.get(name, GroupView()) for name in config.groups}
        self._latency: dict[str, LatencyModel] = before._latency if before else {}
        self._quality = quality_table(config)
        self._meter: ArrivalMeter = before._meter if before else ArrivalMeter(config.routing)
        self._entry_ids: itertools.count[int] = before._entry_ids if before else itertools.count()
        self._tiers: tuple[TierState, ...] = ()
        self.update_latency({})
        if before is None:
            self.take_over()

    def take_over(self) -> None:
        """Go by this version's settings; the view before it is only for requests that have begun."""
        self._meter.routing = self._config.routing
        for name, group in self._config.groups.items():
            view = self._groups[name]
            view.min_replicas, view.batch_tokens = group.replicas.min, group.batch_tokens
            view.whole_tokens = group.batch_tokens if len(group.tiers) > 1 else 0

    def update_latency(self, models: Mapping[str, LatencyModel]) -> None:
        """A group has reported its latency models, by fingerprint, or by tier if it has none."""
        self._latency |= models
        self._tiers = tuple(
            TierState(name, self._quality.tiers[name], self._config.group_of(name), self.latency(name))
            for name in self._config.tiers
        )

    def use_profile(self, models: Mapping[str, LatencyModel]) -> None:
        """Use a stored profile, by tier, for tiers that no replica has reported yet."""
        by_name = {self._models.get(tier, tier): model for tier, model in models.items()}
        self.update_latency({name: model for name, model in by_name.items() if name not in self._latency})

    def latency(self, tier: str) -> LatencyModel | None:
        """None if it is not known."""
        return self._latency.get(self._models.get(tier, tier))

    @property
    def models(self) -> dict[str, LatencyModel]:
        """The latency models that are known, by tier."""
        return {tier: model for tier in self._config.tiers if (model := self.latency(tier)) is not None}

    @property
    def quality(self) -> QualityTable:
        return self._quality

    @property
    def ready(self) -> bool:
        """Whether the latency of every tier is known whose group keeps a replica running."""
        return all(
            self.latency(tier) is not None
            for name, group in self._config.groups.items()
            if self._groups[name].min_replicas > 0
            for tier in group.tiers
        )

    def min_ms(self, work: Mapping[str, Work], unknown_ms: float) -> float:
        """Device time of a request or chunk at the cheapest of these tiers, with its share of a batch's fixed cost, at
        the 99th percentile: what a queue counts for it.

        work: by tier. unknown_ms: the result if none of the tiers is measured.
        """
        min_ms = math.inf
        for tier, size in work.items():
            if (model := self.latency(tier)) is not None:
                share = min(1.0, size.tokens / self._groups[self._config.group_of(tier)].batch_tokens)
                min_ms = min(min_ms, model.amortized_ms(size, share) * model.p99_factor)
        return unknown_ms if min_ms == math.inf else min_ms

    def request_arrived(self, budget_ms: float | None, now_s: float) -> None:
        """A request has arrived; budget_ms: None for best-effort work."""
        self._meter.arrived(math.inf if budget_ms is None else budget_ms, now_s, found_idle=not self.busy)

    @property
    def busy(self) -> bool:
        """Whether this router has any work in flight."""
        return any(view.in_flight for view in self._groups.values())

    def chunk_sent(self, group: str, predicted_ms: float, now_s: float, deadline_s: float = math.inf) -> int:
        """A chunk is in flight. Returns its entry id, for `chunk_done`."""
        view = self._groups[group]
        if not view.in_flight:
            view.changed_s = view.busy_since_s = now_s
            view.in_flight_ms = 0.0
        entry_id = next(self._entry_ids)
        view.in_flight[entry_id] = (predicted_ms, deadline_s)
        view.in_flight_ms += predicted_ms
        return entry_id

    def chunk_done(self, group: str, entry_id: int, now_s: float) -> None:
        """A chunk is no longer in flight, whatever became of it."""
        view = self._groups[group]
        predicted_ms, _ = view.in_flight.pop(entry_id, (0.0, 0.0))
        view.in_flight_ms -= predicted_ms
        view.changed_s = now_s

    def replica_reported(self, group: str, replica: str, backlog_s: float, now_s: float, others_s: float = 0.0) -> None:
        """A replica has answered, and reported its backlog; others_s: the part of it that other routers sent."""
        view = self._groups[group]
        if view.running is not None and replica not in view.running:
            return  # it is shutting down and takes no more work
        view.lost.pop(replica, None)
        reports = view.reports
        reports[replica] = BacklogReport(now_s, backlog_s, others_s)
        for name in [name for name, report in reports.items() if now_s - report.at_s > REPORT_VALID_S]:
            del reports[name]

    def replica_lost(self, group: str, replica: str, now_s: float) -> None:
        """A replica has lost a chunk. Neither it nor its report counts for LOST_S: if it is dead, Serve has removed it
        by then; if it only seemed to be, it must not stay out."""
        view = self._groups[group]
        view.reports.pop(replica, None)
        view.lost[replica] = now_s + LOST_S

    def set_running(self, group: str, replicas: frozenset[str]) -> None:
        """Serve says that exactly these replicas take work."""
        view = self._groups[group]
        view.running = replicas
        view.lost = {name: until for name, until in view.lost.items() if name in replicas}
        view.reports = {name: report for name, report in view.reports.items() if name in replicas}

    @property
    def asleep(self) -> bool:
        """Whether no group has a replica or keeps one."""
        return all(view.asleep for view in self._groups.values())

    def awake(self, group: str) -> bool:
        """Whether a call to this group would be answered without a replica having to start, as far as is known."""
        view = self._groups[group]
        return bool(view.min_replicas > 0 or view.reports) if view.running is None else bool(view.running)

    def backlog_s(self, group: str, now_s: float) -> float:
        """Predicted seconds until a replica of this group would be free."""
        view = self._groups[group]
        return view.backlog_s(view.ready(now_s), now_s)

    def replicas(self, group: str, now_s: float) -> int:
        """How many replicas of this group take work."""
        return self._groups[group].ready(now_s)

    def snapshot(self, now_s: float, deadline_s: float = math.inf, min_ms: float = math.inf) -> FleetSnapshot:
        """The fleet for a request that has to be answered by `deadline_s`. min_ms: as the method `min_ms` counts it."""
        arrivals = self._meter.stats
        groups = {name: view.state(arrivals, deadline_s, min_ms, now_s) for name, view in self._groups.items()}
        config = self._config
        return FleetSnapshot(
            self._tiers, groups, config.overhead_ms, self._quality, config.routing, config.autoscaling.start_s
        )
