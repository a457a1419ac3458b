"""A request's life in the router: resolve, tokenize, plan, score stage by stage, rank.

Knows nothing of HTTP or Ray: replica groups are reached through the `GroupClient` protocol, time is read from a clock
argument.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from rankfleet.core.config import FleetConfig, LiveSettings
from rankfleet.core.decisions import Decision, Refusal
from rankfleet.core.errors import Overloaded, Unavailable
from rankfleet.core.events import RequestEvent
from rankfleet.core.experiment_state import ExperimentState
from rankfleet.core.experiments import Arm
from rankfleet.core.messages import Assignment, Ranking, RerankRequest
from rankfleet.core.timing import Timing
from rankfleet.core.work import Work
from rankfleet.engine.text.tokenizer import PairTokenizer
from rankfleet.estimates.calibration import Calibration
from rankfleet.estimates.fusion import Fusion
from rankfleet.estimates.lengths import Lengths
from rankfleet.estimates.load import OfferedLoad
from rankfleet.router.answer import EARLY_RETRY_S, ResolvedRequest, TokenizedRequest, ranking_of, refused, unread
from rankfleet.router.candidates import check_scores, for_each_query, in_retrievers_order
from rankfleet.router.dispatch import GroupClient
from rankfleet.router.events import answered, failed, tell
from rankfleet.router.experiments import Splits
from rankfleet.router.fleet import FleetView
from rankfleet.router.fleet_router import FleetRouter, OnDecision
from rankfleet.router.ledger import Ledger
from rankfleet.router.limits import check_documents, check_instruction, check_query
from rankfleet.router.plan_options import MAX_STAGES, PlanRequest
from rankfleet.router.reading import TextReader
from rankfleet.router.resolve import NO_ARM, NO_CLASS, target_of
from rankfleet.router.shadow import OnShadow, Shadows
from rankfleet.router.tenants import TenantLimits
from rankfleet.router.turns import Turns
from rankfleet.router.wake import GroupWaker

WARM_UPS = 3
PROBE = RerankRequest("is anybody there", ["a document that says so"], slo_ms=10_000.0, probe=True)


class RankingService:
    """Ranks requests over a fleet of replica groups."""

    def __init__(
        self,
        config: FleetConfig,
        tokenizers: Mapping[str, PairTokenizer],
        groups: Mapping[str, GroupClient],
        ledgers: Mapping[str, Ledger],
        clock: Callable[[], float] = time.perf_counter,
        models: Mapping[str, str] | None = None,
        before: "RankingService | None" = None,
        on_decision: OnDecision | None = None,
        on_lost: Callable[[str], None] = lambda group: None,
        wall_clock: Callable[[], float] = time.time,
        on_event: Callable[[RequestEvent], object] | None = None,
        on_shadow: OnShadow = lambda outcome, event: None,
        experiment_states: Mapping[str, ExperimentState] = MappingProxyType({}),
    ) -> None:
        """tokenizers: by tier; tiers that share a vocabulary may share one object.
        groups, ledgers: by group; shared by all versions of the fleet that a process serves.
        clock: seconds of a steady clock.
        models: by tier, the fingerprint of its model (`Chunk.models`).
        before: the service of the previous version of the fleet. It finishes the requests it has begun; its counts,
            estimates and caches go on in this one.
        on_decision, on_lost: as in `FleetRouter`.
        wall_clock: seconds since 1970, for the schedules of experiments and for events.
        on_event: called with what became of each request of `rank`, answered or not, but for probes. Its errors fail
            no request. None: no events are made.
        on_shadow: as in `Shadows`.
        experiment_states: as in `Splits`.
        """
        self.config = config
        self.live: LiveSettings = config.live
        self.fleet: FleetView = FleetView(config, ledgers, models or {}, before.fleet if before else None)
        self.offered: OfferedLoad = before.offered if before else OfferedLoad.of(config.groups)
        self.offered.add_groups(config.groups)
        self.clock = clock
        self.wall_clock = wall_clock
        self._on_event = on_event
        self.splits = Splits(self.live, config.tiers, experiment_states)
        self._shadows = Shadows(self._in_background, lambda: not self._under_way, on_shadow, self.clock)
        self._under_way = 0  # requests that are being answered
        used = before.limits if before else None
        self.limits: TenantLimits = TenantLimits(config.tenants, config.routers, used)
        self._waker: GroupWaker = GroupWaker(self._wake_up, before._waker if before else None)
        self.turns = Turns(self.limits)
        learned = before.reader.learned if before else None
        self.reader: TextReader = TextReader(config, tokenizers, self.limits, self.turns, clock, learned)
        self._router = FleetRouter(
            config,
            self.fleet,
            groups,
            clock,
            models or {},
            self.offered,
            limits=self.limits,
            on_decision=on_decision,
            on_lost=on_lost,
            wake=self._waker.wake,
        )

    def take_over(self) -> None:
        """Serve from now on; the service before this one only finishes what it has begun."""
        self.fleet.take_over()
        self.reader.take_over()

    async def rank(self, request: RerankRequest, timing: Timing | None = None) -> Ranking:
        """Rank one request. timing: what it has taken so far, by this service's clock; None if it arrives now.

        Raises InvalidRequest for what is wrong, or for a quality that no plan reaches; TooLarge, also for texts that
        would have to be cut and may not; UnknownModel.
        Forbidden for what its tenant may not name, RateLimited if it sends more than it may.
        Infeasible and Overloaded if no acceptable plan fits and the SLO class says refuse, or `min_quality` rules out
        what is left. Unavailable if no replica can be had, ScoringFailed if the engine fails.
        """
        timing, at_s = timing or Timing(self.clock()), self.wall_clock()
        assignment = None if request.probe else self.splits.assign(request, at_s)
        on_event = None if request.probe else self._on_event
        resolved: ResolvedRequest | None = None
        self._under_way += 1
        try:
            resolved = self._resolve(request, assignment, timing.started_s)
            ranking = await self._answer(resolved, timing)
        except BaseException as error:
            if on_event is not None:
                took_ms = (self.clock() - timing.started_s) * 1e3
                # What is refused before its arm has decided anything says nothing of that arm.
                of_arm, target = (assignment, resolved.target) if resolved is not None else (None, None)
                tell(on_event, failed, request, of_arm, at_s, error, target, took_ms)
            raise
        finally:
            self._under_way -= 1
        if on_event is not None:
            tell(on_event, answered, request, assignment, at_s, ranking)
        if not request.probe and (shadow := self.splits.shadow(request, at_s)) is not None:
            self._shadows.follow(request, ranking, shadow, at_s)
        return ranking

    async def _in_background(self, request: RerankRequest, assignment: Assignment) -> Ranking:
        """What an arm answers to a request that has been answered: all documents, behind all other work, counted as
        nobody's and as no load. Raises as `rank` does, and Unavailable rather than waking a group that is asleep."""
        once_more = RerankRequest(
            request.query,
            request.documents,
            long_documents=request.long_documents,
            candidates=request.candidates,
            scores=request.scores,
            request_id=request.request_id,
            options=request.options,
            probe=True,
            background=True,
        )
        resolved = self._resolve(once_more, assignment)
        if not all(self.fleet.awake(self.config.group_of(tier)) for tier in resolved.target.tiers):
            raise Unavailable("no replica runs")
        target = replace(resolved.target, slo=NO_CLASS, slo_name=None, budget_ms=None)
        return await self._answer(replace(resolved, target=target), Timing(self.clock()))

    async def _answer(self, resolved: ResolvedRequest, timing: Timing) -> Ranking:
        """Raises as `rank` does."""
        if (early := self._refuse_early(resolved)) is not None:
            raise refused(early)
        timing.ends("plan", self.clock())
        by_s = resolved.read_by_s
        try:
            async with asyncio.timeout(None if by_s is None else by_s - self.clock()):
                tokenized = await self._tokenized(resolved, timing)
        except TimeoutError:
            decision = unread(resolved, self.fleet.quality.table(resolved.ranked).retriever, self.clock())
            if isinstance(decision, Refusal):
                raise refused(decision) from None
            timing.ends("tokenize", self.clock())
            return ranking_of(resolved, timing, decision)
        self.reader.learn(resolved, tokenized.plan_request.lengths or {})
        plan, answer = await self._router.route(tokenized)
        ranking = ranking_of(resolved, timing, plan, tokenized.texts, answer)
        if answer is not None and answer.best is not None:
            ranking = await self.reader.with_spans(ranking, answer.best, resolved, self.fleet.quality.calibration)
        timing.ends("reply", self.clock())
        return ranking

    async def explain(self, request: RerankRequest) -> Decision:
        """What would be decided now, without scoring. Raises as `rank` does for what is wrong with the request."""
        resolved = self._resolve(request, self.splits.assign(request, self.wall_clock()))
        if (early := self._refuse_early(resolved, counted=False)) is not None:
            return early
        tokenized = await self._tokenized(resolved, Timing(resolved.arrived_s))
        return self._router.decide(tokenized.plan_request, resolved)

    def check(self, request: RerankRequest) -> None:
        """Raises UnknownModel for a model or an SLO class that this fleet does not have, Forbidden for one that its
        tenant may not name, RateLimited while the tenant is above its rate."""
        target_of(request, self.live, self.config.tiers)
        self.limits.take_pairs(request.tenant, 0, self.clock())

    async def probe(self) -> None:
        """Rank a document by the fastest tier that is awake, as any request is ranked.

        Raises what that raises, and Unavailable if nothing was scored. Returns if every group is asleep, and if the
        probe is refused for load: neither is a fault.
        """
        if self.fleet.asleep:
            return
        models = self.fleet.models
        awake = [tier for tier in models if self.fleet.awake(self.config.group_of(tier))]
        if not awake:
            raise Unavailable("no replica runs")
        fastest = min(awake, key=lambda tier: models[tier].alpha_ms)
        try:
            ranking = await self.rank(replace(PROBE, model=fastest))
        except Overloaded:
            return
        if not ranking.stages:
            raise Unavailable(f"nothing was scored: {ranking.plan.reason}")

    async def warm_up(self, tier: str) -> None:
        """Score a small request a few times: connections and much else are made on first use, and no client should
        pay for that. Nothing is decided or learned. Raises what replicas raise."""
        for _ in range(WARM_UPS):
            tokenized = await self._tokenized(self._resolve(replace(PROBE, model=tier), None), Timing())
            part = await tokenized.texts.part(tier)
            await self._router.dispatcher.score((tier,), part.pairs)

    def _resolve(
        self, request: RerankRequest, assignment: Assignment | None, arrived_s: float | None = None
    ) -> ResolvedRequest:
        """Check a request and count its pairs as its tenant's, put its documents into their retriever's order, and find
        which tiers may answer it."""
        with self.limits.blocking(request.tenant, self.clock):  # a thousand queries take tens of milliseconds
            if not request.probe:
                self._check_content(request)
            arm = assignment.settings if assignment is not None else NO_ARM
            target = target_of(request, self.live, self.config.tiers, arm)
            if arm.min_quality is not None:
                request = replace(request, min_quality=max(request.min_quality, arm.min_quality))
            request = for_each_query(request)
            self.limits.take_pairs(request.tenant, len(request.documents), self.clock())
            request, places = in_retrievers_order(request)
            fusion, calibrations = self._fusion(request, arm)
            arrived_s = self.clock() if arrived_s is None else arrived_s
            return ResolvedRequest(request, target, assignment, arrived_s, fusion, places, calibrations)

    def _check_content(self, request: RerankRequest) -> None:
        """Raises as `rank` does for what is wrong."""
        check_instruction(request.options.instruction, self.config.limits)
        check_documents(request, self.config.limits)
        for query in request.each_query:
            check_query(query, self.config.limits)
        check_scores(request)

    def _fusion(self, request: RerankRequest, arm: Arm) -> tuple[Fusion | None, Mapping[str, Calibration]]:
        """How a request's own order counts beside the logits, None if it does not, and what makes of logits, or of
        fused scores, probabilities."""
        quality = self.fleet.quality
        if request.scores is None and (request.candidates or self.config.candidates) != "ranked":
            return None, quality.calibration
        weights, calibrations = quality.weights, quality.ranked_calibration
        if (weight := arm.fusion_weight) is not None:  # for which none has been fitted, unless it is 0
            weights = dict.fromkeys(self.config.tiers, weight)
            calibrations = {} if weight else quality.calibration
        return Fusion.of_lists(request.lists, request.scores, weights), calibrations

    def _refuse_early(self, resolved: ResolvedRequest, counted: bool = True) -> Refusal | None:
        """A refusal before tokenizing, if the request would be refused even at the lower bound of its tokens.

        counted: whether the request counts as offered load.
        """
        target = resolved.target
        if target.budget_ms is None or target.slo.when_none_fits != "refuse" or not self.fleet.busy:
            return None  # an idle router has the time to count exactly
        work = self.reader.lower_bound(resolved)
        if not work:
            return None
        request = self._router.in_its_place(self._plan_request(resolved, work), resolved)
        decision = self._router.decide(request, resolved)
        if not isinstance(decision, Refusal):
            return None
        if decision.cause == "budget":
            # The number of tokens is an estimate, and the router is busy: an idle one would count.
            reason = f"this looks like too much for {target.budget_ms:.0f} ms, and others are under way"
            decision = replace(decision, cause="load", retry_after_s=EARLY_RETRY_S, reason=reason)
        if counted:
            self._router.count(request, decision, resolved.request.probe)
        return decision

    async def _tokenized(self, resolved: ResolvedRequest, timing: Timing) -> TokenizedRequest:
        texts = await self.reader.read(resolved.request, resolved.target.tiers)
        timing.ends("tokenize", self.clock())
        lengths = texts.lengths() if resolved.request.options.may_cut else texts.uncut_lengths(resolved.places)
        work = {tier: each.work for tier, each in lengths.items()}
        return TokenizedRequest(resolved, texts, self._plan_request(resolved, work, lengths), timing)

    def _plan_request(
        self, resolved: ResolvedRequest, work: Mapping[str, Work], lengths: Mapping[str, Lengths] | None = None
    ) -> PlanRequest:
        target = resolved.target
        return PlanRequest(
            work,
            resolved.arrived_s,
            target.budget_ms,
            target.pinned,
            target.slo.when_none_fits,
            resolved.request.min_quality,
            lengths,
            MAX_STAGES,
            resolved.request.options.may_cut,
            cascade=target.cascade,
        )

    async def _wake_up(self, group: str) -> None:
        await self.warm_up(self.config.groups[group].tiers[0])
