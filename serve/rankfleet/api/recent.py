"""What became of the requests of the last minutes at this router, for GET /v1/fleet."""

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from rankfleet.core.errors import (
    Expired,
    Overloaded,
    RankfleetError,
    RateLimited,
    ScoringFailed,
    Unauthorized,
    Unavailable,
)
from rankfleet.core.messages import Ranking
from rankfleet.core.sections import UNSCORED

PERIOD_S = 300.0
MAX_REQUESTS = 5000  # that are remembered
# Codes of requests that the fleet could not serve, through no fault of the client's.
NOT_SERVED = {each.code for each in (Expired, Overloaded, RankfleetError, RateLimited, ScoringFailed, Unavailable)}


@dataclass(frozen=True, slots=True)
class Answered:
    """How one answer came about. Fields as in `Plan`; total_ms: measured at the router; met: None without a budget."""

    tier: str
    reason: str
    quality: float
    predicted_ms: float
    budget_ms: float | None
    total_ms: float
    met: bool | None


class Recent:
    """The last requests, without their texts. Times are seconds of `clock`.

    not_served: how many requests the fleet could not serve since this process started, by the code of the error
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._since_s = clock()
        self.not_served: Counter[str] = Counter()
        self._outcomes: deque[tuple[float, Answered | str]] = deque(maxlen=MAX_REQUESTS)  # a refusal by its code

    def answered(self, ranking: Ranking) -> None:
        plan = ranking.plan
        times = (plan.predicted_ms, plan.budget_ms, ranking.timing.total_ms, ranking.met)
        answer = Answered(plan.tier or UNSCORED, plan.reason, plan.quality, *times)
        self._outcomes.append((self._clock(), answer))

    def refused(self, code: str) -> None:
        """code: of the error. Who has no key cannot push out what others have done."""
        if code != Unauthorized.code:
            self._outcomes.append((self._clock(), code))
        if code in NOT_SERVED:
            self.not_served[code] += 1

    def period_s(self) -> float:
        """The seconds that are looked back: fewer than PERIOD_S after a start, and where requests are many."""
        full = len(self._outcomes) == MAX_REQUESTS
        return min(PERIOD_S, self._clock() - (self._outcomes[0][0] if full else self._since_s))

    def answers(self) -> list[tuple[float, Answered]]:
        """(seconds ago, answer), the newest first."""
        now_s = self._clock()
        ages = ((now_s - at_s, each) for at_s, each in reversed(self._outcomes) if isinstance(each, Answered))
        return [(age_s, each) for age_s, each in ages if age_s <= PERIOD_S]

    def refusals(self) -> dict[str, int]:
        """How many requests were refused or failed, by the code of the error."""
        first_s = self._clock() - PERIOD_S
        return dict(Counter(each for at_s, each in self._outcomes if isinstance(each, str) and at_s >= first_s))
