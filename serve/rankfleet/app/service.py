"""A request's life in the router: check, assign, tokenize, plan, score stage by stage, sort.

Knows nothing of HTTP or Ray: groups are reached through the `GroupClient` protocol, time through a clock
argument.
"""

import asyncio
import logging
import math
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import replace

import numpy as np

from rankfleet.app.answer import EXPIRED, Answer, Asked, finite, note, refused, unscored
from rankfleet.app.dispatch import Dispatcher, GroupClient
from rankfleet.app.foresight import Foresight
from rankfleet.app.limits import check_documents, check_query
from rankfleet.app.target import Target, target_of
from rankfleet.app.texts import TokenizedTexts, tokenize
from rankfleet.core.config import FleetConfig, LiveSettings
from rankfleet.core.errors import Expired, Overloaded, Unavailable
from rankfleet.core.layout import PassageRule
from rankfleet.core.messages import Plan, RankedDocument, Ranking, RerankRequest, Stage, Timing
from rankfleet.engine.tokencache import TokenCache
from rankfleet.engine.tokenizer import PairTokenizer
from rankfleet.routing.candidates import Ask
from rankfleet.routing.cascade import merged, second_stage
from rankfleet.routing.experiments import assign
from rankfleet.routing.fleet import FleetView
from rankfleet.routing.planner import Refusal, plan
from rankfleet.scheduling.load import Demanded

log = logging.getLogger("ray.serve")

MOST_STAGES = 2
REHEARSALS = 3
INLINE_CHARACTERS = 4000  # encoding so few takes less of the loop's time than a thread's handing over and back


class RankingService:
    """Ranks requests over a fleet of groups."""

    def __init__(
        self,
        config: FleetConfig,
        tokenizers: Mapping[str, PairTokenizer],
        groups: Mapping[str, GroupClient],
        executor: Executor | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """tokenizers: by tier; tiers that share a vocabulary may share one object. clock: steady seconds."""
        self.config = config
        self.live: LiveSettings = config.live
        self.fleet = FleetView(config)
        self.demanded = Demanded.of(config.groups)
        self.clock = clock
        self._tokenizers = tokenizers
        self._cache = TokenCache(int(config.token_cache_mb * 1e6))
        self._dispatcher = Dispatcher(config, self.fleet, groups, clock)
        self._executor = executor
        self._foresight = Foresight()

    async def rank(self, request: RerankRequest, arrived_s: float | None = None) -> Ranking:
        """Rank one request. arrived_s: when it reached the router, by this service's clock.

        Raises InvalidRequest, TooLarge, UnknownModel; Overloaded when nothing fits and the class says refuse.
        """
        asked = await self._read(request, arrived_s, foresee=True)
        self._foresight.learn(request, asked.ask.work, self._limits(asked.target.tiers))
        self.fleet.arrived(asked.ask.budget_ms, self.clock())
        decision = self._decide(asked.ask)
        self._demand(decision)
        if isinstance(decision, Refusal):
            raise refused(decision)
        try:
            answer = await self._answer(decision, asked)
        except Expired as error:
            if asked.target.slo.when_none_fits == "refuse":
                raise Overloaded(f"{EXPIRED}; retry later or allow more time", self._drain_s(decision)) from error
            decision, answer = unscored(decision), Answer.empty()
        asked.timing.total_ms = (self.clock() - asked.ask.arrived_s) * 1e3
        return self._ranking(decision, answer, asked)

    async def rehearse(self, tier: str) -> None:
        """Read and score next to nothing a few times: connections and much else are made on first use, and no client
        should pay for that. Decides nothing, and nothing is learnt from it. Raises what replicas raise."""
        for _ in range(REHEARSALS):
            asked = await self._read(RerankRequest("first use", ["of everything"], model=tier), None)
            await self._dispatcher.score(tier, asked.texts.part(tier).pairs, math.inf)

    async def explain(self, request: RerankRequest) -> Plan | Refusal:
        """What would be decided now, without scoring. Raises as `rank` does for what is wrong."""
        return self._decide((await self._read(request, None)).ask)

    async def _read(self, request: RerankRequest, arrived_s: float | None, foresee: bool = False) -> Asked:
        """foresee: refuse before tokenizing what even at its least would be refused."""
        arrived_s = self.clock() if arrived_s is None else arrived_s
        check_query(request.query, self.config.limits)
        check_documents(request.documents, self.config.limits)
        assignment = None if request.model in self.config.tiers else assign(self.live.experiments, request)
        target = target_of(request, self.live, self.config.tiers, assignment.model if assignment else None)
        timing = Timing()
        started_s = self.clock()
        refusing = target.budget_ms is not None and target.slo.when_none_fits == "refuse"
        if foresee and refusing and self.fleet.busy:  # an idle router has the time to be exact
            self._foresee(request, target, arrived_s)
        texts = await self._tokenize(request, target.tiers)
        timing.tokenize_ms = (self.clock() - started_s) * 1e3
        lengths = texts.lengths()
        ask = Ask(
            work={tier: each.work for tier, each in lengths.items()},
            arrived_s=arrived_s,
            budget_ms=target.budget_ms,
            pinned=target.pinned,
            when_none_fits=target.slo.when_none_fits,
            min_quality=request.min_quality,
            lengths=lengths,
            stages=MOST_STAGES,
        )
        return Asked(request, target, assignment, texts, ask, timing)

    def _foresee(self, request: RerankRequest, target: Target, arrived_s: float) -> None:
        """Raises Overloaded."""
        work = self._foresight.least_work(request, self._limits(target.tiers))
        if not work:
            return
        ask = Ask(
            work,
            arrived_s,
            target.budget_ms,
            target.pinned,
            when_none_fits="refuse",
            min_quality=request.min_quality,
            stages=MOST_STAGES,
        )
        decision = self._decide(ask)
        if isinstance(decision, Refusal):
            self.fleet.arrived(target.budget_ms, self.clock())
            self._demand(decision)
            raise refused(decision)

    def _demand(self, decision: Plan | Refusal) -> None:
        """Tell what was asked for, whatever is answered: more replicas could have given it."""
        if decision.preferred is not None:
            self.demanded.add(decision.preferred.work_ms)

    def _limits(self, tiers: tuple[str, ...]) -> dict[str, int]:
        """The longest pair in tokens."""
        longest = {tier: self._tokenizers[tier].max_tokens for tier in tiers}
        return {tier: min(most, self.config.tiers[tier].max_tokens or most) for tier, most in longest.items()}

    async def _tokenize(self, request: RerankRequest, tiers: tuple[str, ...]) -> TokenizedTexts:
        """Encode the texts once for each vocabulary; in the executor where that may take milliseconds."""
        passages = None
        if (request.long_documents or self.live.long_documents) == "max_passage":
            passages = PassageRule(self.live.passage_overlap_tokens, self.config.limits.max_passages)
        how = {tier: (self._tokenizers[tier], self.config.tiers[tier].max_tokens) for tier in tiers}
        if len(request.query) + sum(map(len, request.documents)) <= INLINE_CHARACTERS:
            return tokenize(request, how, self._cache, passages)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, tokenize, request, how, self._cache, passages)

    def _decide(self, ask: Ask) -> Plan | Refusal:
        """For the fleet as it is for this request: what is ahead depends on its deadline and its size."""
        now_s = self.clock()
        if ask.budget_ms is None:
            return plan(ask, self.fleet.snapshot(now_s), now_s)
        least_ms = self.fleet.least_ms(ask.work, math.inf)
        return plan(ask, self.fleet.snapshot(now_s, ask.arrived_s + ask.budget_ms / 1e3, least_ms), now_s)

    def _drain_s(self, decision: Plan) -> float:
        """Until what waits in the plan's group will have been done."""
        return max(0.05, self.fleet.snapshot(self.clock()).groups[self.config.group_of(decision.tier)].backlog_s)

    async def _answer(self, decision: Plan, asked: Asked) -> Answer:
        """Score as planned. Raises Expired when the deadline passed before the first stage was begun."""
        if decision.candidates == 0:
            return Answer.empty()
        first = decision.stages[0].tier if decision.stages else decision.tier
        whole = asked.texts.layouts[first]
        documents = None
        if decision.candidates is not None:  # counted in pairs; only whole documents are scored
            within = int(np.searchsorted(np.cumsum(whole.counts), decision.candidates, side="right"))
            documents = np.arange(max(1, within))
        part = asked.texts.part(first, documents, decision.max_tokens)
        # A tier asked for by name answers late rather than not at all; so no deadline is held against it.
        held = decision.fits or asked.ask.pinned is None
        allowed = asked.texts.alike(decision.allowed, first)
        deadline_s = asked.deadline_s if held else math.inf
        preferred = decision.preferred.tier if decision.preferred is not None else ""
        scored = await self._dispatcher.score(first, part.pairs, deadline_s, allowed, preferred)
        answer = Answer(
            finite(part.layout.best(scored.logits), scored.tier),
            (Stage(scored.tier, len(part.layout.firsts)),),
            part.pairs.tokens,
            part.layout.truncated,
            part.layout.counts.tolist(),
        )
        note(asked.timing, scored)
        if len(decision.stages) > 1:
            await self._second_stage(decision.stages[1], answer, asked)
        return answer

    async def _second_stage(self, stage: Stage, answer: Answer, asked: Asked) -> None:
        """Let the larger tier score the best so far, if there is time; else the first stage's answer stays."""
        answer.partial = True
        model = self.fleet.latency(stage.tier)
        if model is None:
            return
        lengths, now_s = asked.texts.document_lengths(stage.tier), self.clock()
        left_ms = math.inf
        if not math.isinf(asked.deadline_s):
            group = self.config.group_of(stage.tier)
            ahead_ms = self.fleet.snapshot(now_s, asked.deadline_s).groups[group].ahead_ms
            left_ms = (asked.deadline_s - now_s) * 1e3 - ahead_ms
        retrieved = self.fleet.quality.retriever > 0
        kept = second_stage(stage, answer.scores, lengths, model, left_ms, retrieved)
        if len(kept) == 0:
            return
        part = asked.texts.part(stage.tier, kept)
        try:
            left_s = None if math.isinf(asked.deadline_s) else asked.deadline_s - now_s
            scored = await asyncio.wait_for(
                self._dispatcher.score(stage.tier, part.pairs, asked.deadline_s), timeout=left_s
            )
        except (TimeoutError, Expired, Unavailable) as error:
            log.debug("no second stage: %s", error)
            return
        answer.scores = merged(answer.scores, kept, finite(part.layout.best(scored.logits), scored.tier))
        answer.stages += (Stage(scored.tier, len(kept)),)
        answer.tokens += part.pairs.tokens
        answer.partial = False
        note(asked.timing, scored)

    def _ranking(self, decision: Plan, answer: Answer, asked: Asked) -> Ranking:
        request = asked.request
        documents = [RankedDocument(int(i), float(answer.scores[i])) for i in np.argsort(-answer.scores, kind="stable")]
        documents += [RankedDocument(i, None) for i in range(len(documents), len(request.documents))]
        passages = answer.passages + [0] * (len(request.documents) - len(answer.passages))
        return Ranking(
            documents=documents[: request.top_n],
            plan=self._as_answered(decision, answer),
            tokens=answer.tokens,
            truncated=answer.truncated,
            timing=asked.timing,
            assignment=asked.assignment,
            request_id=uuid.uuid4().hex,
            texts=request.documents,
            passages=passages if asked.texts.passages else None,
            cached=asked.texts.cached,
            stages=answer.stages,
            partial=answer.partial,
            slo_class=asked.target.slo_name,
        )

    def _as_answered(self, decision: Plan, answer: Answer) -> Plan:
        """The plan, saying which tier it was where that was left open or a stage was left out."""
        tier = answer.stages[-1].tier if answer.stages else decision.tier
        if tier == decision.tier:
            return decision
        if answer.partial:
            why = f"no time was left for the second stage, {tier} answers"
        else:
            why = f"{tier} was taken for the slack left when its turn came"
        reason = f"{decision.reason}; {why}"
        return replace(decision, tier=tier, quality=self.config.tiers[tier].quality, reason=reason)
