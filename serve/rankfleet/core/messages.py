"""What a request is made of on its way: request → plan → chunks → scores → ranking.

All times are milliseconds unless a name says otherwise. Deadlines travel as slack, the time that is left, so
that clocks of different machines need not agree.
"""

from dataclasses import dataclass, field

import numpy as np

from rankfleet.core.layout import LongDocuments
from rankfleet.core.pairs import TokenizedPairs


@dataclass(frozen=True)
class RerankRequest:
    """What to rank, and how long it may take, whatever wire format it came in.

    model: a tier, `auto`, or an SLO class; None for the fleet's default. slo_ms: budget counted from arrival
    at the router; None for the class's own. user, session: ids by which experiments assign an arm.
    long_documents: None for the fleet's default.
    """

    query: str
    documents: list[str]
    top_n: int | None = None
    model: str | None = None
    slo_ms: float | None = None
    user: str | None = None
    session: str | None = None
    long_documents: LongDocuments | None = None


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

    def share(self, parts: int) -> "Work":
        """One of `parts` equal parts, rounded up."""
        return Work(-(-self.pairs // parts), -(-self.tokens // parts), -(-self.squares // parts))


@dataclass(frozen=True)
class Chunk:
    """A slice of a request's pairs: what is queued, batched, spread over replicas and retried."""

    tier: str
    pairs: TokenizedPairs
    slack_ms: float | None = None


@dataclass(frozen=True)
class ChunkScores:
    """A chunk's raw logits, float32 [pairs], and what they took.

    backlog_s: predicted seconds of work still queued at the replica, so that routers learn of each other's.
    """

    logits: np.ndarray
    queue_ms: float
    infer_ms: float
    replica: str
    backlog_s: float


@dataclass
class Timing:
    """Milliseconds spent on a request, by part; queue and infer are those of the slowest chunk."""

    tokenize_ms: float = 0.0
    queue_ms: float = 0.0
    infer_ms: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True)
class RankedDocument:
    """index: place in the request; logit: raw score by the tier that answered."""

    index: int
    logit: float


@dataclass(frozen=True)
class Assignment:
    """The arm of an experiment that a request's user or session belongs to."""

    experiment: str
    arm: str
    model: str


@dataclass(frozen=True)
class Considered:
    """A tier the planner looked at, and why it was or was not taken."""

    tier: str
    quality: float
    predicted_ms: float
    verdict: str


@dataclass(frozen=True)
class Plan:
    """The router's decision for one request.

    predicted_ms: from arrival to answer, at the 99th percentile; fits: whether that is within the budget.
    """

    tier: str
    quality: float
    predicted_ms: float
    budget_ms: float | None
    fits: bool
    reason: str
    considered: tuple[Considered, ...] = ()


@dataclass(frozen=True)
class Ranking:
    """The answer: documents best first, and how it came about.

    passages: pairs scored of each document, in the order given; None where every document was one pair by the
    request's choice. cached: documents whose token ids were known.
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

    @property
    def pairs(self) -> int:
        """How many were scored."""
        return len(self.texts) if self.passages is None else sum(self.passages)

    @property
    def met(self) -> bool | None:
        """Whether the budget was met; None where there was none."""
        return None if self.plan.budget_ms is None else self.timing.total_ms <= self.plan.budget_ms
