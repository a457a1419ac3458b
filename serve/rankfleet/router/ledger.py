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
from rankfleet.estimates.precision import Precision
from rankfleet.router.replica_record import Entry, ReplicaRecord
from rankfleet.router.retry import GROUP_GONE, NO_REPLICA, PATIENCE_S, silent_at_s

HEARD_S = 30.0  # how long a replica counts as ready after it has answered, where Serve has named none

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
        return self._replicas.get(name, NOTHING_KNOWN).is_ejected(now_s)

    def loads(self, now_s: float) -> list[tuple[str, int, float, bool]]:
        """(name, chunks in flight there, milliseconds until a chunk that is placed now would start, whether it is
        ejected) of each replica, by name."""
        known = [(name, self._replicas.get(name, NOTHING_KNOWN)) for name in sorted(self.running or self._replicas)]
        return [(name, each.chunks, each.ahead_ms(now_s), each.is_ejected(now_s)) for name, each in known]

    def eject(self, name: str, now_s: float) -> None:
        """Prefer other replicas for a while, if there are others, and forget what this one last reported.

        Does not extend an ejection: chunks that a replica loses at the same time are one event.
        """
        if (replica := self._replicas.get(name)) is not None:
            replica.backlog_s = 0.0
        taking = {other for other in self.running or () if not self.is_ejected(other, now_s)}
        if name not in taking or len(taking) == 1:
            return
        self._replicas.setdefault(name, ReplicaRecord()).eject(now_s)

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
        entry.replica, replica = name, self._replicas.setdefault(name, ReplicaRecord())
        replica.arrivals.routing, replica.arrivals.default_slo_ms = self.routing, self.default_slo_ms
        replica.takes(entry, now_s)

    def _leave(self, entry: Entry, now_s: float) -> None:
        """Count a chunk no longer where it is."""
        if entry.record is None:
            self._unplaced_ms -= entry.predicted_ms
        else:
            entry.record.loses(entry, now_s)

    def close(self, entry: Entry, now_s: float, withdrawn: bool = False) -> None:
        """A chunk is no longer in flight. withdrawn: its replica has not answered, and does not know yet."""
        if self._entries.pop(entry, None) is not None:
            self._leave(entry, now_s)
            if withdrawn and entry.record is not None:
                entry.record.withdrawn_s = now_s
        if not self._entries:
            self._unplaced_ms = 0.0  # without what rounding has left

    def answered(self, name: str, backlog_s: float, now_s: float, ahead_s: float = math.inf) -> None:
        """A replica has answered, and reported its backlog. ahead_s: as in `ChunkScores`."""
        if self.running is not None and name not in self.running:
            return  # it is shutting down and takes no more work
        self._replicas.setdefault(name, ReplicaRecord()).reports(backlog_s, now_s, ahead_s)

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
                entry.given_up = NO_REPLICA
            elif entry.replica and now_s > silent_at_s(heard_s, entry.answer_s):
                entry.given_up = "silence"
            if entry.given_up:
                yield entry

    def no_replica_comes(self) -> None:
        """The group is gone: what waits for a replica would wait as for one that starts. `silent` tells its senders."""
        for entry in self._entries:
            if not entry.replica:
                entry.given_up = GROUP_GONE

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
