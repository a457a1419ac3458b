"""The replicas of a group as a router's process knows them: which take work, what they host, and what they reported."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType

from rankfleet.core.messages import Chunk
from rankfleet.router.inflight import BacklogReport

EJECTION_S = 5.0  # how long a replica that lost a chunk gets no other; Serve notices a dead one within this time
Listener = Callable[[frozenset[str]], None]


class ReplicaView:
    """The replicas of one group. Those that have just failed are ejected for a while."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._ejected: dict[str, float] = {}  # replica → until when
        self._reports: dict[str, BacklogReport] = {}
        self._listener: Listener | None = None
        self._running: frozenset[str] | None = None
        self.hosts: dict[str, frozenset[str]] = {}  # replica → fingerprints, for those that have reported them
        self.faults: list[tuple[str, str]] = []  # (name of the settings, why a replica cannot follow them)

    def listen(self, listener: Listener) -> None:
        """Call `listener` with the names of the running replicas: now if they are known, and when they change."""
        self._listener = listener
        if self._running is not None:
            listener(self._running)

    @property
    def running(self) -> frozenset[str]:
        """The names of the replicas that take work."""
        return self._running or frozenset()

    def hosting(self, models: Collection[str]) -> tuple[int, int]:
        """(running replicas that have reported that they host all of these models, running replicas)."""
        return sum(self.hosts.get(name, frozenset()).issuperset(models) for name in self.running), len(self.running)

    def update(
        self,
        running: frozenset[str],
        hosts: Mapping[str, frozenset[str]] = MappingProxyType({}),
        faults: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Serve has new information. hosts: replica → fingerprints of models and weights. faults: as the field."""
        self._running = running
        self.hosts, self.faults = dict(hosts), list(faults)
        self._ejected = {name: until for name, until in self._ejected.items() if name in running}
        self._reports = {name: report for name, report in self._reports.items() if name in running}
        if self._listener is not None:
            self._listener(running)

    def eject(self, name: str) -> None:
        """Prefer other replicas for a while."""
        self._ejected[name] = self._clock() + EJECTION_S

    def answered(self, name: str, backlog_s: float, others_s: float) -> None:
        """A replica has reported its backlog, and the part of it that other routers sent."""
        if name in self.running:
            self._reports[name] = BacklogReport(self._clock(), backlog_s, others_s)

    def others_ms(self, names: Sequence[str]) -> list[float]:
        """For each replica, the predicted time of other routers' work, by its last report."""
        now = self._clock()
        reports = [self._reports.get(name) for name in names]
        return [report.others_s * report.left(now) * 1e3 if report else 0.0 for report in reports]

    def eligible(self, names: Sequence[str], models: Collection[str] = ()) -> list[int]:
        """The places of the replicas to choose from.

        Those that host any of these models or have not reported what they host, without the ejected ones. A condition
        that would leave none is dropped.
        """
        places = list(range(len(names)))
        if models:
            hosts = [self.hosts.get(name) for name in names]
            places = [p for p in places if (hosted := hosts[p]) is None or not hosted.isdisjoint(models)] or places
        if self._ejected:
            now = self._clock()
            places = [p for p in places if self._ejected.get(names[p], 0.0) <= now] or places
        return places


VIEWS: dict[str, ReplicaView] = {}


def replica_view_of(group: str) -> ReplicaView:
    """One object per group and process, since Serve constructs the request router that fills it."""
    return VIEWS.setdefault(group, ReplicaView())


class Envelope:
    """A chunk on its way to a replica. The router's copy records which replica took it; the replica gets the chunk."""

    def __init__(self, chunk: Chunk) -> None:
        self.chunk = chunk
        self.replica = ""  # set once a replica has taken it

    def __reduce__(self) -> tuple[Callable[[Chunk], Chunk], tuple[Chunk]]:
        return _unwrap, (self.chunk,)


def _unwrap(chunk: Chunk) -> Chunk:
    return chunk
