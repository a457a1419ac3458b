"""How requests arrive: their typical budget, and how closely they follow one another."""

import math
from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass, field

from rankfleet.core.sections import MAX_SLO_MS, MIN_SLO_MS, Routing

REMEMBERED_BUDGETS = 256  # with fewer, the lower quartile is mostly noise


@dataclass(frozen=True, slots=True)
class ArrivalStats:
    """Recent arrivals in two numbers.

    typical_budget_ms: lower quartile of recent budgets (`RecentBudgets`), at most that of the default SLO class;
        infinity if neither is known
    burst_rate_per_s: mean over recent arrivals of the rate of arrivals just before each (`RecentRates`). 0 counts for
        an arrival that found nothing in progress: a client that waits for each answer before it sends its next request
        is delayed by no choice of tier. For Poisson arrivals at a busy replica this is the mean rate; for bursts it is
        far higher, since most requests arrive in a burst.
    """

    typical_budget_ms: float = math.inf
    burst_rate_per_s: float = 0.0

    def horizon_ms(self, price: float, routing: Routing) -> float:
        """The time in which a backlog has to drain. price: of device time, per typical budget of it.

            max(expected_arrivals ÷ burst_rate, horizon · typical_budget · price ** horizon_exponent)

        The first term is long when arrivals are sparse: no need to hold back for requests that will not come. The
        second lets a backlog wait longer for a tier that gains much. Infinite if no budget or no burst has been seen.
        """
        sparse_ms = routing.expected_arrivals / self.burst_rate_per_s * 1e3 if self.burst_rate_per_s > 0 else math.inf
        return max(sparse_ms, routing.horizon * self.typical_budget_ms * price**routing.horizon_exponent)


@dataclass
class RecentBudgets:
    """The budgets of the last REMEMBERED_BUDGETS requests that are not older than a limit, and their lower quartile.

    The lower quartile, so that short budgets count, and yet a client with fewer than a quarter of the requests can
    neither pull it below the others' budgets nor push it far above. The limit, so that a burst of short budgets is
    forgotten once it is over, however few requests follow.
    """

    _latest: deque[tuple[float, float]] = field(default_factory=deque)  # each with its time, oldest first
    _sorted: list[float] = field(default_factory=list)

    def add(self, budget_ms: float, now_s: float) -> None:
        """Remember a budget, clamped to MIN_SLO_MS … MAX_SLO_MS."""
        budget_ms = min(MAX_SLO_MS, max(MIN_SLO_MS, budget_ms))
        if len(self._latest) == REMEMBERED_BUDGETS:
            self._forget_oldest()
        self._latest.append((now_s, budget_ms))
        insort(self._sorted, budget_ms)

    def forget(self, before_s: float) -> None:
        """Forget what arrived before then."""
        while self._latest and self._latest[0][0] < before_s:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        del self._sorted[bisect_left(self._sorted, self._latest.popleft()[1])]

    @property
    def lower_quartile_ms(self) -> float:
        """Infinity before the first budget."""
        return self._sorted[len(self._sorted) // 4] if self._sorted else math.inf


@dataclass
class RecentRates:
    """The mean, over the arrivals that are not older than a limit, of the rate just before each.

    The limit, for the same reason as that of budgets: were arrivals to fade, those of a dense stream would outweigh
    the few that follow it for minutes.
    """

    _seconds: deque[list[float]] = field(default_factory=deque)  # start, arrivals and sum of their rates, oldest first

    def add(self, rate_per_s: float, now_s: float) -> None:
        """Remember the rate just before an arrival."""
        if not self._seconds or now_s - self._seconds[-1][0] >= 1.0:
            self._seconds.append([now_s, 0.0, 0.0])
        second = self._seconds[-1]
        second[1] += 1.0
        second[2] += rate_per_s

    def forget(self, before_s: float) -> None:
        """Forget the seconds that began before then."""
        while self._seconds and self._seconds[0][0] < before_s:
            self._seconds.popleft()

    @property
    def mean_per_s(self) -> float:
        """0 before the first arrival."""
        return sum(rates for _, _, rates in self._seconds) / max(1.0, sum(count for _, count, _ in self._seconds))


@dataclass
class ArrivalMeter:
    """Measures `ArrivalStats`. Rates and budgets are forgotten after memory_s.

    default_slo_ms: budget of the default SLO class, infinity if it has none. Without this bound, whoever sends most of
        the requests could make every other budget a short one by giving his own an hour.
    stats: as of the last arrival
    """

    routing: Routing
    default_slo_ms: float = math.inf
    stats: ArrivalStats = field(default_factory=ArrivalStats)
    _budgets: RecentBudgets = field(default_factory=RecentBudgets)
    _rates: RecentRates = field(default_factory=RecentRates)
    _last_arrival_s: float = -math.inf
    _rate_per_s: float = 0.0

    def arrived(self, budget_ms: float, now_s: float, found_idle: bool = False) -> None:
        """Count one request.

        budget_ms: time left until its deadline; infinity for none
        found_idle: whether nothing else was in progress when it arrived
        """
        elapsed_s = max(0.0, now_s - self._last_arrival_s)
        self._budgets.forget(now_s - self.routing.memory_s)
        self._rates.forget(now_s - self.routing.memory_s)
        if 0 < budget_ms < math.inf:
            self._budgets.add(budget_ms, now_s)
        typical_budget_ms = min(self._budgets.lower_quartile_ms, self.default_slo_ms)
        # Without budgets there is no scale of time by which to judge a burst, and none is needed.
        window_s = self.routing.arrival_window * typical_budget_ms / 1e3
        rate = self._rate_per_s * math.exp(-elapsed_s / window_s) if window_s < math.inf else 0.0
        self._rates.add(0.0 if found_idle else rate, now_s)
        self._rate_per_s = rate + 1 / window_s
        self._last_arrival_s = now_s
        self.stats = ArrivalStats(typical_budget_ms, self._rates.mean_per_s)
