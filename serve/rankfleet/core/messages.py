"""The data of one request on its way: request → decision → chunks → scores → ranking.

Times are milliseconds unless a name says otherwise. A deadline travels between machines as slack, the time that is
left, so that their clocks need not agree.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from rankfleet.core.decisions import GivenOrder, Plan, Stage
from rankfleet.core.experiments import Arm
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.core.passages import LongDocuments
from rankfleet.core.query_lists import QueryLists
from rankfleet.core.sections import CandidateOrder
from rankfleet.core.text_options import AS_SENT, TextOptions
from rankfleet.core.timing import Timing


@dataclass(frozen=True)
class RerankRequest:
    """What to rank and how long it may take, independent of the wire format.

    model: a tier, `auto`, or an SLO class; None for the fleet's default.
    slo_ms: latency budget, counted from arrival at the router; None for the budget of the SLO class.
    slo_class: name of an SLO class; None for the class of the model, of the tenant, or the fleet's default.
    user, session: ids by which an experiment assigns an arm.
    headers: by name in small letters, those by which an experiment does.
    long_documents: None for the fleet's default.
    candidates: whether the documents are listed in a retriever's order; None for the fleet's default.
    scores: of the retriever, one for each document; with them the documents may be listed in any order. None if they
        are not known.
    min_quality: the lowest expected nDCG@10 that is acceptable.
    tenant: whose API key came with it; None if the fleet asks for none.
    request_id: names the request in logs and in the reply.
    options: what is done with the texts before they are scored.
    probe: True for the router's own requests, such as its health check. Limits do not apply to them, and nothing is
        learned from them.
    background: whether its work waits behind all other work.
    spans: whether results have to say which passage of each document scored best.
    queries: of a request with several, all of them; `query` is the first. Empty for a request with one.
    counts: how many of `documents` and `scores` are each query's, one query's after the other's. Empty if all of them
        are every query's.
    """

    query: str
    documents: list[str]
    top_n: int | None = None
    model: str | None = None
    slo_ms: float | None = None
    user: str | None = None
    session: str | None = None
    long_documents: LongDocuments | None = None
    candidates: CandidateOrder | None = None
    scores: list[float] | None = None
    min_quality: float = 0.0
    slo_class: str | None = None
    tenant: str | None = None
    request_id: str = ""
    options: TextOptions = AS_SENT
    probe: bool = False
    background: bool = False
    spans: bool = False
    queries: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def each_query(self) -> tuple[str, ...]:
        return self.queries or (self.query,)

    @cached_property
    def lists(self) -> QueryLists:
        """The documents of each query."""
        return QueryLists(self.counts or (len(self.documents),) * len(self.each_query))

    @cached_property
    def characters(self) -> list[int]:
        """Of each document."""
        return [*map(len, self.documents)]


@dataclass(frozen=True)
class Chunk:
    """A slice of a request's pairs: the unit that is queued, batched, spread over replicas and retried.

    tiers: the tiers that may score it, the planned one first; never empty. The replica selects one of them when the
        chunk leaves its queue.
    slack_ms: time left until the deadline; None for best-effort work.
    over_share: whether it is above the share of its tenant, and waits behind all work that is not.
    request: shared by the chunks of a request that was cut into several; None for a request of one chunk.
    unloaded_tier: the tier that an idle fleet would have used; None where that is the planned one.
    models: by tier, the fingerprint of the model that the router means (`core/fingerprint.py`). A replica that hosts
        another model of that name refuses the chunk.
    weights: if given, a replica refuses the chunk unless its `ChunkScores.model` would be this.
    default_slo_ms: budget of the fleet's default SLO class; infinity if it has none.
    tenant: whose it is; None if it has none.
    """

    tiers: tuple[str, ...]
    pairs: TokenizedPairs
    slack_ms: float | None = None
    request: str | None = None
    unloaded_tier: str | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    weights: str | None = None
    over_share: bool = False
    default_slo_ms: float = math.inf
    tenant: str | None = None

    @property
    def tier(self) -> str:
        """The planned tier."""
        return self.tiers[0]


@dataclass(frozen=True)
class ChunkScores:
    """The scores of a chunk and what they cost.

    logits: float32 [pairs], raw.
    tier: the tier that scored them.
    model: fingerprint of the weights and the precision they were computed in. Scores of two models are never joined
        into one ranking.
    backlog_s: predicted seconds of work at the replica, queued and running, whichever router sent it.
    ahead_s: the part of it that would be served before a chunk within its share that has the slack that this one came
        with. If that is none, all work with deadlines within shares.
    """

    logits: np.ndarray
    queue_ms: float
    infer_ms: float
    replica: str
    backlog_s: float
    tier: str
    model: str = ""
    ahead_s: float = math.inf


class PassageSpan(NamedTuple):
    """A passage in the text of its document: its first code point, and the one behind its last. relevance: that of its
    logit, without fusion, as a probability from 0 to 1."""

    start: int
    stop: int
    relevance: float


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """index: place of the document in the request. logit: raw, of the last tier that scored it. score: what the order
    follows. Both are None for a document that was not scored. relevance: the score as a probability, from 0 to 1, by
    the calibration of the tier that gave it (`estimates/calibration.py`); 0 for a document that was not scored. span:
    the passage that scored best; None unless the request asks for it.

    Scores never rise from one result to the next, and neither does relevance. Scores are the logits, fused with what
    the retriever says of the candidates; in a cascade, those of documents that only the first stage has scored are
    lowered below those of the second stage.
    """

    index: int
    logit: float | None = None
    score: float | None = None
    relevance: float = 0.0
    span: PassageSpan | None = None


class FusedBy(NamedTuple):
    """How a ranking was fused with what the candidates came with: their order, or the retriever's scores.

    weight: of the tier that answered, in logits per unit of evidence (`estimates/fusion.py`); 0 if none was fitted.
    """

    by: Literal["order", "scores"]
    weight: float


@dataclass(frozen=True)
class Assignment:
    """The arm of an experiment that a request belongs to, by its unit (a user or session, say).

    unit: the first 16 hex digits of a SHA-256 over experiment, seed and the unit's id, which goes no further.
    settings: what the arm changes. step: index of the weights in force: 0 before the first step of the schedule.
    """

    experiment: str
    arm: str
    unit: str
    settings: Arm
    step: int = 0


@dataclass(frozen=True)
class Ranking:
    """The answer to a request.

    documents: best first; of several queries, one query's after the other's.
    counts: of a request with several queries, how many of `texts` are each one's. Places (`RankedDocument.index`,
        `truncated`, `passages`) are those in `texts`.
    plan: the decision, with the stages that were carried out.
    passages: pairs scored of each document, in the order given; None unless the request asked for passages.
    cached: documents whose token ids were in the cache.
    partial: whether the second stage was left out.
    fused: None for unordered candidates, and where nothing was scored.
    pairs, tokens: scored in all stages together.
    """

    documents: list[RankedDocument]
    plan: Plan | GivenOrder
    tokens: int
    truncated: list[int]
    timing: Timing
    assignment: Assignment | None = None
    request_id: str = ""
    texts: list[str] = field(default_factory=list)
    passages: list[int] | None = None
    cached: int = 0
    partial: bool = False
    slo_class: str | None = None
    pairs: int = 0
    fused: FusedBy | None = None
    counts: tuple[int, ...] = ()

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What was scored; empty for the order as given."""
        return self.plan.stages if isinstance(self.plan, Plan) else ()

    @property
    def met(self) -> bool | None:
        """Whether the budget was met; None if there was none."""
        return None if self.plan.budget_ms is None else self.timing.total_ms <= self.plan.budget_ms
