"""The in-flight ledger of one replica group: what a router has sent there, to which replica, and how the replicas do.

Pure: time is an argument, in seconds of any steady clock. All versions of the fleet that a router's process serves
share one ledger per group. Work counts from the moment it is sent; at a replica, from the moment the replica is chosen:
the chunks of one request are placed in the same instant, and by older counts they would often meet on one replica.
"""

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from rankfleet.router.retry import PATIENCE_S, silent_at_s

REPORT_VALID_S = 30.0  # how long a replica counts as ready after it has answered
# Ejection of replicas that lose or fail work, by the rules of Envoy's outlier detection: the time grows by one step
# with each ejection, shrinks by one for each EJECTION_STEP_S without any, and never the last replica is ejected.
EJECTION_STEP_S = 5.0
MAX_EJECTION_STEPS = 12


@dataclass(slots=True, eq=False)
class Entry:
    """A chunk in flight.

    predicted_ms: device time, as its replica's queue counts it.
    sent_s: when it was sent; once a replica is chosen, when that was: until then, one may have had to start.
    answer_s: seconds within which its answer is predicted.
    models: fingerprints, of which its replica should host at least one; empty for any.
    tried: replicas that have refused, lost or failed this chunk before.
    replica: the replica that has it; empty before one is chosen.
    given_up: why its answer is not waited for any more; empty while it is.
    """

    predicted_ms: float
    deadline_s: float
    sent_s: float
    answer_s: float = 0.0
    models: Collection[str] = ()
    tried: Collection[str] = ()
    replica: str = ""
    given_up: str = ""


@dataclass(frozen=True, slots=True)
class BacklogReport:
    """The backlog that a replica reported with an answer. others_s: the part of it that other routers sent."""

    at_s: float
    backlog_s: float
    others_s: float = 0.0

    def left(self, now_s: float) -> float:
        """The share of it that is not done yet, 0 to 1."""
        return max(0.0, 1.0 - (now_s - self.at_s) / self.backlog_s) if self.backlog_s > 0 else 0.0


@dataclass(slots=True)
class Placed:
    """What this router has in flight at one replica. ms: predicted device time."""

    chunks: int = 0
    ms: float = 0.0


@dataclass(slots=True)
class Ejection:
    """until_s: when it ends or ended. steps: its length in EJECTION_STEP_S."""

    until_s: float
    steps: int


@dataclass
class Ledger:
    """One group, as one router's process knows it.

    running: the replicas that take work, by Serve; None if it has not said.
    hosts: replica → fingerprints of models and weights, for those that have reported them.
    faults: (name of the settings, why a replica cannot follow them).
    busy_since_s: since when something has been in flight without a break.
    """

    running: frozenset[str] | None = None
    hosts: Mapping[str, frozenset[str]] = field(default_factory=dict)
    faults: Sequence[tuple[str, str]] = ()
    busy_since_s: float = 0.0
    _entries: dict[Entry, tuple[float, float]] = field(default_factory=dict)  # → (predicted ms, deadline), oldest first
    _in_flight_ms: float = 0.0
    _changed_s: float = 0.0  # when the oldest entries came to be the oldest: the first was sent, or one came back
    _placed: dict[str, Placed] = field(default_factory=dict)
    _reports: dict[str, BacklogReport] = field(default_factory=dict)
    _ejections: dict[str, Ejection] = field(default_factory=dict)
    _heard_s: dict[str, float] = field(default_factory=dict)
    _resumed_s: float = -math.inf
    _turn: int = 0

    # Replicas

    def update(
        self,
        running: frozenset[str],
        hosts: Mapping[str, frozenset[str]] = MappingProxyType({}),
        faults: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Serve says that exactly these replicas take work, and what they have reported. Arguments: as the fields."""
        self.running, self.hosts, self.faults = running, dict(hosts), list(faults)
        self._reports = {name: report for name, report in self._reports.items() if name in running}
        self._ejections = {name: ejection for name, ejection in self._ejections.items() if name in running}
        self._heard_s = {name: heard_s for name, heard_s in self._heard_s.items() if name in running}

    def hosting(self, models: Collection[str]) -> tuple[int, int]:
        """(running replicas that have reported that they host all of these models, running replicas)."""
        running = self.running or frozenset()
        return sum(self.hosts.get(name, frozenset()).issuperset(models) for name in running), len(running)

    def ready(self, now_s: float, min_replicas: int = 1) -> int:
        """How many replicas take work, at least 1: those that Serve names and that are not ejected.

        If Serve has named none yet: those that have reported lately, and at least those that Serve always keeps.
        """
        if self.running is not None:
            return max(1, sum(not self.is_ejected(name, now_s) for name in self.running))
        reported = sum(now_s - report.at_s <= REPORT_VALID_S for report in self._reports.values())
        return max(1, min_replicas, reported)

    def asleep(self, min_replicas: int) -> bool:
        """Whether no replica runs and none is kept."""
        return min_replicas == 0 and self.running is not None and not self.running

    def awake(self, min_replicas: int) -> bool:
        """Whether a call would be answered without a replica having to start, as far as is known."""
        return bool(min_replicas > 0 or self._reports) if self.running is None else bool(self.running)

    def is_ejected(self, name: str, now_s: float) -> bool:
        """Whether other replicas are preferred to this one."""
        ejection = self._ejections.get(name)
        return ejection is not None and now_s < ejection.until_s

    def eject(self, name: str, now_s: float) -> None:
        """Prefer other replicas for a while, if there are others, and forget what this one last reported.

        Does not extend an ejection: chunks that a replica loses at the same time are one event.
        """
        self._reports.pop(name, None)
        taking = {other for other in self.running or () if not self.is_ejected(other, now_s)}
        if name not in taking or len(taking) == 1:
            return
        last = self._ejections.get(name, Ejection(now_s, 0))
        steps = min(MAX_EJECTION_STEPS, 1 + max(0, last.steps - int((now_s - last.until_s) / EJECTION_STEP_S)))
        self._ejections[name] = Ejection(now_s + steps * EJECTION_STEP_S, steps)

    def has_other(self, models: Collection[str], tried: Collection[str]) -> bool:
        """Whether a replica that `choose` prefers for these models is none of those tried."""
        running = self.running or frozenset()
        return not set(tried).issuperset({name for name in running if self._may_host(name, models)} or running)

    # Chunks

    def open(self, entry: Entry, now_s: float) -> None:
        """A chunk is in flight."""
        if not self._entries:
            self._changed_s = self.busy_since_s = now_s
            self._in_flight_ms = 0.0
        self._entries[entry] = (entry.predicted_ms, entry.deadline_s)
        self._in_flight_ms += entry.predicted_ms

    def choose(self, entry: Entry, names: Sequence[str], now_s: float) -> int:
        """The place of the replica that gets a chunk, which counts there from now on.

        Those are preferred that host one of its models or have not said what they host, that have not been tried, and
        that are not ejected; a condition that would leave none is dropped, the last one first. Of these, the one with
        the least predicted time in flight, of this router and of others; if several are equal, of those with the
        fewest chunks the next in turn.
        """
        places = [p for p, name in enumerate(names) if self._may_host(name, entry.models)] or list(range(len(names)))
        if entry.tried:
            places = [p for p in places if names[p] not in entry.tried] or places
        if self._ejections:
            places = [p for p in places if not self.is_ejected(names[p], now_s)] or places
        self._turn += 1

        def work(place: int) -> tuple[float, int, int]:
            name = names[place]
            placed = self._placed.get(name, NOTHING)
            report = self._reports.get(name)
            others_ms = report.others_s * report.left(now_s) * 1e3 if report else 0.0
            return placed.ms + others_ms, placed.chunks, (place - self._turn) % len(names)

        place = min(places, key=work)
        self.place(entry, names[place], now_s)
        return place

    def _may_host(self, name: str, models: Collection[str]) -> bool:
        hosted = self.hosts.get(name)
        return not models or hosted is None or not hosted.isdisjoint(models)

    def place(self, entry: Entry, replica: str, now_s: float) -> None:
        """A chunk is at this replica, and no longer at another one. Nothing counts once the chunk is closed."""
        if entry in self._entries and entry.replica != replica:
            self._leave(entry)
            entry.sent_s = entry.sent_s if entry.replica else now_s
            entry.replica = replica
            placed = self._placed.setdefault(replica, Placed())
            placed.chunks += 1
            placed.ms += entry.predicted_ms

    def _leave(self, entry: Entry) -> None:
        if (placed := self._placed.get(entry.replica)) is not None:
            placed.chunks -= 1
            placed.ms -= entry.predicted_ms
            if placed.chunks == 0:
                del self._placed[entry.replica]

    def close(self, entry: Entry, now_s: float) -> None:
        """A chunk is no longer in flight, whatever became of it."""
        if self._entries.pop(entry, None) is not None:
            self._leave(entry)
            self._in_flight_ms -= entry.predicted_ms
            self._changed_s = now_s

    def answered(self, replica: str, backlog_s: float, now_s: float, others_s: float = 0.0) -> None:
        """A replica has answered, and reported its backlog; others_s: the part of it that other routers sent."""
        self._heard_s[replica] = now_s
        if self.running is not None and replica not in self.running:
            return  # it is shutting down and takes no more work
        self._reports[replica] = BacklogReport(now_s, backlog_s, others_s)
        for name in [name for name, report in self._reports.items() if now_s - report.at_s > REPORT_VALID_S]:
            del self._reports[name]

    # Silence

    def resumed(self, now_s: float) -> None:
        """This process did not run for a while until now, so that it could hear from no replica."""
        self._resumed_s = now_s

    def silent(self, now_s: float) -> Iterator[Entry]:
        """The chunks whose replica has fallen silent, and those that got no replica in time; says so in `given_up`.

        A connection over a dead network is not closed, so that a replica behind it just falls silent.
        """
        for entry in self._entries:
            heard_s = max(entry.sent_s, self._heard_s.get(entry.replica, -math.inf), self._resumed_s)
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
        """Seconds of work per replica.

        The larger of two figures, each less what has been done since: what this router has in flight plus what the
        replicas last reported of other routers' work; and everything that the replicas last reported.
        """
        # Each replica works on one of the oldest entries, and has done so since `_changed_s`.
        passed_ms = max(0.0, now_s - self._changed_s) * 1e3
        done_ms = sum(min(ms, passed_ms) for ms, _ in itertools.islice(self._entries.values(), replicas))
        reports = [(report, report.left(now_s)) for report in self._reports.values()]
        others_s = sum(report.others_s * left for report, left in reports)
        own_s = self._in_flight_ms / 1e3
        if own_s > 0:  # a part of what has been done was the work of others
            own_s = max(0.0, own_s - done_ms / 1e3 * own_s / (own_s + others_s))
        reported_s = sum(report.backlog_s * left for report, left in reports)
        return max(own_s + others_s, reported_s) / replicas


NOTHING = Placed()
