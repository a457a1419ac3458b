"""How a replica is being asked: how much time requests bring, and how closely they follow one another."""

import math
from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass, field

from rankfleet.core.sections import MAX_SLO_MS, MIN_SLO_MS, Routing

REMEMBERED = 256  # budgets; with fewer a quartile is a matter of luck


@dataclass(frozen=True, slots=True)
class ArrivalStats:
    """budget_ms: what requests typically bring (see `Budgets`); burst_rate_per_s: the rate of arrivals at the moments
    when requests arrived, 0 for those that met nobody under way: whoever asks again when the last answer is there, and
    only then, is held up by no choice of tier. For evenly random arrivals at a busy replica that is their mean rate;
    the more they come in bursts, the further it lies above."""

    budget_ms: float = math.inf
    burst_rate_per_s: float = 0.0

    def horizon_ms(self, price: float, rule: Routing) -> float:
        """Until when a backlog has to have drained, at this price per typical budget of device time.

        max(expected_arrivals ÷ crowd, horizon × budget × price ** horizon_exponent). The first keeps a calm fleet
        from holding back for requests that will not come; the second lets a backlog wait longer for a step that
        gains much. Infinite where no budget or no arrival has been seen.
        """
        calm_ms = rule.expected_arrivals / self.burst_rate_per_s * 1e3 if self.burst_rate_per_s > 0 else math.inf
        return max(calm_ms, rule.horizon * self.budget_ms * price**rule.horizon_exponent)


@dataclass
class Budgets:
    """The budgets of the last REMEMBERED requests. Typical is their lower quartile: the short ones count, and yet who
    sends fewer than a quarter of the requests cannot move it below what the others bring, nor far above."""

    _latest: deque[float] = field(default_factory=deque)
    _sorted: list[float] = field(default_factory=list)

    def add(self, budget_ms: float) -> None:
        """budget_ms: counted as at least MIN_SLO_MS and at most MAX_SLO_MS."""
        budget_ms = min(MAX_SLO_MS, max(MIN_SLO_MS, budget_ms))
        if len(self._latest) == REMEMBERED:
            del self._sorted[bisect_left(self._sorted, self._latest.popleft())]
        self._latest.append(budget_ms)
        insort(self._sorted, budget_ms)

    @property
    def typical_ms(self) -> float:
        """Infinity where none has been seen."""
        return self._sorted[len(self._sorted) // 4] if self._sorted else math.inf


@dataclass
class ArrivalMeter:
    """Means over the arrivals of the last `memory_s` seconds or so, older ones fading exponentially."""

    rule: Routing
    _budgets: Budgets = field(default_factory=Budgets)
    _at_s: float = -math.inf
    _rate_per_s: float = 0.0
    _seen: float = 0.0
    _rates: float = 0.0
    _pace: ArrivalStats = field(default_factory=ArrivalStats)

    def arrived(self, budget_ms: float, now_s: float, alone: bool = False) -> None:
        """One request came, with so much time left; infinity for no limit. alone: nothing else was under way."""
        elapsed_s = max(0.0, now_s - self._at_s)
        fade = math.exp(-elapsed_s / self.rule.memory_s)
        if 0 < budget_ms < math.inf:
            self._budgets.add(budget_ms)
        budget = self._budgets.typical_ms
        # Without budgets there is no scale of time to judge a crowd by, and none is needed.
        window_s = self.rule.arrival_window * budget / 1e3
        rate = self._rate_per_s * math.exp(-elapsed_s / window_s) if window_s < math.inf else 0.0
        self._seen = self._seen * fade + 1
        self._rates = self._rates * fade + (0.0 if alone else rate)
        self._rate_per_s = rate + 1 / window_s
        self._at_s = now_s
        self._pace = ArrivalStats(budget, self._rates / self._seen)

    @property
    def arrivals(self) -> ArrivalStats:
        return self._pace
