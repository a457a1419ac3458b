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
    burst_rate_per_s: mean over recent arrivals of the rate of arrivals just before each. 0 counts for an arrival that
        found nothing in progress: a client that waits for each answer before it sends its next request is delayed by
        no choice of tier. For Poisson arrivals at a busy replica this is the mean rate; for bursts it is far higher,
        since most requests arrive in a burst.
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
class ArrivalMeter:
    """Measures `ArrivalStats`. Rates are weighted by exp(−age ÷ memory_s), budgets forgotten after memory_s.

    default_slo_ms: budget of the default SLO class, infinity if it has none. Without this bound, whoever sends most of
        the requests could make every other budget a short one by giving his own an hour.
    stats: as of the last arrival
    """

    routing: Routing
    default_slo_ms: float = math.inf
    stats: ArrivalStats = field(default_factory=ArrivalStats)
    _budgets: RecentBudgets = field(default_factory=RecentBudgets)
    _last_arrival_s: float = -math.inf
    _rate_per_s: float = 0.0
    _weight: float = 0.0  # sum of the weights of all arrivals
    _weighted_rates: float = 0.0  # sum of weight · rate of arrivals just before

    def arrived(self, budget_ms: float, now_s: float, found_idle: bool = False) -> None:
        """Count one request.

        budget_ms: time left until its deadline; infinity for none
        found_idle: whether nothing else was in progress when it arrived
        """
        elapsed_s = max(0.0, now_s - self._last_arrival_s)
        fade = math.exp(-elapsed_s / self.routing.memory_s)
        self._budgets.forget(now_s - self.routing.memory_s)
        if 0 < budget_ms < math.inf:
            self._budgets.add(budget_ms, now_s)
        typical_budget_ms = min(self._budgets.lower_quartile_ms, self.default_slo_ms)
        # Without budgets there is no scale of time by which to judge a burst, and none is needed.
        window_s = self.routing.arrival_window * typical_budget_ms / 1e3
        rate = self._rate_per_s * math.exp(-elapsed_s / window_s) if window_s < math.inf else 0.0
        self._weight = self._weight * fade + 1
        self._weighted_rates = self._weighted_rates * fade + (0.0 if found_idle else rate)
        self._rate_per_s = rate + 1 / window_s
        self._last_arrival_s = now_s
        self.stats = ArrivalStats(typical_budget_ms, self._weighted_rates / self._weight)
