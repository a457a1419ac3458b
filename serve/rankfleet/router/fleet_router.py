"""Decides for requests that are known in tokens, and carries the decisions out. Knows nothing of texts, HTTP or Ray, so
that the simulator runs it too."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from rankfleet.core.config import FleetConfig
from rankfleet.core.decisions import Decision, GivenOrder, Plan, Refusal
from rankfleet.core.errors import Expired
from rankfleet.estimates.load import OfferedLoad
from rankfleet.router.answer import EXPIRED, Answer, ResolvedRequest, TokenizedRequest, given_order, refused
from rankfleet.router.dispatch import Dispatcher, GroupClient
from rankfleet.router.execution import FEWER, PlanExecution
from rankfleet.router.fleet import FleetView
from rankfleet.router.plan_options import PlanRequest
from rankfleet.router.planner import plan
from rankfleet.router.snapshot import FleetSnapshot
from rankfleet.router.tenants import TenantLimits
from rankfleet.router.unloaded import stage_work

Decide = Callable[[PlanRequest, FleetSnapshot, float], Decision]
OnDecision = Callable[[str, PlanRequest, FleetSnapshot, float, Decision], None]


class FleetRouter:
    """Routes requests over one version of the fleet."""

    def __init__(
        self,
        config: FleetConfig,
        fleet: FleetView,
        groups: Mapping[str, GroupClient],
        clock: Callable[[], float],
        models: Mapping[str, str],
        offered: OfferedLoad,
        *,
        limits: TenantLimits | None = None,
        decide: Decide = plan,
        on_decision: OnDecision | None = None,
        on_lost: Callable[[str], None] = lambda group: None,
        wake: Callable[[str], None] = lambda group: None,
    ) -> None:
        """
        clock: seconds of a steady clock
        models: by tier, as in `Chunk`
        offered: the load that is counted here
        limits: of the tenants; None for the fleet file's, of which nothing has been used
        decide: the planner; the simulator compares others
        on_decision: called with the request's id, everything that a decision was made from, and the decision
        on_lost: as in `Dispatcher`
        wake: starts a replica of a group that is asleep
        """
        self.fleet = fleet
        self._limits = limits or TenantLimits(config.tenants, config.routers)
        self.dispatcher = Dispatcher(config, fleet, groups, clock, models, on_lost, lambda: self._limits.blocked_s)
        self._config = config
        self._execution = PlanExecution(config, fleet, self.dispatcher, clock)
        self._clock = clock
        self._offered = offered
        self._plan = decide
        self._on_decision = on_decision
        self._wake = wake

    async def route(self, tokenized: TokenizedRequest) -> tuple[Plan | GivenOrder, Answer | None]:
        """Decide for a request and carry it out. Returns the plan as carried out, and the answer; None for the order as
        given. Raises what `RankingService.rank` says."""
        resolved = tokenized.resolved
        request = self.in_its_place(tokenized.plan_request, resolved)
        tokenized = replace(tokenized, plan_request=request)
        decision = self.decide(request, resolved)
        self.count(request, decision, resolved.request.probe)
        tokenized.timing.ends("plan", self._clock())
        if isinstance(decision, Refusal):
            raise refused(decision)
        if isinstance(decision, GivenOrder):
            return decision, None
        if not request.over_share:
            self._charge(decision, request, resolved.request.tenant)
        table = self.fleet.quality.table(resolved.ranked)
        try:
            answer = await self._execution.run(decision, tokenized)
        except Expired as error:
            tokenized.timing.ends("transfer", self._clock())
            if request.when_none_fits == "refuse" or table.retriever < request.min_quality:
                raise self._execution.too_late(EXPIRED, decision) from error
            return given_order(decision, table.retriever, EXPIRED), None
        worse = len(decision.stages) > 1 and answer.quality(decision, table) < table.retriever
        if worse and request.pinned is None:
            return given_order(decision, table.retriever, answer.left_out or FEWER), None
        return answer.carried_out(decision, table), answer

    def decide(self, request: PlanRequest, resolved: ResolvedRequest) -> Decision:
        """Decide for the fleet as it is now, without consequences."""
        now_s = self._clock()
        request = self.in_its_place(request, resolved)
        snapshot = self.fleet.snapshot(now_s, resolved.ranked)
        decision = self._plan(request, snapshot, now_s)
        if self._on_decision is not None:
            self._on_decision(resolved.request.request_id, request, snapshot, now_s, decision)
        return decision

    def in_its_place(self, request: PlanRequest, resolved: ResolvedRequest) -> PlanRequest:
        """The request, marked if its tenant has used up its share, or it waits behind all others anyway."""
        over_share = request.over_share or resolved.request.background
        over_share = over_share or self._limits.is_over_share(resolved.request.tenant, self._clock())
        return replace(request, over_share=True) if over_share else request

    def _charge(self, plan: Plan, request: PlanRequest, tenant: str | None) -> None:
        """Count the device time of a plan as its tenant's, at its share of full batches and at the mean."""
        if tenant is None:
            return
        now_s, fleet_s = self._clock(), 0.0
        for tier, work in stage_work(plan, request):
            group = self._config.group_of(tier)
            if (model := self.fleet.latency(tier)) is not None:
                ms = model.cost(work, self._config.groups[group].batch_tokens).mean_amortized_ms
                fleet_s += ms / 1e3 / self.fleet.replicas(group, now_s)
        self._limits.take_device_time(tenant, fleet_s)

    def count(self, request: PlanRequest, decision: Decision, probe: bool = False) -> None:
        """Count the offered load, whatever was decided: more replicas could have served it. A request that not even an
        idle fleet could serve is no load, and its budget says nothing about those of others.

        If nothing is scored and the best tier is asleep, wake its group.
        """
        if decision.unloaded is not None and not probe:
            if not request.over_share:
                self.fleet.request_arrived(request.budget_ms, request.tokens, self._clock())
            self._offered.add(decision.unloaded.work_ms)
        if isinstance(decision, Plan) or (isinstance(decision, Refusal) and decision.cause != "load"):
            return
        for each in decision.considered:
            if each.tier is None:  # nothing ranks better than the order given
                return
            if each.quality >= request.min_quality:
                if not self.fleet.awake(group := self._config.group_of(each.tier)):
                    self._wake(group)
                return
