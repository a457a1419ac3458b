"""What a router knows of one request while it works on it, and the ranking that comes of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from rankfleet.core.decisions import GivenOrder, Plan, Refusal, Stage
from rankfleet.core.errors import Infeasible, InvalidRequest, Overloaded, RequestError, ScoringFailed
from rankfleet.core.messages import Assignment, FusedBy, RankedDocument, Ranking, RerankRequest, Timing
from rankfleet.core.query_lists import QueryLists
from rankfleet.estimates.calibration import PLAIN, Calibration, probability
from rankfleet.estimates.fusion import Fusion
from rankfleet.estimates.quality import QualityTable
from rankfleet.router.dispatch import Scores
from rankfleet.router.plan_options import PlanRequest
from rankfleet.router.resolve import Target
from rankfleet.router.retry import LATER, Deadline
from rankfleet.router.spans import Passage
from rankfleet.router.texts import Part, RequestTexts

UNSCORED = -math.inf  # below every score: those are finite
EXPIRED = "the budget ended in the queue"
EARLY_RETRY_S = 0.5  # retry time of a request refused before its tokens are counted
UNREAD = "the budget ended while the texts were read"


@dataclass(frozen=True)
class ResolvedRequest:
    """A request that has passed the checks: which tiers may answer it, its experiment's arm, and when it arrived.

    request: with its documents in the retriever's order, if they have one.
    fusion: what the candidates bring with them; None if they are unordered.
    places: int [documents], of each document in the request as it was sent; None if it was sent in this order.
    calibrations: by tier, of the scores of such a request.
    """

    request: RerankRequest
    target: Target
    assignment: Assignment | None
    arrived_s: float
    fusion: Fusion | None = None
    places: np.ndarray | None = None
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)

    @property
    def ranked(self) -> bool:
        """Whether the candidates come in a retriever's order."""
        return self.fusion is not None

    @property
    def read_by_s(self) -> float | None:
        """When the texts have to be read, by the router's clock; None if the request has no budget, or may be late."""
        budget_ms = None if self.target.may_be_late else self.target.budget_ms
        return None if budget_ms is None else self.arrived_s + budget_ms / 1e3

    def scores(self, tier: str, logits: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(scores, log-odds), float [places]: what the order follows, and the same calibrated.

        logits: float [places], of this tier. places: of the documents that it scored.
        """
        scores = logits if self.fusion is None else self.fusion.fused(tier, logits, places)
        return scores, self.calibrations.get(tier, PLAIN).log_odds(scores)


@dataclass(frozen=True)
class TokenizedRequest:
    """A request with its texts as token ids, and what the planner is asked."""

    resolved: ResolvedRequest
    texts: RequestTexts
    plan_request: PlanRequest
    timing: Timing

    @property
    def deadline_s(self) -> float:
        """By the router's clock; infinity for none."""
        budget_ms = self.plan_request.budget_ms
        return math.inf if budget_ms is None else self.plan_request.arrived_s + budget_ms / 1e3

    def deadline(self, plan: Plan) -> Deadline:
        """Until when the first stage is waited for. What may be late and cannot be in time has LATER times its
        predicted time, as at each further try: due when it can be done at the earliest, it would be as urgent as what
        can be in time, however small the budget that it was sent with."""
        if not self.resolved.target.may_be_late:
            return Deadline(self.deadline_s)
        promised_s = -math.inf if plan.fits else self.plan_request.arrived_s + LATER * plan.predicted_ms / 1e3
        return Deadline(max(self.deadline_s, promised_s), grace_s=math.inf)


@dataclass
class Answer:
    """What has been scored so far.

    order: int [candidates], their places, query by query, best first; those that were not scored are last, in the order
    given. scores: float [candidates], by place, which the order follows. log_odds: float64 [candidates], by place, the
    same calibrated, each by the tier that gave it. logits: float [candidates], by place, raw, of the last tier that
    scored each. All are UNSCORED where none did. passages: int [candidates], pairs of each.
    stages: those carried out. pairs, tokens: scored in all stages together. best: by place, the passage that scored
    best; None unless the request asks for it.
    left_out: why the second stage was left out, empty if it was not. fault: the error behind that, if there was one.
    """

    order: np.ndarray
    scores: np.ndarray
    log_odds: np.ndarray
    logits: np.ndarray
    stages: tuple[Stage, ...]
    tokens: int
    truncated: list[int]
    passages: np.ndarray
    pairs: int
    best: dict[int, Passage] | None = None
    left_out: str = ""
    fault: Exception | None = None

    @staticmethod
    def of(
        scores: Scores,
        part: Part,
        resolved: ResolvedRequest,
        lists: QueryLists,
        candidates: int,
        places: np.ndarray | None = None,
    ) -> "Answer":
        """The answer of a single stage: by score, ties in the order given.

        candidates: of each query, how many were to be scored. places: int [scored candidates]; None for all.
        """
        logits, passages, truncated = document_logits(scores, part), part.passages, part.truncated
        if places is not None:
            count = sum(lists.counts)
            truncated = sorted(places[truncated].tolist())
            logits, passages = placed(logits, places, count, UNSCORED), placed(passages, places, count, 0)
        by_place, log_odds = resolved.scores(scores.tier, logits, np.arange(len(logits)))
        stages, order, tokens = (Stage.of(scores.tier, candidates),), lists.best_first(by_place), part.pairs.tokens
        return Answer(order, by_place, log_odds, logits, stages, tokens, truncated, passages, len(part.pairs))

    def quality(self, plan: Plan, table: QualityTable) -> float:
        """Expected nDCG@10 of what was carried out, which may be less or other than what was planned."""
        first, *second = self.stages
        if second:
            planned = plan.stages[1].candidates
            done = min(planned, second[0].candidates)
            return plan.quality if done == planned else table.of_cascade(first.tier, second[0].tier, done)
        if self.left_out or first.tier != plan.tier:
            return table.tiers[first.tier]
        return plan.quality

    def carried_out(self, plan: Plan, table: QualityTable) -> Plan:
        """The plan as it was carried out: the same, or with the stages that were, and a reason that says why."""
        last, quality = self.stages[-1], self.quality(plan, table)
        if (last.tier, quality) == (plan.tier, plan.quality):
            return plan
        if self.left_out:
            why = f"{self.left_out}, {last.tier} answers"
        elif last.tier == plan.tier:
            why = f"time was left for {last.candidates} of the best"
        else:
            why = f"{last.tier} was taken for the slack left when its turn came"
        return replace(plan, stages=self.stages, quality=quality, reason=f"{plan.reason}; {why}")


def placed(values: np.ndarray, places: np.ndarray, count: int, others: float) -> np.ndarray:
    """[count]: the values at their places, and `others` at all other places."""
    every = np.full(count, others, values.dtype)
    every[places] = values
    return every


def document_logits(scores: Scores, part: Part) -> np.ndarray:
    """float [candidates]: the logit of each one's best passage. Raises ScoringFailed if a score is not finite."""
    if not np.isfinite(scores.logits).all():
        raise ScoringFailed(f"tier {scores.tier} gave scores that are not finite")
    return part.best(scores.logits)


def given_order(plan: Plan, quality: float, why: str) -> GivenOrder:
    """What is left of a plan that was not carried out, for this reason. quality: of the order given."""
    how = "the order as given"
    return GivenOrder(
        quality=quality,
        predicted_ms=plan.predicted_ms,
        budget_ms=plan.budget_ms,
        reason=f"{plan.reason}; {why}: {how} instead",
        degraded=how,
        considered=plan.considered,
        unloaded=plan.unloaded,
    )


def unread(resolved: ResolvedRequest, quality: float, now_s: float) -> GivenOrder | Refusal:
    """What is decided for a request whose budget has ended before its texts were read. quality: of the order given."""
    target = resolved.target
    if target.slo.when_none_fits == "refuse" or quality < resolved.request.min_quality:
        return Refusal("load", EARLY_RETRY_S, UNREAD)
    return GivenOrder(
        quality=quality,
        predicted_ms=(now_s - resolved.arrived_s) * 1e3,
        budget_ms=target.budget_ms,
        reason=f"{UNREAD}: the order as given instead",
    )


def ranking_of(
    resolved: ResolvedRequest,
    timing: Timing,
    plan: Plan | GivenOrder,
    texts: RequestTexts | None = None,
    answer: Answer | None = None,
) -> Ranking:
    """The ranking. plan: as it was carried out. texts: None if they were not read in time. answer: None for the order
    as given."""
    request, fused = resolved.request, None
    count = len(request.documents)
    places = np.arange(count) if resolved.places is None else resolved.places
    order = np.arange(count) if answer is None else answer.order
    if not request.counts:
        order = order[: request.top_n]
    elif request.top_n is not None:
        order = np.concatenate([order[part][: request.top_n] for part in request.lists.slices])
    columns = (places,) if answer is None else (places, answer.logits, answer.scores, probability(answer.log_odds))
    documents = [*map(RankedDocument, *(column[order].tolist() for column in columns))]
    if answer is not None:
        if answer.stages[0].candidates < request.lists.longest:
            for row in np.flatnonzero(answer.scores[order] == UNSCORED):
                documents[row] = RankedDocument(documents[row].index)
        if resolved.fusion is not None:
            fused = FusedBy(resolved.fusion.by, resolved.fusion.weight(answer.stages[-1].tier))
    passages = None
    if texts is not None and texts.passages is not None:
        passages = [0] * count if answer is None else answer.passages.tolist()
    ranking = Ranking(
        documents=documents,
        plan=plan,
        tokens=answer.tokens if answer else 0,
        truncated=answer.truncated if answer else [],
        timing=timing,
        assignment=resolved.assignment,
        request_id=request.request_id,
        texts=request.documents,
        passages=passages,
        cached=texts.cached if texts is not None else 0,
        partial=bool(answer and answer.left_out),
        slo_class=resolved.target.slo_name,
        pairs=answer.pairs if answer else 0,
        fused=fused,
        counts=request.counts,
    )
    if resolved.places is None:
        return ranking
    sent = np.argsort(places).tolist()  # of the documents as they were sent, their places in the retriever's order
    return replace(
        ranking,
        truncated=sorted(places[ranking.truncated].tolist()),
        texts=[request.documents[i] for i in sent],
        passages=ranking.passages and [ranking.passages[i] for i in sent],
    )


def refused(refusal: Refusal) -> RequestError:
    """The error that a client gets. Only load passes, so only then is it told to retry."""
    if refusal.cause == "quality":
        return InvalidRequest(f"{refusal.reason}; ask for less, or leave min_quality out")
    if refusal.cause == "budget":
        return Infeasible(f"{refusal.reason}; allow more time or send fewer documents")
    return Overloaded(f"{refusal.reason}; retry later or allow more time", refusal.retry_after_s)
