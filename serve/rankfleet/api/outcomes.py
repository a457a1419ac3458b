"""What became of each request, for metrics, health and GET /v1/fleet."""

from typing import Protocol

from rankfleet.api.recent import Recent
from rankfleet.core.messages import Ranking
from rankfleet.core.quiet import quietly
from rankfleet.router.health import RouterHealth


class RequestMetrics(Protocol):
    """Counts requests."""

    def answered(self, ranking: Ranking) -> None: ...

    def refused(self, code: str) -> None:
        """code: of the error (`core/errors.py`)."""


class Outcomes:
    """Tells metrics, health and `Recent` what became of each request. An error of the metrics never fails a request."""

    def __init__(self, metrics: RequestMetrics, health: RouterHealth, recent: Recent) -> None:
        self._health = health
        self._recent = recent
        self._count_answered = quietly(metrics.answered)
        self._count_refused = quietly(metrics.refused)

    def answered(self, ranking: Ranking) -> None:
        if ranking.stages:
            self._health.answered()
        self._recent.answered(ranking)
        self._count_answered(ranking)

    def refused(self, code: str) -> None:
        """code: of the error."""
        self._recent.refused(code)
        self._count_refused(code)

    def failed(self, code: str, expected: bool) -> None:
        """expected: whether the error is one of Rankfleet's own; health counts the others."""
        if not expected:
            self._health.failed()
        self.refused(code)
