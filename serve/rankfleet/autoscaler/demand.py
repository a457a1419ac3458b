"""How much work is asked of a group: rates over windows of time, from sums that replicas and routers report."""

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field

from rankfleet.estimates.load import LoadCounters

SPACING_S = 0.25  # of what is remembered; finer changes no decision
CLUMP_S = 1.0  # bins in which demand is compared
MIN_CLUMPS = 10  # bins from which their variance says something
BACK_S = 60.0  # a clock that was set back by more than this begins a new history
FIELDS = len(LoadCounters._fields)


@dataclass(frozen=True, slots=True)
class Window:
    """Means over a time that has passed. demand: seconds of work at preferred tiers asked for per second, the largest
    of what routers say was asked, what came to the replicas, and what they have done; size_s: of a request, such that
    work of demand d, coming at random, varies from window to window by √(d · size_s ÷ elapsed_s); rate: seconds of
    work done per second; below: share of it served below its preferred tier; backlog_s: of all replicas, at preferred
    tiers. elapsed_s: shorter than asked for where the history is."""

    elapsed_s: float = 0.0
    demand: float = 0.0
    size_s: float = 0.0
    rate: float = 0.0
    below: float = 0.0
    backlog_s: float = 0.0

    def error(self, demand: float) -> float:
        """How far chance moves the demand seen in such a window: its standard deviation, were this the true one."""
        return math.sqrt(demand * self.size_s / self.elapsed_s) if self.elapsed_s > 0 else 0.0

    def above(self, capacity: float, errors: float) -> float:
        """The demand less one standard deviation, where chance does not explain that it is above a capacity; else 0.
        Windows are looked at again and again, so the one that stands out is likely to have come out too high."""
        if self.demand <= capacity + errors * self.error(capacity):
            return 0.0
        return max(capacity, self.demand - self.error(self.demand))


@dataclass
class History:
    """Sums over all sources through time. A source that is new, or whose sums start anew, counts from then on."""

    reach_s: float
    _times: list[float] = field(default_factory=list)
    _rows: list[tuple[float, ...]] = field(default_factory=list)  # LoadCounters, and backlog × time
    _totals: list[float] = field(default_factory=lambda: [0.0] * (FIELDS + 1))
    _last: dict[str, LoadCounters] = field(default_factory=dict)
    _at_s: float = -math.inf
    _backlog_s: float = 0.0

    def add(self, sources: Mapping[str, LoadCounters], backlog_s: float, now_s: float) -> None:
        """What all sources report now."""
        if now_s < self._at_s - BACK_S:
            self._times.clear()
            self._rows.clear()
            self._at_s = -math.inf
        if self._at_s > -math.inf:
            now_s = max(now_s, self._at_s)
            self._totals[FIELDS] += self._backlog_s * (now_s - self._at_s)
        for name, counts in sources.items():
            before = self._last.get(name)
            if before is not None:
                for i in range(FIELDS):
                    self._totals[i] += max(0.0, counts[i] - before[i])
        self._last = dict(sources)
        self._backlog_s, self._at_s = backlog_s, now_s
        if len(self._times) > 1 and now_s - self._times[-2] < SPACING_S:
            self._times[-1], self._rows[-1] = now_s, tuple(self._totals)
        else:
            self._times.append(now_s)
            self._rows.append(tuple(self._totals))
        old = bisect_right(self._times, now_s - self.reach_s) - 1
        if old > 256:  # forget in bulk
            del self._times[:old], self._rows[:old]

    def clump_s(self, window_s: float, recent_s: float) -> float:
        """In what clumps work has come: the variance of demand from second to second ÷ its mean, over a window that
        ends `recent_s` ago, so that a surge does not excuse itself. It is the size of a request where they come
        evenly at random, and more where they come together; 0 where too little is known."""
        end = bisect_right(self._times, self._at_s - recent_s) - 1
        place = max(0, bisect_right(self._times, self._at_s - recent_s - window_s) - 1)
        rates: list[float] = []
        seconds = 0.0
        for i in range(place + 1, end + 1):
            elapsed_s = self._times[i] - self._times[place]
            if elapsed_s >= CLUMP_S - 1e-3:
                new, old = self._rows[i], self._rows[place]
                rates.append(max(new[0] - old[0], new[2] - old[2]) / elapsed_s)
                seconds += elapsed_s
                place = i
        if len(rates) < MIN_CLUMPS or not (mean := sum(rates) / len(rates)) > 0:
            return 0.0
        return sum((rate - mean) ** 2 for rate in rates) / (len(rates) - 1) / mean * seconds / len(rates)

    def over(self, window_s: float, clump_s: float = 0.0) -> Window:
        """The last `window_s` seconds. clump_s: in which work is known to come, where that is more than its size."""
        if not self._times:
            return Window()
        place = max(0, bisect_right(self._times, self._at_s - window_s) - 1)
        elapsed_s = self._at_s - self._times[place]
        if elapsed_s <= 0:
            return Window()
        *sums, backlog = (new - old for new, old in zip(self._totals, self._rows[place], strict=True))
        now = LoadCounters(*sums)
        asked, wanted, done = (
            now.offered_load_s / elapsed_s,
            now.arrived_load_s / elapsed_s,
            now.device_load_s / elapsed_s,
        )
        seconds, squares = (
            (now.offered_load_s, now.offered_load_squares)
            if asked >= wanted
            else (now.arrived_load_s, now.arrived_load_squares)
        )
        return Window(
            elapsed_s,
            max(asked, wanted, done),
            max(clump_s, squares / seconds if seconds > 0 else 0.0),
            done,
            min(1.0, now.downgraded_load_s / now.served_load_s) if now.served_load_s > 0 else 0.0,
            backlog / elapsed_s,
        )
