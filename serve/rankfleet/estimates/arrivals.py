"""How requests arrive: their typical budget, and how closely they follow one another."""

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from dataclasses import dataclass, field, replace

from rankfleet.core.sections import MAX_SLO_MS, MIN_SLO_MS, Routing

REMEMBERED_BUDGETS = 256  # with fewer, the lower quartile is mostly noise
SIZES = tuple(64 * 4**i for i in range(7))  # of requests in tokens: 64 to 262,144, coarser than those of one kind vary


@dataclass(frozen=True, slots=True)
class ArrivalStats:
    """Recent arrivals: their budgets, and how closely they follow one another.

    typical_budget_ms: lower quartile of recent budgets (`RecentBudgets`), at most that of the default SLO class;
        infinity if neither is known
    shortest_budget_ms: the smallest of the tenants' own lower quartiles, at most typical_budget_ms, which it is without
        tenants. Work with more time can wait. If typical_budget_ms decided that, a tenant with three quarters of all
        requests, however small, could raise it; its large requests would run whole and block short budgets of others
    burst_rates_per_s: mean over recent arrivals of the rate of arrivals just before each (`RecentRates`), for a
        request of each of SIZES. A smaller arrival that has more time than is typical counts for its share of that:
        a stream of tiny requests holds others back by its work and not by its number. With less time it would be late
        behind a long batch, however small it is. 0 counts for an arrival that found nothing in progress: a client
        that waits for each answer before it sends its next request is delayed by no choice of tier. For Poisson
        arrivals at a busy replica this is the mean rate; for bursts it is far higher, since most requests arrive in a
        burst.
    """

    typical_budget_ms: float = math.inf
    shortest_budget_ms: float = math.inf
    burst_rates_per_s: tuple[float, ...] = (0.0,) * len(SIZES)

    def burst_rate_per_s(self, tokens: int) -> float:
        """As it concerns a request of so many tokens."""
        return self.burst_rates_per_s[max(0, bisect_right(SIZES, tokens) - 1)]

    def at_one_of(self, replicas: int) -> "ArrivalStats":
        """Where they spread evenly over so many replicas."""
        return replace(self, burst_rates_per_s=tuple(rate / replicas for rate in self.burst_rates_per_s))

    def horizon_ms(self, price: float, routing: Routing, tokens: int) -> float:
        """The time in which a backlog has to drain.

        price: of device time, per typical budget of it
        tokens: of the largest request in the backlog

            max(expected_arrivals ÷ burst_rate, horizon · typical_budget · price ** horizon_exponent)

        The first term is long when arrivals are sparse: no need to hold back for requests that will not come. The
        second lets a backlog wait longer for a tier that gains much. Infinite if no budget or no burst has been seen.
        """
        rate_per_s = self.burst_rate_per_s(tokens)
        sparse_ms = routing.expected_arrivals / rate_per_s * 1e3 if rate_per_s > 0 else math.inf
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

    def forget(self, before_s: float) -> bool:
        """Forget what arrived before then. Returns whether there was any."""
        count = len(self._latest)
        while self._latest and self._latest[0][0] < before_s:
            self._forget_oldest()
        return len(self._latest) < count

    def _forget_oldest(self) -> None:
        del self._sorted[bisect_left(self._sorted, self._latest.popleft()[1])]

    @property
    def lower_quartile_ms(self) -> float:
        """Infinity before the first budget."""
        return self._sorted[len(self._sorted) // 4] if self._sorted else math.inf


@dataclass
class RecentRates:
    """The mean, over the arrivals that are not older than a limit, of the rate just before each. Both count an arrival
    by its weight.

    The limit, for the same reason as that of budgets: were arrivals to fade, those of a dense stream would outweigh
    the few that follow it for minutes.
    """

    _rate_per_s: float = 0.0  # just after the last arrival
    _seconds: deque[list[float]] = field(default_factory=deque)  # start, sums of weights and of weighted rates
    _weights: float = 0.0  # sums of those
    _weighted: float = 0.0

    def arrived(self, weight: float, kept: float, window_s: float, now_s: float, found_idle: bool) -> None:
        """Count an arrival. kept: of the rate after the one before it. window_s: in which the rate fades."""
        self._rate_per_s *= kept
        if not self._seconds or now_s - self._seconds[-1][0] >= 1.0:
            self._seconds.append([now_s, 0.0, 0.0])
        second, weighted = self._seconds[-1], 0.0 if found_idle else weight * self._rate_per_s
        second[1] += weight
        second[2] += weighted
        self._weights += weight
        self._weighted += weighted
        self._rate_per_s += weight / window_s

    def forget(self, before_s: float) -> bool:
        """Forget the seconds that began before then. Returns whether there were any."""
        count = len(self._seconds)
        while self._seconds and self._seconds[0][0] < before_s:
            _, weights, weighted = self._seconds.popleft()
            self._weights, self._weighted = self._weights - weights, self._weighted - weighted
        if not self._seconds:
            self._weights = self._weighted = 0.0  # without what rounding has left
        return len(self._seconds) < count

    @property
    def mean_per_s(self) -> float:
        """0 before the first arrival."""
        return max(0.0, self._weighted / self._weights) if self._weights > 0 else 0.0


@dataclass
class ArrivalMeter:
    """Measures `ArrivalStats`. Rates and budgets are forgotten after memory_s.

    default_slo_ms: budget of the default SLO class, infinity if it has none. Without this bound, whoever sends most of
        the requests could make every other budget a short one by giving his own an hour.
    stats: as of the last arrival, or of the last look at it (`at`) if that was later
    """

    routing: Routing
    default_slo_ms: float = math.inf
    stats: ArrivalStats = field(default_factory=ArrivalStats)
    _budgets: RecentBudgets = field(default_factory=RecentBudgets)
    _budgets_of: dict[str, RecentBudgets] = field(default_factory=dict)  # by tenant
    _rates: tuple[RecentRates, ...] = field(default_factory=lambda: tuple(RecentRates() for _ in SIZES))
    _last_arrival_s: float = -math.inf

    def arrived(
        self, budget_ms: float, now_s: float, tokens: int, found_idle: bool = False, tenant: str | None = None
    ) -> None:
        """Count one request.

        budget_ms: time left until its deadline; infinity for none
        tokens: of its pairs
        found_idle: whether nothing else was in progress when it arrived
        tenant: whose it is; None if it has none
        """
        elapsed_s = max(0.0, now_s - self._last_arrival_s)
        self._forget(now_s)
        if 0 < budget_ms < math.inf:
            self._budgets.add(budget_ms, now_s)
            if tenant is not None:
                self._budgets_of.setdefault(tenant, RecentBudgets()).add(budget_ms, now_s)
        typical_budget_ms = self._typical_budget_ms
        # Without budgets there is no scale of time by which to judge a burst, and none is needed.
        window_s = self.routing.arrival_window * typical_budget_ms / 1e3
        kept = math.exp(-elapsed_s / window_s) if window_s < math.inf else 0.0
        counted = tokens if budget_ms > typical_budget_ms else math.inf
        for size, rates in zip(SIZES, self._rates, strict=True):
            rates.arrived(min(1.0, counted / size), kept, window_s, now_s, found_idle)
        self._last_arrival_s = now_s
        self._measure()

    def at(self, now_s: float) -> ArrivalStats:
        """As they are now: a burst is forgotten though nothing has come since."""
        if self._forget(now_s):
            self._measure()
        return self.stats

    @property
    def _typical_budget_ms(self) -> float:
        return min(self._budgets.lower_quartile_ms, self.default_slo_ms)

    def _measure(self) -> None:
        typical_budget_ms = self._typical_budget_ms
        self.stats = ArrivalStats(
            typical_budget_ms,
            min([typical_budget_ms, *(budgets.lower_quartile_ms for budgets in self._budgets_of.values())]),
            tuple(rates.mean_per_s for rates in self._rates),
        )

    def _forget(self, now_s: float) -> bool:
        """Forget what is older than memory_s. Returns whether there was any."""
        kept: tuple[RecentBudgets | RecentRates, ...] = (self._budgets, *self._budgets_of.values(), *self._rates)
        return sum(each.forget(now_s - self.routing.memory_s) for each in kept) > 0
