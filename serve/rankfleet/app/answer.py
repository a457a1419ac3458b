"""What a router knows of one request while it is answered: what was asked, and what has been scored so far."""

import math
from dataclasses import dataclass, replace

import numpy as np

from rankfleet.app.dispatch import Scored
from rankfleet.app.target import Target
from rankfleet.app.texts import TokenizedTexts
from rankfleet.core.errors import Overloaded
from rankfleet.core.messages import Assignment, Plan, RerankRequest, Stage, Timing
from rankfleet.core.sections import NONE
from rankfleet.routing.candidates import Ask
from rankfleet.routing.planner import Refusal

EXPIRED = "the budget ended in the queue"


@dataclass
class Asked:
    """A request that has been read: what it wants, its texts as token ids, and what the planner is told."""

    request: RerankRequest
    target: Target
    assignment: Assignment | None
    texts: TokenizedTexts
    ask: Ask
    timing: Timing

    @property
    def deadline_s(self) -> float:
        return math.inf if self.ask.budget_ms is None else self.ask.arrived_s + self.ask.budget_ms / 1e3


@dataclass
class Answer:
    """What has been scored so far. scores: of the documents that were, in the order given, which come first in the
    request; stages: who has scored how many; partial: whether the deadline left out a stage."""

    scores: np.ndarray
    stages: tuple[Stage, ...]
    tokens: int
    truncated: list[int]
    passages: list[int]
    partial: bool = False

    @staticmethod
    def empty() -> "Answer":
        return Answer(np.empty(0, dtype=np.float32), (), 0, [], [])


def refused(decision: Refusal) -> Overloaded:
    return Overloaded(f"{decision.reason}; retry later or allow more time", decision.retry_after_s)


def note(timing: Timing, scored: Scored) -> None:
    """Stages follow one another: their times add up."""
    timing.queue_ms += scored.queue_ms
    timing.infer_ms += scored.infer_ms


def finite(scores: np.ndarray, tier: str) -> np.ndarray:
    if not np.isfinite(scores).all():
        raise FloatingPointError(f"tier {tier} gave scores that are not finite")
    return scores


def unscored(decision: Plan) -> Plan:
    """What is left of a plan when its time has run out before its turn came."""
    how = "the order as given"
    reason = f"{decision.reason}; {EXPIRED}: {how} instead"
    return replace(decision, tier=NONE, quality=0.0, fits=False, reason=reason, candidates=0, degraded=how)
