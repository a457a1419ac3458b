"""What a request is made of on its way: request → plan → chunks → scores → ranking.

All times are milliseconds unless a name says otherwise. Deadlines travel as slack, the time that is left, so
that clocks of different machines need not agree.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from rankfleet.core.pairs import TokenizedPairs
from rankfleet.core.passages import LongDocuments


@dataclass(frozen=True)
class RerankRequest:
    """What to rank, and how long it may take, whatever wire format it came in.

    model: a tier, `auto`, or an SLO class; None for the fleet's default. slo_ms: budget counted from arrival
    at the router, MIN_SLO_MS to MAX_SLO_MS; None for the class's own. user, session: ids by which experiments assign
    an arm.
    long_documents: None for the fleet's default. min_quality: nDCG@10 below which an answer is of no use. slo_class:
    by name; None for that of the model, the API key, or the fleet. request_id: by which logs and the reply name it.
    probe: whether the router asks itself, to see whether it answers: no limits hold, and nothing is learnt from it.
    """

    query: str
    documents: list[str]
    top_n: int | None = None
    model: str | None = None
    slo_ms: float | None = None
    user: str | None = None
    session: str | None = None
    long_documents: LongDocuments | None = None
    min_quality: float = 0.0
    slo_class: str | None = None
    api_key: str | None = None
    request_id: str = ""
    probe: bool = False


@dataclass(frozen=True)
class Work:
    """The size of a request as the latency model sees it: pairs, tokens, and the sum of squared lengths."""

    pairs: int
    tokens: int
    squares: int

    @staticmethod
    def of(lengths: np.ndarray) -> "Work":
        wide = lengths.astype(np.int64)
        return Work(len(wide), int(wide.sum()), int((wide * wide).sum()))

    @staticmethod
    def sum(works: Iterable["Work"]) -> "Work":
        each = list(works)
        return Work(sum(w.pairs for w in each), sum(w.tokens for w in each), sum(w.squares for w in each))

    def share(self, parts: int) -> "Work":
        """One of `parts` equal parts, rounded up."""
        return Work(-(-self.pairs // parts), -(-self.tokens // parts), -(-self.squares // parts))


@dataclass(frozen=True)
class Chunk:
    """A slice of a request's pairs: what is queued, batched, spread over replicas and retried.

    tiers: those the replica may choose from when the work leaves its queue; `tier` alone where empty. request: the
    same for all chunks of a request that was cut; None for one that was not. min_ms: 99th percentile of its device
    time at the cheapest of its tiers; 0 where none has been measured. unloaded_tier: the tier it would get on an idle
    fleet, wherever that is hosted; `tier` where empty. sender: the router it comes from. models: by tier, which model
    the router means by that name (`core/fingerprint.py`); a replica that hosts another refuses the chunk. weights: as
    in `ChunkScores.model`; where it is not empty, a replica with others refuses the chunk as well.
    """

    tier: str
    pairs: TokenizedPairs
    slack_ms: float | None = None
    tiers: tuple[str, ...] = ()
    request: str | None = None
    min_ms: float = 0.0
    unloaded_tier: str = ""
    sender: str = ""
    models: Mapping[str, str] = field(default_factory=dict)
    weights: str = ""


@dataclass(frozen=True)
class ChunkScores:
    """A chunk's raw logits, float32 [pairs], the tier that gave them, and what they took. model: fingerprint of the
    weights and the precision they were computed with; scores of two models are never joined to one ranking.

    backlog_s: predicted seconds of work still queued at the replica; others_s: of which for other routers than the one
    that is answered, so that they learn of each other's.
    """

    logits: np.ndarray
    queue_ms: float
    infer_ms: float
    replica: str
    backlog_s: float
    tier: str
    others_s: float = 0.0
    model: str = ""


@dataclass
class Timing:
    """Milliseconds spent on a request, by part; queue and infer are those of the slowest chunk."""

    tokenize_ms: float = 0.0
    queue_ms: float = 0.0
    infer_ms: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True)
class RankedDocument:
    """index: place in the request; logit: raw score by the tier that answered, None for one left unscored. In a
    cascade those that only the first stage has scored have its score, lowered where it is above the second stage's:
    logits fall in the order of the ranking."""

    index: int
    logit: float | None


@dataclass(frozen=True)
class Assignment:
    """The arm of an experiment that a request's user or session belongs to."""

    experiment: str
    arm: str
    model: str


@dataclass(frozen=True, slots=True)
class Considered:
    """A plan the planner looked at, and why it was or was not taken. how: what is left out, or the second stage;
    empty for a tier that scores everything."""

    tier: str
    quality: float
    predicted_ms: float
    verdict: str
    how: str = ""


@dataclass(frozen=True, slots=True)
class Stage:
    """One pass of a plan: a tier, and how many of the best candidates so far it scores."""

    tier: str
    candidates: int


@dataclass(frozen=True, slots=True)
class UnloadedPlan:
    """What a request would get on an idle fleet, of which the demand for replicas is made. tier: who would answer;
    work_ms: group and device time of each stage, at its share of full batches."""

    tier: str
    work_ms: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The router's decision for one request.

    tier: who answers, or `none` where nothing is scored; predicted_ms: from arrival to answer, at the 99th
    percentile, infinity where that is not known; fits: whether that is within the budget. allowed: the tiers a replica
    may choose from when the work leaves its queue; empty where `tier` is final. stages: passes of a cascade; empty for
    a single one. candidates: how many are scored, the others keeping their order behind them; None for all.
    max_tokens: to which length pairs are cut; None for no cut of the planner's. degraded: what is left out since
    nothing whole fits, for people. unloaded: None where not even an idle fleet could score anything in time.
    """

    tier: str
    quality: float
    predicted_ms: float
    budget_ms: float | None
    fits: bool
    reason: str
    considered: tuple[Considered, ...] = ()
    allowed: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = ()
    candidates: int | None = None
    max_tokens: int | None = None
    degraded: str | None = None
    unloaded: UnloadedPlan | None = None


@dataclass(frozen=True)
class Ranking:
    """The answer: documents best first, and how it came about.

    passages: pairs scored of each document, in the order given; None where every document was one pair by the
    request's choice. cached: documents whose token ids were known. stages: who has scored how many, in turn; empty
    where nothing was scored. partial: whether the second stage was left out. slo_class: the one that applied. pairs:
    how many were scored, in all stages.
    """

    documents: list[RankedDocument]
    plan: Plan
    tokens: int
    truncated: list[int]
    timing: Timing
    assignment: Assignment | None = None
    request_id: str = ""
    texts: list[str] = field(default_factory=list)
    passages: list[int] | None = None
    cached: int = 0
    stages: tuple[Stage, ...] = ()
    partial: bool = False
    slo_class: str | None = None
    pairs: int = 0

    @property
    def met(self) -> bool | None:
        """Whether the budget was met; None where there was none."""
        return None if self.plan.budget_ms is None else self.timing.total_ms <= self.plan.budget_ms
