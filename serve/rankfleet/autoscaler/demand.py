"""Demand on a group: rates over windows of time, from the counters that replicas and routers report."""

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field

from rankfleet.estimates.load import LoadCounters

SPACING_S = 0.25  # between the rows of a history; a finer one changes no decision
BIN_S = 1.0  # over which demand is averaged before its variance is taken
MIN_BINS = 10  # with fewer, their variance says nothing
FIELDS = len(LoadCounters._fields)
OFFERED, ARRIVED = (LoadCounters._fields.index(name) for name in ("offered_load_s", "arrived_load_s"))


@dataclass(frozen=True, slots=True)
class Window:
    """Means over a window of time. Loads are in seconds of work per second.

    elapsed_s: length of the window; shorter than requested if the history is
    demand: the largest of the offered, the arrived and the device load (`estimates/load.py`)
    dispersion_s: variance ÷ mean of the work that arrives in a second, in seconds of work (index of dispersion)
    device_load: work done, at the tiers that did it
    downgraded_share: share of the served load that a tier of lower quality has scored
    backlog_s: of all replicas, by the unloaded plans
    """

    elapsed_s: float = 0.0
    demand: float = 0.0
    dispersion_s: float = 0.0
    device_load: float = 0.0
    downgraded_share: float = 0.0
    backlog_s: float = 0.0

    def standard_error(self, demand: float) -> float:
        """√(demand · dispersion ÷ elapsed): by how much the demand seen in such a window varies around a true mean."""
        return math.sqrt(demand * self.dispersion_s / self.elapsed_s) if self.elapsed_s > 0 else 0.0

    def demand_above(self, capacity: float, sigmas: float) -> float:
        """The demand if it is above a capacity by more than `sigmas` standard errors; else 0.

        One standard error is subtracted: windows are tested again and again, so one that stands out is likely to have
        come out too high.
        """
        if self.demand <= capacity + sigmas * self.standard_error(capacity):
            return 0.0
        return max(capacity, self.demand - self.standard_error(self.demand))


@dataclass
class History:
    """The sums of all sources' counters over time.

    max_age_s: how far back windows may reach

    A source that is new counts from its first report on, and one that starts again at 0 from then on.
    """

    max_age_s: float
    _times: list[float] = field(default_factory=list)
    _rows: list[tuple[float, ...]] = field(default_factory=list)  # at each time: the counters, and Σ backlog · time
    _totals: list[float] = field(default_factory=lambda: [0.0] * (FIELDS + 1))  # the newest row
    _last: dict[str, LoadCounters] = field(default_factory=dict)
    _now_s: float = 0.0
    _backlog_s: float = 0.0

    def add(self, sources: Mapping[str, LoadCounters], backlog_s: float, now_s: float) -> None:
        """Add what all sources report now. now_s: by a steady clock."""
        self._totals[FIELDS] += self._backlog_s * (now_s - self._now_s)
        for name, counters in sources.items():
            before = self._last.get(name, counters)
            for i in range(FIELDS):
                self._totals[i] += max(0.0, counters[i] - before[i])
        self._last = dict(sources)
        self._backlog_s, self._now_s = backlog_s, now_s
        if len(self._times) > 1 and now_s - self._times[-2] < SPACING_S:
            self._times[-1], self._rows[-1] = now_s, tuple(self._totals)
        else:
            self._times.append(now_s)
            self._rows.append(tuple(self._totals))
        old = bisect_right(self._times, now_s - self.max_age_s) - 1
        if old > 256:  # delete in bulk
            del self._times[:old], self._rows[:old]

    def dispersion_s(self, window_s: float, excluded_s: float) -> float:
        """Variance ÷ mean of demand from second to second; 0 if there are too few seconds.

        For single requests at random it is the size of a request; for requests that come in bursts it is more. The
        window ends `excluded_s` ago, so that a surge does not count as ordinary variation.
        """
        end = self._row_at(self._now_s - excluded_s)
        start = max(0, self._row_at(self._now_s - excluded_s - window_s))
        rates: list[float] = []
        seconds = 0.0
        for i in range(start + 1, end + 1):
            elapsed_s = self._times[i] - self._times[start]
            if elapsed_s >= BIN_S - 1e-3:
                new, old = self._rows[i], self._rows[start]
                rates.append(max(new[OFFERED] - old[OFFERED], new[ARRIVED] - old[ARRIVED]) / elapsed_s)
                seconds += elapsed_s
                start = i
        if len(rates) < MIN_BINS or not (mean := sum(rates) / len(rates)) > 0:
            return 0.0
        return sum((rate - mean) ** 2 for rate in rates) / (len(rates) - 1) / mean * seconds / len(rates)

    def over(self, window_s: float, min_dispersion_s: float = 0.0) -> Window:
        """The last `window_s` seconds before what was added last.

        Their dispersion is that of single requests at random, Σ size² ÷ Σ size, or `min_dispersion_s` if that is more.
        """
        start = max(0, self._row_at(self._now_s - window_s))
        elapsed_s = self._now_s - self._times[start]
        if elapsed_s <= 0:
            return Window()
        *sums, backlog = (new - old for new, old in zip(self._totals, self._rows[start], strict=True))
        grown = LoadCounters(*sums)
        offered_load = grown.offered_load_s / elapsed_s
        arrived_load = grown.arrived_load_s / elapsed_s
        device_load = grown.device_load_s / elapsed_s
        seconds, squares = (
            (grown.offered_load_s, grown.offered_load_squares)
            if offered_load >= arrived_load
            else (grown.arrived_load_s, grown.arrived_load_squares)
        )
        return Window(
            elapsed_s,
            max(offered_load, arrived_load, device_load),
            max(min_dispersion_s, squares / seconds if seconds > 0 else 0.0),
            device_load,
            min(1.0, grown.downgraded_load_s / grown.served_load_s) if grown.served_load_s > 0 else 0.0,
            backlog / elapsed_s,
        )

    def _row_at(self, time_s: float) -> int:
        """Index of the last row that is not after this time; −1 if there is none."""
        return bisect_right(self._times, time_s) - 1
