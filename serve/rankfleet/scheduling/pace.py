"""How a replica is being asked: how much time requests bring, and how closely they follow one another."""

import math
from dataclasses import dataclass, field

from rankfleet.core.sections import Routing


@dataclass(frozen=True, slots=True)
class Pace:
    """budget_ms: what requests typically bring (harmonic mean, so that the short ones count); crowd_per_s: the
    rate of arrivals at the moments when requests arrived, 0 for those that met nobody under way: whoever asks again
    when the last answer is there, and only then, is held up by no choice of tier. For evenly random arrivals at a
    busy replica that is their mean rate; the more they come in bursts, the further it lies above."""

    budget_ms: float = math.inf
    crowd_per_s: float = 0.0

    def horizon_ms(self, price: float, rule: Routing) -> float:
        """Until when a backlog has to have drained, at this price per typical budget of device time.

        max(expected_arrivals ÷ crowd, horizon × budget × price ** horizon_exponent). The first keeps a calm fleet
        from holding back for requests that will not come; the second lets a backlog wait longer for a step that
        gains much. Infinite where no budget or no arrival has been seen.
        """
        calm_ms = rule.expected_arrivals / self.crowd_per_s * 1e3 if self.crowd_per_s > 0 else math.inf
        return max(calm_ms, rule.horizon * self.budget_ms * price**rule.horizon_exponent)


@dataclass
class PaceMeter:
    """Means over the arrivals of the last `memory_s` seconds or so, older ones fading exponentially."""

    rule: Routing
    _at_s: float = -math.inf
    _rate_per_s: float = 0.0
    _seen: float = 0.0
    _rates: float = 0.0
    _budgeted: float = 0.0
    _hastes: float = 0.0  # sum of 1 ÷ budget
    _pace: Pace = field(default_factory=Pace)

    def arrived(self, budget_ms: float, now_s: float, alone: bool = False) -> None:
        """One request came, with so much time left; infinity for no limit. alone: nothing else was under way."""
        elapsed_s = max(0.0, now_s - self._at_s)
        fade = math.exp(-elapsed_s / self.rule.memory_s)
        if 0 < budget_ms < math.inf:
            self._budgeted = self._budgeted * fade + 1
            self._hastes = self._hastes * fade + 1 / budget_ms
        budget = self._budgeted / self._hastes if self._hastes > 0 else math.inf
        # Without budgets there is no scale of time to judge a crowd by, and none is needed.
        window_s = self.rule.crowd_window * budget / 1e3
        rate = self._rate_per_s * math.exp(-elapsed_s / window_s) if window_s < math.inf else 0.0
        self._seen = self._seen * fade + 1
        self._rates = self._rates * fade + (0.0 if alone else rate)
        self._rate_per_s = rate + 1 / window_s
        self._at_s = now_s
        self._pace = Pace(budget, self._rates / self._seen)

    @property
    def pace(self) -> Pace:
        return self._pace
