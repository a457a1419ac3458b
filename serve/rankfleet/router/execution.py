"""A plan carried out: stage after stage, within the deadline."""

import logging
import math
from collections.abc import Callable

import numpy as np

from rankfleet.core.config import FleetConfig
from rankfleet.core.decisions import Plan, Stage
from rankfleet.core.errors import Expired, Overloaded, RankfleetError
from rankfleet.router.answer import Answer, TokenizedRequest, document_logits
from rankfleet.router.cascade import ranked_lists, second_stage
from rankfleet.router.dispatch import Dispatcher
from rankfleet.router.fleet import FleetView
from rankfleet.router.retry import Deadline
from rankfleet.router.spans import best_passages
from rankfleet.router.texts import with_copies

NO_TIME = "no time was left for the second stage"
FEWER = "the second stage scored fewer than planned"

log = logging.getLogger("ray.serve")


class PlanExecution:
    """Carries out plans over one fleet."""

    def __init__(
        self, config: FleetConfig, fleet: FleetView, dispatcher: Dispatcher, clock: Callable[[], float]
    ) -> None:
        self._config = config
        self._fleet = fleet
        self._dispatcher = dispatcher
        self._clock = clock

    async def run(self, plan: Plan, tokenized: TokenizedRequest) -> Answer:
        """Score as planned.

        Raises Expired if the deadline passed before the first stage was scored, Overloaded if the second stage was
        left out and neither the ranking without it nor the order given is of the quality asked for, and whatever the
        replicas raise.
        """
        first, texts = plan.stages[0], tokenized.texts
        places = None
        if first.candidates < plan.documents:
            places = with_copies(np.flatnonzero(texts.lists.ranks < first.candidates), texts.documents)
        part = await texts.part(first.tier, places, plan.max_tokens)
        tiers = first.tiers if len(first.tiers) == 1 else texts.alike(first.tiers, first.tier)
        unloaded_tier = plan.unloaded.tier if plan.unloaded is not None else None
        over_share, deadline = tokenized.plan_request.over_share, tokenized.deadline(plan)
        tenant = tokenized.resolved.request.tenant
        scores = await self._dispatcher.score(tiers, part.pairs, deadline, unloaded_tier, over_share, tenant)
        answer = Answer.of(scores, part, tokenized.resolved, texts.lists, first.candidates, places)
        if tokenized.resolved.request.spans:
            every = np.arange(sum(texts.lists.counts)) if places is None else places
            answer.best = best_passages(part, scores.logits, scores.tier, every)
        tokenized.timing.scored(scores.queue_ms, scores.infer_ms, self._clock())
        if len(plan.stages) > 1:
            await self._second_stage(plan.stages[1], answer, tokenized)
            tokenized.timing.ends("transfer", self._clock())  # of a stage that was waited for in vain
            table = self._fleet.quality.table(tokenized.resolved.ranked)
            if max(answer.quality(plan, table), table.retriever) < tokenized.plan_request.min_quality:
                if answer.fault is not None:
                    raise answer.fault
                raise self.too_late(f"{answer.left_out or FEWER}, and what is left is below min_quality", plan)
        return answer

    async def _second_stage(self, stage: Stage, answer: Answer, tokenized: TokenizedRequest) -> None:
        """Let the larger tier score the best candidates so far, as many as there is time for. Whatever becomes of it,
        the answer of the first stage stays."""
        model, resolved, texts = self._fleet.latency(stage.tier), tokenized.resolved, tokenized.texts
        if model is None:
            answer.left_out = NO_TIME
            return
        deadline_s, now_s = tokenized.deadline_s, self._clock()
        over_share = tokenized.plan_request.over_share
        left_ms = math.inf
        if not math.isinf(deadline_s):
            group = self._config.group_of(stage.tier)
            before_s = math.inf if over_share else deadline_s
            ahead_ms = self._fleet.snapshot(now_s).groups[group].ahead_ms(before_s, math.inf, now_s)
            left_ms = (deadline_s - now_s) * 1e3 - ahead_ms - self._fleet.beside_ms(now_s)
        # The scores of a first stage that is fused have the retriever's order in them already.
        fusion = resolved.fusion
        retrieved = fusion is not None and answer.stages[0].tier not in fusion.weights
        lengths, lists = texts.document_lengths(stage.tier), texts.lists
        kept = second_stage(stage, answer.scores, lengths, model, left_ms, retrieved, lists, texts.documents)
        if len(kept) == 0:
            answer.left_out = NO_TIME
            return
        candidates = int(np.bincount(lists.queries[kept]).max())
        kept = with_copies(kept, texts.documents)
        part = await texts.part(stage.tier, kept)
        try:
            deadline = Deadline(deadline_s, grace_s=0.0)
            scores = await self._dispatcher.score(
                (stage.tier,), part.pairs, deadline, over_share=over_share, tenant=resolved.request.tenant
            )
            logits = document_logits(scores, part)
        except Expired:
            answer.left_out = NO_TIME
            return
        except Exception as error:
            known = isinstance(error, RankfleetError)
            request_id = tokenized.resolved.request.request_id
            log.warning("request %s: no second stage: %s", request_id, error, exc_info=not known)
            answer.left_out, answer.fault = f"the second stage failed ({type(error).__name__})", error
            return
        second, log_odds = resolved.scores(scores.tier, logits, kept)
        _, answer.log_odds = ranked_lists(lists, answer.log_odds, kept, log_odds, retrieved)
        answer.order, answer.scores = ranked_lists(lists, answer.scores, kept, second, retrieved)
        answer.logits = answer.logits.copy()
        answer.logits[kept] = logits
        answer.stages += (Stage.of(scores.tier, candidates),)
        answer.tokens += part.pairs.tokens
        answer.pairs += len(part.pairs)
        if answer.best is not None:
            answer.best |= best_passages(part, scores.logits, scores.tier, kept)
        answer.truncated = sorted({*answer.truncated, *(int(kept[i]) for i in part.truncated)})
        tokenized.timing.scored(scores.queue_ms, scores.infer_ms, self._clock())

    def too_late(self, why: str, plan: Plan) -> Overloaded:
        """The error for a request whose time ran out and for which what is left is no acceptable answer."""
        backlog_s = self._fleet.backlog_s(self._config.group_of(plan.tier), self._clock())
        return Overloaded(f"{why}; retry later or allow more time", max(0.05, backlog_s))
