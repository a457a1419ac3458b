"""What a router knows of one request while it is answered: what was asked, and what has been scored so far."""

import math
from dataclasses import dataclass, replace

import numpy as np

from rankfleet.core.errors import Infeasible, InvalidRequest, Overloaded, RequestError, ScoringFailed
from rankfleet.core.messages import Assignment, Plan, RerankRequest, Stage, Timing
from rankfleet.core.sections import NONE
from rankfleet.router.dispatch import DispatchResult
from rankfleet.router.plan_options import PlanRequest
from rankfleet.router.planner import Refusal
from rankfleet.router.resolve import Target
from rankfleet.router.tokenize import Part, TokenizedTexts

EXPIRED = "the budget ended in the queue"
NO_SECOND = "no time was left for the second stage"


@dataclass(frozen=True)
class CheckedRequest:
    """A request that has been checked: who may answer it, and when it came."""

    request: RerankRequest
    target: Target
    assignment: Assignment | None
    arrived_s: float


@dataclass
class TokenizedRequest:
    """A request that has been read: what it wants, its texts as token ids, and what the planner is told."""

    request: RerankRequest
    target: Target
    assignment: Assignment | None
    texts: TokenizedTexts
    ask: PlanRequest
    timing: Timing

    @property
    def deadline_s(self) -> float:
        return math.inf if self.ask.budget_ms is None else self.ask.arrived_s + self.ask.budget_ms / 1e3

    @property
    def late_is_fine(self) -> bool:
        """A tier that was asked for answers late rather than not at all, unless the class says refuse."""
        return self.ask.pinned is not None and self.ask.when_none_fits == "degrade"


@dataclass
class Answer:
    """What has been scored so far. order: places of the scored documents, best first; scores: by place; these come
    first in the request; stages: who has scored how many; left_out: why the second stage was, if it was; fault: where
    that was for an error."""

    order: np.ndarray
    scores: np.ndarray
    stages: tuple[Stage, ...]
    tokens: int
    truncated: list[int]
    passages: list[int]
    pairs: int = 0
    left_out: str = ""
    fault: Exception | None = None

    @staticmethod
    def empty() -> "Answer":
        return Answer(np.empty(0, dtype=np.int64), np.empty(0), (), 0, [], [])

    @staticmethod
    def of(scored: DispatchResult, part: Part) -> "Answer":
        """Of a single stage: by score, ties in the order given."""
        scores = document_scores(scored, part)
        layout = part.layout
        stages = (Stage(scored.tier, len(layout.firsts)),)
        order = np.argsort(-scores, kind="stable")
        passages = layout.counts.tolist()
        return Answer(order, scores, stages, part.pairs.tokens, layout.truncated, passages, len(part.pairs))


def document_scores(scored: DispatchResult, part: Part) -> np.ndarray:
    """[documents]: each one's best passage. Raises ScoringFailed."""
    if not np.isfinite(scored.logits).all():
        raise ScoringFailed(f"tier {scored.tier} gave scores that are not finite")
    return part.layout.best(scored.logits)


def refused(decision: Refusal) -> RequestError:
    """The error that a client gets. Only load passes, so only then it is told to try again."""
    if decision.cause == "quality":
        return InvalidRequest(f"{decision.reason}; ask for less, or leave min_quality out")
    if decision.cause == "budget":
        return Infeasible(f"{decision.reason}; allow more time or send fewer documents")
    return Overloaded(f"{decision.reason}; retry later or allow more time", decision.retry_after_s)


def note(timing: Timing, scored: DispatchResult) -> None:
    """Stages follow one another: their times add up."""
    timing.queue_ms += scored.queue_ms
    timing.infer_ms += scored.infer_ms


def unscored(decision: Plan, quality: float) -> Plan:
    """What is left of a plan when its time has run out before its turn came. quality: of the order as given."""
    how = "the order as given"
    reason = f"{decision.reason}; {EXPIRED}: {how} instead"
    return replace(decision, tier=NONE, quality=quality, fits=False, reason=reason, candidates=0, degraded=how)
