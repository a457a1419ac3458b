"""Which replicas of a group take work, as a router's process knows it, and who got which chunk."""

import time
from collections.abc import Callable, Sequence

from rankfleet.core.messages import Chunk
from rankfleet.scheduling.placement import Report

SHUN_S = 5.0  # a replica that lost a chunk gets no other for so long; if it is dead, Serve has noticed by then
Heard = Callable[[frozenset[str]], None]


class Roster:
    """The replicas of one group that take work, as Serve says, less those that have just failed here."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._shunned: dict[str, float] = {}  # name → until
        self._reports: dict[str, Report] = {}
        self._heard: list[Heard] = []
        self.running: frozenset[str] = frozenset()

    def listen(self, heard: Heard) -> None:
        """heard: called with the names of the running replicas, now if they are known, and when they change."""
        self._heard.append(heard)
        if self.running:
            heard(self.running)

    def update(self, running: frozenset[str]) -> None:
        self.running = running
        self._shunned = {name: until for name, until in self._shunned.items() if name in running}
        self._reports = {name: report for name, report in self._reports.items() if name in running}
        for heard in self._heard:
            heard(running)

    def shun(self, name: str) -> None:
        """Prefer others for a while."""
        self._shunned[name] = self._clock() + SHUN_S

    def answered(self, name: str, backlog_s: float, others_s: float) -> None:
        """A replica has said what it has to do, and how much of that for other routers."""
        if name in self.running:
            self._reports[name] = Report(self._clock(), backlog_s, others_s)

    def others_ms(self, names: Sequence[str]) -> list[float]:
        """What each has to do for other routers, by what it said last."""
        now = self._clock()
        reports = [self._reports.get(name) for name in names]
        return [report.others_s * report.left(now) * 1e3 if report else 0.0 for report in reports]

    def eligible(self, names: Sequence[str]) -> list[int]:
        """Places of the names to choose from: those not shunned, or all where none else is left."""
        if not self._shunned:
            return list(range(len(names)))
        now = self._clock()
        good = [place for place, name in enumerate(names) if self._shunned.get(name, 0.0) <= now]
        return good or list(range(len(names)))


ROSTERS: dict[str, Roster] = {}


def roster_of(group: str) -> Roster:
    """One per group and process: Serve makes the request router, and this is how to meet it."""
    return ROSTERS.setdefault(group, Roster())


class Sending:
    """A chunk on its way out. In the router's process it says who got it; a replica receives the chunk alone."""

    def __init__(self, chunk: Chunk) -> None:
        self.chunk = chunk
        self.replica = ""  # set once a replica has taken it

    def __reduce__(self) -> tuple[Callable[[Chunk], Chunk], tuple[Chunk]]:
        return _itself, (self.chunk,)


def _itself(chunk: Chunk) -> Chunk:
    return chunk
