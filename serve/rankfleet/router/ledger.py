"""The in-flight ledger of one replica group: what a router has sent there, to which replica, and how the replicas do.

Pure: time is an argument, in seconds of any steady clock. All versions of the fleet that a router's process serves
share one ledger per group. Work counts from the moment it is sent; at a replica, from the moment the replica is chosen:
the chunks of one request are placed in the same instant, and by older counts they would often meet on one replica.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from rankfleet.core.sections import Routing
from rankfleet.estimates.arrivals import ArrivalMeter
from rankfleet.estimates.frontier import Frontier
from rankfleet.estimates.precision import Precision
from rankfleet.router.retry import PATIENCE_S, silent_at_s

HEARD_S = 30.0  # how long a replica counts as ready after it has answered, where Serve has named none
# Ejection of replicas that lose or fail work, by the rules of Envoy's outlier detection: the time grows by one step
# with each ejection, shrinks by one for each EJECTION_STEP_S without any, and never the last replica is ejected.
EJECTION_STEP_S = 5.0
MAX_EJECTION_STEPS = 12
SETTLE_S = 1.0  # how long after chunks were withdrawn a replica's report may still hold their time


@dataclass(slots=True, eq=False)
class Entry:
    """A chunk in flight.

    predicted_ms: device time, as its replica's queue counts it.
    frontier: the tiers that may score it; None if none of them is measured.
    p99_s: 99th percentile of its device time.
    models: fingerprints, of which its replica should host at least one; empty for any.
    tried: replicas that have refused, lost or failed this chunk before.
    replica: the replica that has it, since `placed_s`; empty before one is chosen.
    run_ms: its mean device time at the tier that the replica takes, if it has found the replica idle.
    answer_s: within which its answer is predicted, from `placed_s`: `p99_s` and the work ahead of it at its replica.
    record: where it counts; None before a replica is chosen. A replica that Serve lists again has a new one.
    given_up: why its answer is not waited for any more; empty while it is.
    over_share: as in `Chunk`.
    """

    predicted_ms: float
    deadline_s: float
    sent_s: float
    frontier: Frontier | None = None
    p99_s: float = 0.0
    models: Collection[str] = ()
    tried: Collection[str] = ()
    replica: str = ""
    placed_s: float = 0.0
    run_ms: float = 0.0
    answer_s: float = 0.0
    record: "ReplicaRecord | None" = None
    given_up: str = ""
    over_share: bool = False


@dataclass(slots=True)
class ReplicaRecord:
    """One replica. `own_ms`, `since_ms` and `chunks` are of this router's chunks.

    known_s, backlog_s: its backlog, and when that was known: as it reported, or as a chunk makes it that finds it idle.
    own_ms: predicted device time of the chunks that are there. since_ms: of those that were placed there since then.
    chunks: in flight there.
    withdrawn_s: when one was last withdrawn.
    heard_s: when it last answered.
    arrivals: of this router's chunks there, as the replica measures those of all.
    ejected_until_s: when its last ejection ends or ended. steps: the length of that in EJECTION_STEP_S.
    """

    known_s: float = -math.inf
    backlog_s: float = 0.0
    own_ms: float = 0.0
    since_ms: float = 0.0
    chunks: int = 0
    withdrawn_s: float = -math.inf
    heard_s: float = -math.inf
    ejected_until_s: float = -math.inf
    steps: int = 0
    arrivals: ArrivalMeter = field(default_factory=lambda: ArrivalMeter(Routing()))

    @property
    def is_on_trial(self) -> bool:
        """Whether it has a chunk and has not answered since its last ejection began: one that hangs looks idle again,
        and would draw the chunks that others have no time for."""
        return self.chunks > 0 and self.heard_s < self.ejected_until_s - self.steps * EJECTION_STEP_S

    def ahead_ms(self, now_s: float) -> float:
        """Predicted milliseconds until a chunk that is placed there now would start."""
        return max(0.0, self.backlog_s - (now_s - self.known_s)) * 1e3 + self.since_ms


NOTHING_KNOWN = ReplicaRecord(known_s=0.0)


@dataclass
class Ledger:
    """One group, as one router's process knows it.

    running: the replicas that take work, by Serve; None if it has not said.
    hosts: replica → fingerprints of models and weights, for those that have reported them.
    faults: (name of the settings, why a replica cannot follow them).
    precisions: fingerprint of a model → what replicas compute it in.
    busy_since_s: since when something has been in flight without a break.
    routing, default_slo_ms: the settings by which replicas plan; the latter as in `ArrivalMeter`.
    """

    running: frozenset[str] | None = None
    hosts: Mapping[str, frozenset[str]] = field(default_factory=dict)
    faults: Sequence[tuple[str, str]] = ()
    precisions: Mapping[str, Precision] = field(default_factory=dict)
    busy_since_s: float = 0.0
    routing: Routing = field(default_factory=Routing)
    default_slo_ms: float = math.inf
    _entries: dict[Entry, tuple[float, float]] = field(default_factory=dict)  # → (predicted ms, deadline), oldest first
    _replicas: dict[str, ReplicaRecord] = field(default_factory=dict)
    _unplaced_ms: float = 0.0  # predicted device time of the chunks that have no replica yet
    _resumed_s: float = -math.inf
    _turn: int = 0

    # Replicas

    def update(
        self,
        running: frozenset[str],
        hosts: Mapping[str, frozenset[str]] = MappingProxyType({}),
        faults: Iterable[tuple[str, str]] = (),
        precisions: Mapping[str, Precision] = MappingProxyType({}),
    ) -> None:
        """Serve says that exactly these replicas take work, and what they have reported. Arguments: as the fields."""
        self.running, self.hosts, self.faults, self.precisions = running, dict(hosts), list(faults), precisions
        self._replicas = {name: replica for name, replica in self._replicas.items() if name in running}

    def hosting(self, models: Collection[str]) -> tuple[int, int]:
        """(running replicas that have reported that they host all of these models, running replicas)."""
        running = self.running or frozenset()
        return sum(self.hosts.get(name, frozenset()).issuperset(models) for name in running), len(running)

    def ready(self, now_s: float, min_replicas: int = 1) -> int:
        """How many replicas take work, at least 1: those that Serve names and that are not ejected.

        If Serve has named none yet: those that have answered lately, and at least those that Serve always keeps.
        """
        if self.running is not None:
            return max(1, sum(not self.is_ejected(name, now_s) for name in self.running))
        heard = sum(now_s - replica.heard_s <= HEARD_S for replica in self._replicas.values())
        return max(1, min_replicas, heard)

    def asleep(self, min_replicas: int) -> bool:
        """Whether no replica runs and none is kept."""
        return min_replicas == 0 and self.running is not None and not self.running

    def awake(self, min_replicas: int) -> bool:
        """Whether a call would be answered without a replica having to start, as far as is known."""
        if self.running is not None:
            return bool(self.running)
        return min_replicas > 0 or any(replica.heard_s > -math.inf for replica in self._replicas.values())

    def is_ejected(self, name: str, now_s: float) -> bool:
        """Whether other replicas are preferred to this one."""
        return now_s < self._replicas.get(name, NOTHING_KNOWN).ejected_until_s

    def loads(self, now_s: float) -> list[tuple[str, int, float, bool]]:
        """(name, chunks in flight there, milliseconds until a chunk that is placed now would start, whether it is
        ejected) of each replica, by name."""
        known = [(name, self._replicas.get(name, NOTHING_KNOWN)) for name in sorted(self.running or self._replicas)]
        return [(name, each.chunks, each.ahead_ms(now_s), now_s < each.ejected_until_s) for name, each in known]

    def eject(self, name: str, now_s: float) -> None:
        """Prefer other replicas for a while, if there are others, and forget what this one last reported.

        Does not extend an ejection: chunks that a replica loses at the same time are one event. After it, the replica
        gets one chunk, and more once it has answered.
        """
        if (replica := self._replicas.get(name)) is not None:
            replica.backlog_s = 0.0
        taking = {other for other in self.running or () if not self.is_ejected(other, now_s)}
        if name not in taking or len(taking) == 1:
            return
        replica = self._replicas.setdefault(name, ReplicaRecord())
        quiet_steps = int(min(replica.steps, (now_s - replica.ejected_until_s) / EJECTION_STEP_S))
        replica.steps = min(MAX_EJECTION_STEPS, 1 + replica.steps - quiet_steps)
        replica.ejected_until_s = now_s + replica.steps * EJECTION_STEP_S

    def has_other(self, models: Collection[str], tried: Collection[str]) -> bool:
        """Whether a replica that `choose` prefers for these models is none of those tried."""
        running = self.running or frozenset()
        return not set(tried).issuperset({name for name in running if self._may_host(name, models)} or running)

    # Chunks

    def open(self, entry: Entry, now_s: float) -> None:
        """A chunk is in flight."""
        if not self._entries:
            self.busy_since_s = now_s
        self._entries[entry] = (entry.predicted_ms, math.inf if entry.over_share else entry.deadline_s)
        self._unplaced_ms += entry.predicted_ms

    def choose(self, entry: Entry, names: Sequence[str], now_s: float) -> int:
        """The place of the replica that gets a chunk, which counts there from now on.

        Those are preferred that host one of its models or have not said what they host, that have not been tried, that
        are not ejected, and that are not on trial; a condition that would leave none is dropped, the last one first. Of
        these, the one on which the chunk would start first; if several are equal, of those with the fewest chunks the
        next in turn.
        """
        places = [p for p, name in enumerate(names) if self._may_host(name, entry.models)] or list(range(len(names)))
        if entry.tried:
            places = [p for p in places if names[p] not in entry.tried] or places
        places = [p for p in places if not self.is_ejected(names[p], now_s)] or places
        places = [p for p in places if not self._replicas.get(names[p], NOTHING_KNOWN).is_on_trial] or places
        self._turn += 1

        def work(place: int) -> tuple[float, int, int]:
            replica = self._replicas.get(names[place], NOTHING_KNOWN)
            return replica.ahead_ms(now_s), replica.chunks, (place - self._turn) % len(names)

        place = min(places, key=work)
        self.place(entry, names[place], now_s)
        return place

    def _may_host(self, name: str, models: Collection[str]) -> bool:
        hosted = self.hosts.get(name)
        return not models or hosted is None or not hosted.isdisjoint(models)

    def place(self, entry: Entry, name: str, now_s: float) -> None:
        """A chunk is at this replica, and no longer at another one. Nothing counts once the chunk is closed."""
        if entry not in self._entries or entry.replica == name:
            return
        self._leave(entry, now_s)
        replica = self._replicas.setdefault(name, ReplicaRecord())
        entry.replica, entry.placed_s, entry.record = name, now_s, replica
        replica.chunks += 1
        replica.own_ms += entry.predicted_ms
        ahead_ms, left_ms = replica.ahead_ms(now_s), (entry.deadline_s - now_s) * 1e3
        entry.answer_s, is_idle = entry.p99_s + ahead_ms / 1e3, ahead_ms <= 0
        replica.arrivals.routing, replica.arrivals.default_slo_ms = self.routing, self.default_slo_ms
        if not entry.over_share:
            replica.arrivals.arrived(left_ms, now_s, found_idle=is_idle)
        if not is_idle:
            replica.since_ms += entry.predicted_ms
            return
        if entry.frontier is not None:  # it starts at once
            point = entry.frontier.alone(left_ms, replica.arrivals.stats, self.routing)
            entry.run_ms = (point.fixed_ms + point.marginal_ms) * point.mean_over_p99
        replica.known_s, replica.backlog_s = now_s, entry.run_ms / 1e3

    def _leave(self, entry: Entry, now_s: float) -> None:
        """Count a chunk no longer where it is.

        Of what its replica reported, it takes its share of this router's chunks with it: the replica counts it by
        another model than this router, and chunks of other routers are taken to be like these. Once the last one has
        gone, nothing is left, since no answer would ever correct it.
        """
        replica = entry.record
        if replica is None:
            self._unplaced_ms -= entry.predicted_ms
            return
        replica.chunks -= 1
        reported_ms = replica.own_ms - replica.since_ms
        replica.own_ms -= entry.predicted_ms
        if entry.placed_s > replica.known_s:
            replica.since_ms = max(0.0, replica.since_ms - entry.predicted_ms)
        elif entry.placed_s == replica.known_s:  # it found the replica idle
            replica.backlog_s -= entry.run_ms / 1e3
        elif reported_ms > 0:
            age_s = now_s - replica.known_s
            rest = max(0.0, 1.0 - entry.predicted_ms / reported_ms)
            replica.backlog_s = age_s + max(0.0, replica.backlog_s - age_s) * rest
        if replica.chunks == 0:
            replica.own_ms = replica.since_ms = 0.0  # without what rounding has left

    def close(self, entry: Entry, now_s: float, withdrawn: bool = False) -> None:
        """A chunk is no longer in flight. withdrawn: its replica has not answered, and does not know yet."""
        if self._entries.pop(entry, None) is not None:
            self._leave(entry, now_s)
            if withdrawn and entry.record is not None:
                entry.record.withdrawn_s = now_s
        if not self._entries:
            self._unplaced_ms = 0.0  # without what rounding has left

    def answered(self, name: str, backlog_s: float, now_s: float) -> None:
        """A replica has answered, and reported its backlog."""
        if self.running is not None and name not in self.running:
            return  # it is shutting down and takes no more work
        replica = self._replicas.setdefault(name, ReplicaRecord())
        if now_s - replica.withdrawn_s < SETTLE_S:
            backlog_s = min(backlog_s, replica.ahead_ms(now_s) / 1e3)
        replica.heard_s = replica.known_s = now_s
        replica.backlog_s, replica.since_ms = backlog_s, 0.0

    # Silence

    def heard(self, name: str, now_s: float) -> None:
        """A replica has answered with an error."""
        if name in self._replicas:
            self._replicas[name].heard_s = now_s

    def resumed(self, now_s: float) -> None:
        """This process did not run for a while until now, so that it could hear from no replica."""
        self._resumed_s = now_s

    def silent(self, now_s: float) -> Iterator[Entry]:
        """The chunks whose replica has fallen silent, and those that got no replica in time; says so in `given_up`.

        A connection over a dead network is not closed, so that a replica behind it just falls silent.
        """
        for entry in self._entries:
            since_s = entry.placed_s if entry.replica else entry.sent_s
            heard_s = max(since_s, self._replicas.get(entry.replica, NOTHING_KNOWN).heard_s, self._resumed_s)
            if not entry.replica and now_s - heard_s > PATIENCE_S:
                entry.given_up = "it got no replica"
            elif entry.replica and now_s > silent_at_s(heard_s, entry.answer_s):
                entry.given_up = "silence"
            if entry.given_up:
                yield entry

    # Backlog

    @property
    def in_flight(self) -> tuple[tuple[float, float], ...]:
        """(predicted ms, deadline) of each chunk in flight, the oldest first."""
        return tuple(self._entries.values())

    @property
    def busy(self) -> bool:
        """Whether anything is in flight."""
        return bool(self._entries)

    def backlog_s(self, replicas: int, now_s: float) -> float:
        """Predicted seconds of work per replica, queued and running. replicas: how many are ready."""
        ahead_ms = sum(replica.ahead_ms(now_s) for replica in self._replicas.values())
        return (ahead_ms + max(0.0, self._unplaced_ms)) / 1e3 / replicas
