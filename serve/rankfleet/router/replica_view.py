"""Which replicas of a group take work, as a router's process knows it, and who got which chunk."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType

from rankfleet.core.messages import Chunk
from rankfleet.router.inflight import BacklogReport

EJECTION_S = 5.0  # a replica that lost a chunk gets no other for so long; if it is dead, Serve has noticed by then
Heard = Callable[[frozenset[str]], None]


class ReplicaView:
    """The replicas of one group that take work, as Serve says, less those that have just failed here."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._ejected: dict[str, float] = {}  # name → until
        self._reports: dict[str, BacklogReport] = {}
        self._heard: Heard | None = None
        self._told: frozenset[str] | None = None
        self.hosts: dict[str, frozenset[str]] = {}  # replica → fingerprints, of those that have said so
        self.faults: list[tuple[str, str]] = []  # of which settings, and why a replica cannot follow them

    def listen(self, heard: Heard) -> None:
        """heard: called with the names of the running replicas, now if they are known, and when they change."""
        self._heard = heard
        if self._told is not None:
            heard(self._told)

    @property
    def running(self) -> frozenset[str]:
        return self._told or frozenset()

    def hosting(self, models: Collection[str]) -> tuple[int, int]:
        """Running replicas that have said that they host all of these models, and running replicas."""
        return sum(self.hosts.get(name, frozenset()).issuperset(models) for name in self.running), len(self.running)

    def update(
        self,
        running: frozenset[str],
        hosts: Mapping[str, frozenset[str]] = MappingProxyType({}),
        faults: Iterable[tuple[str, str]] = (),
    ) -> None:
        """hosts: what replicas have said of the models they host, and of their weights; faults: as the field."""
        self._told = running
        self.hosts, self.faults = dict(hosts), list(faults)
        self._ejected = {name: until for name, until in self._ejected.items() if name in running}
        self._reports = {name: report for name, report in self._reports.items() if name in running}
        if self._heard is not None:
            self._heard(running)

    def eject(self, name: str) -> None:
        """Prefer others for a while."""
        self._ejected[name] = self._clock() + EJECTION_S

    def answered(self, name: str, backlog_s: float, others_s: float) -> None:
        """A replica has said what it has to do, and how much of that for other routers."""
        if name in self.running:
            self._reports[name] = BacklogReport(self._clock(), backlog_s, others_s)

    def others_ms(self, names: Sequence[str]) -> list[float]:
        """What each has to do for other routers, by what it said last."""
        now = self._clock()
        reports = [self._reports.get(name) for name in names]
        return [report.others_s * report.left(now) * 1e3 if report else 0.0 for report in reports]

    def eligible(self, names: Sequence[str], models: Collection[str] = ()) -> list[int]:
        """Places of the names to choose from: those that host any of these models, or have not said what they host,
        and of these the ones not shunned; all where none is left."""
        places = range(len(names))
        if models:
            hosts = [self.hosts.get(name) for name in names]
            places = [p for p in places if (h := hosts[p]) is None or not h.isdisjoint(models)] or places  # type: ignore[assignment]
        if self._ejected:
            now = self._clock()
            places = [p for p in places if self._ejected.get(names[p], 0.0) <= now] or places  # type: ignore[assignment]
        return list(places)


VIEWS: dict[str, ReplicaView] = {}


def replica_view_of(group: str) -> ReplicaView:
    """One per group and process: Serve makes the request router, and this is how to meet it."""
    return VIEWS.setdefault(group, ReplicaView())


class Envelope:
    """A chunk on its way out. In the router's process it says who got it; a replica receives the chunk alone."""

    def __init__(self, chunk: Chunk) -> None:
        self.chunk = chunk
        self.replica = ""  # set once a replica has taken it

    def __reduce__(self) -> tuple[Callable[[Chunk], Chunk], tuple[Chunk]]:
        return _itself, (self.chunk,)


def _itself(chunk: Chunk) -> Chunk:
    return chunk
