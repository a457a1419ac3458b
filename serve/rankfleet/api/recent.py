"""What became of the requests of the last minutes at this router, for GET /v1/fleet."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
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
    """The last requests, without their texts. Times are seconds of `clock`. Counts are kept, not made when asked for:
    a page that is open asks every second.

    tiers: answers by tier. with_budget: answers to requests with a budget. met: of these, those in time.
    not_served: how many requests the fleet could not serve since this process started, by the code of the error
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._since_s = clock()
        self._outcomes: deque[tuple[float, Answered | str]] = deque()  # a refusal by its code
        self.tiers: Counter[str] = Counter()
        self.with_budget = self.met = 0
        self._refused: Counter[str] = Counter()
        self.not_served: Counter[str] = Counter()

    def answered(self, ranking: Ranking) -> None:
        plan = ranking.plan
        times = (plan.predicted_ms, plan.budget_ms, ranking.timing.total_ms, ranking.met)
        self._add(Answered(plan.tier or UNSCORED, plan.reason, plan.quality, *times))

    def refused(self, code: str) -> None:
        """code: of the error. Who has no key cannot push out what others have done."""
        if code != Unauthorized.code:
            self._add(code)
        if code in NOT_SERVED:
            self.not_served[code] += 1

    def _add(self, outcome: Answered | str) -> None:
        self._outcomes.append((self._clock(), outcome))
        self._count(outcome, 1)
        if len(self._outcomes) > MAX_REQUESTS:
            self._forget_first()

    def _count(self, outcome: Answered | str, by: int) -> None:
        if isinstance(outcome, str):
            self._refused[outcome] += by
            return
        self.tiers[outcome.tier] += by
        self.with_budget += by * (outcome.met is not None)
        self.met += by * (outcome.met is True)

    def _forget_first(self) -> None:
        self._count(self._outcomes.popleft()[1], -1)

    def forget_old(self) -> None:
        """Leave out of all counts what is older than PERIOD_S."""
        first_s = self._clock() - PERIOD_S
        while self._outcomes and self._outcomes[0][0] < first_s:
            self._forget_first()

    def period_s(self) -> float:
        """The seconds that are looked back: fewer than PERIOD_S after a start, and where requests are many."""
        full = len(self._outcomes) == MAX_REQUESTS
        return min(PERIOD_S, self._clock() - (self._outcomes[0][0] if full else self._since_s))

    def answers(self) -> Iterator[tuple[float, Answered]]:
        """(seconds ago, answer), the newest first."""
        now_s = self._clock()
        return ((now_s - at_s, each) for at_s, each in reversed(self._outcomes) if isinstance(each, Answered))

    def refusals(self) -> dict[str, int]:
        """How many requests were refused or failed, by the code of the error."""
        self.forget_old()
        return dict(+self._refused)
