"""A request's life in the router: check, assign, tokenize, plan, score stage by stage, sort.

Knows nothing of HTTP or Ray: groups are reached through the `GroupClient` protocol, time through a clock
argument.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import replace

import numpy as np

from rankfleet.core.config import FleetConfig, LiveSettings
from rankfleet.core.errors import Expired, Overloaded, RankfleetError, Unavailable
from rankfleet.core.messages import Plan, RankedDocument, Ranking, RerankRequest, Stage, Timing, Work
from rankfleet.core.passages import PassageRule
from rankfleet.core.sections import NONE
from rankfleet.engine.text.token_cache import TokenCache
from rankfleet.engine.text.tokenizer import PairTokenizer
from rankfleet.estimates.lengths import Lengths
from rankfleet.estimates.load import OfferedLoad
from rankfleet.router.answer import (
    EXPIRED,
    NO_SECOND,
    Answer,
    CheckedRequest,
    TokenizedRequest,
    document_scores,
    note,
    refused,
    unscored,
)
from rankfleet.router.cascade import ranked, second_stage
from rankfleet.router.dispatch import Dispatcher, GroupClient
from rankfleet.router.experiments import assign
from rankfleet.router.fleet import FleetView
from rankfleet.router.limits import check_documents, check_query
from rankfleet.router.plan_options import PlanRequest
from rankfleet.router.planner import Refusal, plan
from rankfleet.router.resolve import target_of
from rankfleet.router.token_bound import TokenLowerBound
from rankfleet.router.tokenize import TokenizedTexts, tokenize

log = logging.getLogger("ray.serve")

MAX_STAGES = 2
REHEARSALS = 3
PROBE = RerankRequest("is anybody there", ["a document that says so"], slo_ms=10_000.0, probe=True)
EARLY_RETRY_S = 0.5  # after which a request refused by a guess is worth another look
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
        models: Mapping[str, str] | None = None,
        before: "RankingService | None" = None,
    ) -> None:
        """tokenizers: by tier; tiers that share a vocabulary may share one object. clock: steady seconds. models: by
        tier, the fingerprint of its model, which replicas compare with theirs. before: the service of the fleet as it
        was, which ends what it has begun; its counts, estimates and caches go on in this one."""
        self.config = config
        self.live: LiveSettings = config.live
        self.fleet: FleetView = FleetView(config, models or {}, before.fleet if before else None)
        self.offered: OfferedLoad = before.offered if before else OfferedLoad.of(config.groups)
        self.offered.add_groups(config.groups)
        self.clock = clock
        self._tokenizers = tokenizers
        cache_bytes = int(config.token_cache_mb * 1e6)
        self._cache: TokenCache = before._cache if before else TokenCache(cache_bytes)
        self._dispatcher = Dispatcher(config, self.fleet, groups, clock, models=models or {})
        self._executor = executor
        self._token_bound: TokenLowerBound = before._token_bound if before else TokenLowerBound()
        self._waking: dict[str, asyncio.Task[None]] = before._waking if before else {}

    def take_over(self) -> None:
        """From now on this serves, and the service before it ends what it has begun."""
        self.fleet.take_over()
        self._cache.resize(int(self.config.token_cache_mb * 1e6))

    async def rank(self, request: RerankRequest, arrived_s: float | None = None) -> Ranking:
        """Rank one request. arrived_s: when it reached the router, by this service's clock.

        Raises InvalidRequest for what is wrong, or a quality that no tier reaches; TooLarge; UnknownModel. Infeasible
        and Overloaded where nothing that is good enough fits and the class says refuse, or `min_quality` rules out
        what is left. Unavailable where no replica can be had, ScoringFailed where the engine fails.
        """
        opened = self._open(request, arrived_s)
        decision: Plan | Refusal | None = self._refuse_early(opened)
        if isinstance(decision, Refusal):
            self._arrived(opened, decision)
            raise refused(decision)
        asked = await self._tokenized(opened)
        if not request.probe:
            self._token_bound.learn(request, asked.ask.work, self._limits(asked.target.tiers))
        decision = self._decide(asked.ask)
        self._arrived(opened, decision)
        if isinstance(decision, Refusal):
            raise refused(decision)
        try:
            answer = await self._answer(decision, asked)
        except Expired as error:
            quality = self.fleet.quality.retriever
            if asked.target.slo.when_none_fits == "refuse" or quality < request.min_quality:
                raise self._too_late(EXPIRED, decision) from error
            decision, answer = unscored(decision, quality), Answer.empty()
        asked.timing.total_ms = (self.clock() - asked.ask.arrived_s) * 1e3
        return self._ranking(decision, answer, asked)

    async def probe(self) -> None:
        """Rank a document by the quickest tier that is awake, as any request is ranked. Raises what that raises, and
        Unavailable where nothing was scored, unless every group sleeps. Being overloaded is no fault."""
        if self.fleet.asleep:
            return
        models = self.fleet.models
        awake = [tier for tier in models if self.fleet.awake(self.config.group_of(tier))]
        if not awake:
            raise Unavailable("no replica runs")
        quickest = min(awake, key=lambda tier: models[tier].alpha_ms)
        try:
            ranking = await self.rank(replace(PROBE, model=quickest))
        except Overloaded:
            return
        if not ranking.stages:
            raise Unavailable(f"nothing was scored: {ranking.plan.reason}")

    async def rehearse(self, tier: str) -> None:
        """Read and score next to nothing a few times: connections and much else are made on first use, and no client
        should pay for that. Decides nothing, and nothing is learnt from it. Raises what replicas raise."""
        for _ in range(REHEARSALS):
            asked = await self._tokenized(self._open(replace(PROBE, model=tier)))
            await self._dispatcher.score(tier, asked.texts.part(tier).pairs, math.inf)

    async def explain(self, request: RerankRequest) -> Plan | Refusal:
        """What would be decided now, without scoring. Raises as `rank` does for what is wrong."""
        opened = self._open(request)
        return self._refuse_early(opened) or self._decide((await self._tokenized(opened)).ask)

    def _open(self, request: RerankRequest, arrived_s: float | None = None) -> CheckedRequest:
        """Check a request, and find out who may answer it."""
        if not request.probe:
            check_query(request.query, self.config.limits)
            check_documents(request.documents, self.config.limits)
        assignment = None if request.model in self.config.tiers else assign(self.live.experiments, request)
        target = target_of(request, self.live, self.config.tiers, assignment.model if assignment else None)
        return CheckedRequest(request, target, assignment, self.clock() if arrived_s is None else arrived_s)

    def _refuse_early(self, opened: CheckedRequest) -> Refusal | None:
        """A refusal before tokenizing, of what even at its least would be refused; None for all else."""
        target = opened.target
        if target.budget_ms is None or target.slo.when_none_fits != "refuse" or not self.fleet.busy:
            return None  # an idle router has the time to be exact
        work = self._token_bound.lower_bound(opened.request, self._limits(target.tiers))
        decision = self._decide(self._ask(opened, work)) if work else None
        if not isinstance(decision, Refusal) or decision.cause != "budget":
            return decision if isinstance(decision, Refusal) else None
        # What texts become is a guess, by others: an idle router would look.
        why = f"this looks like too much for {target.budget_ms:.0f} ms, and others are under way"
        return replace(decision, cause="load", retry_after_s=EARLY_RETRY_S, reason=why)

    def check(self, request: RerankRequest) -> None:
        """Raises UnknownModel."""
        target_of(request, self.live, self.config.tiers, None)

    async def _tokenized(self, opened: CheckedRequest) -> TokenizedRequest:
        timing = Timing()
        started_s = self.clock()
        texts = await self._tokenize(opened.request, opened.target.tiers)
        timing.tokenize_ms = (self.clock() - started_s) * 1e3
        lengths = texts.lengths()
        ask = self._ask(opened, {tier: each.work for tier, each in lengths.items()}, lengths)
        return TokenizedRequest(opened.request, opened.target, opened.assignment, texts, ask, timing)

    def _ask(
        self, opened: CheckedRequest, work: Mapping[str, Work], lengths: Mapping[str, Lengths] | None = None
    ) -> PlanRequest:
        target = opened.target
        return PlanRequest(
            work,
            opened.arrived_s,
            target.budget_ms,
            target.pinned,
            target.slo.when_none_fits,
            opened.request.min_quality,
            lengths,
            MAX_STAGES,
        )

    def _arrived(self, opened: CheckedRequest, decision: Plan | Refusal) -> None:
        """Count what was asked for, whatever is answered: more replicas could have given it. What not even an idle
        fleet could give is no demand, and its budget says nothing about those of others."""
        if decision.unloaded is not None and not opened.request.probe:
            self.fleet.arrived(opened.target.budget_ms, self.clock())
            self.offered.add(decision.unloaded.work_ms)
        sent = isinstance(decision, Plan) and decision.candidates != 0
        if sent or (isinstance(decision, Refusal) and decision.cause != "load"):
            return
        for each in decision.considered:
            if each.tier != NONE and each.quality >= opened.request.min_quality:
                if not self.fleet.awake(group := self.config.group_of(each.tier)):
                    self._wake(group)
                return

    def _wake(self, group: str) -> None:
        """Start a replica of a group that has none, where a request could be given nothing else and is not sent. Serve
        starts one for a call that waits."""
        if group not in self._waking:
            task = asyncio.get_running_loop().create_task(self._call(group))
            task.add_done_callback(lambda _: self._waking.pop(group))
            self._waking[group] = task

    async def _call(self, group: str) -> None:
        try:
            await self.rehearse(self.config.groups[group].tiers[0])
        except Exception as error:
            log.warning("group %s did not wake up: %s", group, error)

    def _limits(self, tiers: tuple[str, ...]) -> dict[str, int]:
        """The longest pair in tokens."""
        longest = {tier: self._tokenizers[tier].max_tokens for tier in tiers}
        return {
            tier: min(longest_pair, self.config.tiers[tier].max_tokens or longest_pair)
            for tier, longest_pair in longest.items()
        }

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

    def _decide(self, ask: PlanRequest) -> Plan | Refusal:
        """For the fleet as it is for this request: what is ahead depends on its deadline and its size."""
        now_s = self.clock()
        if ask.budget_ms is None:
            return plan(ask, self.fleet.snapshot(now_s), now_s)
        min_ms = self.fleet.min_ms(ask.work, math.inf)
        return plan(ask, self.fleet.snapshot(now_s, ask.arrived_s + ask.budget_ms / 1e3, min_ms), now_s)

    def _too_late(self, why: str, decision: Plan) -> Overloaded:
        """Time has run out, and what is left is no answer to this request."""
        group = self.fleet.snapshot(self.clock()).groups[self.config.group_of(decision.tier)]
        return Overloaded(f"{why}; retry later or allow more time", max(0.05, group.backlog_s))

    async def _answer(self, decision: Plan, asked: TokenizedRequest) -> Answer:
        """Score as planned. Raises Expired when the deadline passed before the first stage was begun, and Overloaded
        when it left out a second stage without which the ranking is not good enough."""
        if decision.candidates == 0:
            return Answer.empty()
        first = decision.stages[0].tier if decision.stages else decision.tier
        documents = None if decision.candidates is None else np.arange(decision.candidates)
        part = asked.texts.part(first, documents, decision.max_tokens)
        deadline_s = asked.deadline_s
        if not decision.fits:  # of a tier that was asked for: what is promised is the time predicted
            deadline_s = max(deadline_s, asked.ask.arrived_s + decision.predicted_ms / 1e3)
        allowed = asked.texts.alike(decision.allowed, first)
        unloaded_tier = decision.unloaded.tier if decision.unloaded is not None else ""
        scored = await self._dispatcher.score(
            first, part.pairs, deadline_s, allowed, unloaded_tier, late_is_fine=asked.late_is_fine
        )
        answer = Answer.of(scored, part)
        note(asked.timing, scored)
        if len(decision.stages) > 1:
            await self._second_stage(decision.stages[1], answer, asked)
            if self._quality(decision, answer) < asked.ask.min_quality:
                if answer.fault is not None:
                    raise answer.fault
                why = answer.left_out or "the second stage scored fewer than planned"
                raise self._too_late(f"{why}, and what is left is below min_quality", decision)
        return answer

    async def _second_stage(self, stage: Stage, answer: Answer, asked: TokenizedRequest) -> None:
        """Let the larger tier score the best so far, if there is time; else the first stage's answer stays, whatever
        becomes of the second."""
        model = self.fleet.latency(stage.tier)
        lengths, now_s = asked.texts.document_lengths(stage.tier), self.clock()
        left_ms = math.inf
        if not math.isinf(asked.deadline_s):
            group = self.config.group_of(stage.tier)
            ahead_ms = self.fleet.snapshot(now_s, asked.deadline_s).groups[group].ahead_ms
            left_ms = (asked.deadline_s - now_s) * 1e3 - ahead_ms - self.config.overhead_ms
        retrieved = self.fleet.quality.retriever > 0
        kept = second_stage(stage, answer.scores, lengths, model, left_ms, retrieved) if model else lengths[:0]
        if len(kept) == 0:
            answer.left_out = NO_SECOND
            return
        part = asked.texts.part(stage.tier, kept)
        try:
            left_s = None if math.isinf(asked.deadline_s) else asked.deadline_s - now_s
            scored = await asyncio.wait_for(
                self._dispatcher.score(stage.tier, part.pairs, asked.deadline_s), timeout=left_s
            )
            second = document_scores(scored, part)
        except (TimeoutError, Expired):
            answer.left_out = NO_SECOND
            return
        except Exception as error:
            known = isinstance(error, RankfleetError)
            log.warning("request %s: no second stage: %s", asked.request.request_id, error, exc_info=not known)
            answer.left_out, answer.fault = f"the second stage failed ({type(error).__name__})", error
            return
        answer.order, answer.scores = ranked(answer.scores, kept, second, retrieved)
        answer.stages += (Stage(scored.tier, len(kept)),)
        answer.tokens += part.pairs.tokens
        answer.pairs += len(part.pairs)
        answer.truncated = sorted({*answer.truncated, *(int(kept[i]) for i in part.layout.truncated)})
        note(asked.timing, scored)

    def _ranking(self, decision: Plan, answer: Answer, asked: TokenizedRequest) -> Ranking:
        request = asked.request
        documents = [RankedDocument(int(i), float(answer.scores[i])) for i in answer.order]
        documents += [RankedDocument(i, None) for i in range(len(documents), len(request.documents))]
        passages = answer.passages + [0] * (len(request.documents) - len(answer.passages))
        return Ranking(
            documents=documents[: request.top_n],
            plan=self._as_answered(decision, answer),
            tokens=answer.tokens,
            truncated=answer.truncated,
            timing=asked.timing,
            assignment=asked.assignment,
            request_id=request.request_id,
            texts=request.documents,
            passages=passages if asked.texts.passages else None,
            cached=asked.texts.cached,
            stages=answer.stages,
            partial=bool(answer.left_out),
            slo_class=asked.target.slo_name,
            pairs=answer.pairs,
        )

    def _as_answered(self, decision: Plan, answer: Answer) -> Plan:
        """The plan, saying which tier it was where that was left open or a stage was left out."""
        tier = answer.stages[-1].tier if answer.stages else decision.tier
        quality = self._quality(decision, answer)
        if (tier, quality) == (decision.tier, decision.quality):
            return decision
        if answer.left_out:
            why = f"{answer.left_out}, {tier} answers"
        elif tier == decision.tier:
            why = f"time was left for {answer.stages[-1].candidates} of the best"
        else:
            why = f"{tier} was taken for the slack left when its turn came"
        return replace(decision, tier=tier, quality=quality, reason=f"{decision.reason}; {why}")

    def _quality(self, decision: Plan, answer: Answer) -> float:
        """Of what was done, by the table, where that is not what was planned."""
        table, stages = self.fleet.quality, answer.stages
        if len(stages) > 1:
            planned = decision.stages[1].candidates
            done = min(planned, stages[1].candidates)
            return decision.quality if done == planned else table.of_cascade(stages[0].tier, stages[1].tier, done)
        if answer.left_out or (stages and stages[0].tier != decision.tier):
            return table.tiers[stages[0].tier]
        return decision.quality
