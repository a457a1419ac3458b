"""What the planner decides for a request: a plan to score, the order as given, or a refusal.

Times are milliseconds unless a name says otherwise.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple


class Considered(NamedTuple):
    """One plan that the planner looked at, and why it was taken or not.

    tier: the tier that would answer; None for the order as given.
    how: what is left out, or the second stage; empty for a tier that scores everything.
    """

    tier: str | None
    quality: float
    predicted_ms: float
    verdict: str
    how: str = ""


class Stage(NamedTuple):
    """One pass of a plan over the best candidates so far.

    tier: the planned tier. candidates: how many documents it scores; of several queries, how many of each at most.
    tiers: the tiers that the replica may choose from when the work leaves its queue; contains `tier`, and is `(tier,)`
    where the choice is final.
    """

    tier: str
    candidates: int
    tiers: tuple[str, ...]

    @staticmethod
    def of(tier: str, candidates: int) -> "Stage":
        """A stage whose tier is final."""
        return Stage(tier, candidates, (tier,))


@dataclass(frozen=True, slots=True)
class UnloadedPlan:
    """What a request would get from an idle fleet. Autoscaling counts it as offered load.

    tier: the tier that would answer; None for a cascade.
    work_ms: (group, device time in ms at its share of a full batch) for each stage.
    """

    tier: str | None
    work_ms: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The decision to score.

    stages: the passes, in order; never empty. The tier of the last one answers.
    documents: how many are to be ranked, of the query that has the most. Those that no stage scores keep their order
        behind the others.
    max_tokens: pairs are cut to this length; None if the planner cuts none.
    quality: expected nDCG@10.
    predicted_ms: from arrival to answer, 99th percentile; infinity if not known.
    fits: whether `predicted_ms` is within the budget.
    degraded: for people, what is left out because no complete plan fits; None if nothing is.
    unloaded: None if not even an idle fleet could score anything in time.
    """

    stages: tuple[Stage, ...]
    documents: int
    quality: float
    predicted_ms: float
    budget_ms: float | None
    fits: bool
    reason: str
    max_tokens: int | None = None
    degraded: str | None = None
    considered: tuple[Considered, ...] = ()
    unloaded: UnloadedPlan | None = None

    @property
    def tier(self) -> str:
        """The tier that answers."""
        return self.stages[-1].tier


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenOrder:
    """The decision to score nothing and return the documents in the order given. Fields as in `Plan`; `quality` is
    that of the retriever. `degraded` is None where no plan ranks better than that order, so that it is complete."""

    quality: float
    predicted_ms: float
    budget_ms: float | None
    reason: str
    degraded: str | None = "the order as given"
    considered: tuple[Considered, ...] = ()
    unloaded: UnloadedPlan | None = None

    @property
    def tier(self) -> None:
        return None

    @property
    def fits(self) -> bool:
        return self.degraded is None


@dataclass(frozen=True)
class Refusal:
    """The decision to refuse a request, because no acceptable plan can be had.

    cause: `quality`, no plan of this fleet ranks well enough, whatever the time; `budget`, not even an idle fleet
        could answer in time; `load`, an idle fleet could.
    retry_after_s: for `load`, the predicted seconds until the backlog has drained. Else 0: retrying does not help.
    """

    cause: Literal["quality", "budget", "load"]
    retry_after_s: float
    reason: str
    considered: tuple[Considered, ...] = ()
    unloaded: UnloadedPlan | None = None


Decision = Plan | GivenOrder | Refusal
