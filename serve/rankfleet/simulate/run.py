"""The simulation: the router and the workers that serve traffic, on a virtual clock.

Only what lies around them is simulated: texts of which only the lengths matter, devices that take the time of their
latency model, the core that client and router share, the way to the replicas, and their start.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import Expired, RequestError
from rankfleet.core.messages import Chunk, RerankRequest
from rankfleet.core.sections import SloClass
from rankfleet.core.timing import Timing
from rankfleet.core.work import Work
from rankfleet.estimates.correction import log_sigma
from rankfleet.estimates.fusion import Fusion
from rankfleet.estimates.latency import SPREAD_MS, LatencyModel
from rankfleet.estimates.load import OfferedLoad
from rankfleet.estimates.request_cost import RequestCost
from rankfleet.replica.hosting import HostedModel
from rankfleet.replica.worker import Worker
from rankfleet.router.answer import ResolvedRequest, TokenizedRequest
from rankfleet.router.fleet import FleetView
from rankfleet.router.fleet_router import FleetRouter
from rankfleet.router.ledger import Ledger
from rankfleet.router.plan_options import MAX_STAGES, PlanRequest
from rankfleet.router.resolve import Target
from rankfleet.simulate import virtual_time
from rankfleet.simulate.core import Core
from rankfleet.simulate.group import SimulatedGroup
from rankfleet.simulate.policies import Policy
from rankfleet.simulate.scaling import TICK_S, Scaler
from rankfleet.simulate.texts import SimulatedTexts
from rankfleet.simulate.workload import Requests, Workload

REFUSED, GIVEN_UP, LATE, IN_TIME = range(4)
LATENCY_PERIOD_S = 2.0  # how often the router asks a group for its latency models
NO_TEXTS = RerankRequest("", [])
# Rounds of the event loop after which an idle device has begun with a request: it is routed, sent in chunks, and taken
# from a queue. Requests that arrive at the same instant come one after the other, as through any router.
SETTLING_ROUNDS = 3


@dataclass
class Outcome:
    """What became of the requests.

    state: int8 [requests], REFUSED … IN_TIME
    tier: int8 [requests], index of the tier that answered among the fleet's; −1 for none
    quality: float [requests], expected nDCG@10 of the answer; NaN for none
    took_ms: float [requests], as the client sees it, from the moment it was due; NaN for none
    gpu_s: time that devices were scoring
    replica_s: time that replicas were there, from the decision to start them
    replicas: at each change, the time, the number of replicas, and the number that had started
    """

    state: np.ndarray
    tier: np.ndarray
    quality: np.ndarray
    took_ms: np.ndarray
    gpu_s: float = 0.0
    replica_s: float = 0.0
    batches: int = 0
    replicas: list[tuple[float, int, int]] = field(default_factory=list)

    @staticmethod
    def of(count: int) -> "Outcome":
        """No request answered yet."""
        nothing = np.full(count, np.nan)
        return Outcome(np.full(count, REFUSED, np.int8), np.full(count, -1, np.int8), nothing, nothing.copy())


class Simulation:
    """One fleet under one policy."""

    def __init__(
        self,
        fleet: FleetConfig,
        models: Mapping[str, LatencyModel],
        workload: Workload,
        policy: Policy,
        seed: int,
        scaler: Scaler | None = None,
        start_s: float = 0.0,
        cost: RequestCost | None = None,
    ) -> None:
        """
        models: by tier
        seed: of the spread of batch times
        scaler: None for no autoscaling, with replicas.max of each group from the start
        start_s: time from the decision to start a replica until it scores
        cost: of a request beside queue and engine; None for the fleet file's `network_ms` as its delay
        """
        self._cost = cost or RequestCost(delay_ms=fleet.network_ms)
        self._fleet, self._models, self._workload, self._policy = fleet, models, workload, policy
        self._scaler, self._start_s = scaler, start_s
        self._rng = np.random.default_rng(seed)
        # Batch times are lognormal, such that their 99th percentile is the model's.
        self._sigma = {tier: log_sigma(model) for tier, model in models.items()}
        self._texts: dict[int, SimulatedTexts] = {}

    def run(self, requests: Requests) -> Outcome:
        """Simulate all requests until the last is answered."""
        self._outcome = Outcome.of(len(requests))
        virtual_time.run(self._run(requests))
        return self._outcome

    async def _run(self, requests: Requests) -> None:
        fleet = self._fleet
        self._clock = asyncio.get_running_loop().time
        self._core = Core()
        ledgers = {name: Ledger() for name in fleet.groups}
        self._view = FleetView(fleet, ledgers)
        self._view.update_latency(self._models)
        self._offered = OfferedLoad.of(fleet.groups)
        self._groups = {name: self._new_group(name, ledgers[name]) for name in fleet.groups}
        self._router = FleetRouter(
            fleet, self._view, self._groups, self._clock, {}, self._offered, decide=self._policy.decide
        )
        last_s = float(requests.arrived_s[-1]) if len(requests) else 0.0
        async with asyncio.TaskGroup() as beside:
            tasks = [beside.create_task(self._poll_latency())]
            if self._scaler is not None:
                tasks.append(beside.create_task(self._scale(self._scaler, last_s)))
            else:
                self._outcome.replica_s = last_s * sum(len(group.replicas) for group in self._groups.values())
            await self._arrive(requests)
            for task in tasks:
                task.cancel()

    async def _arrive(self, requests: Requests) -> None:
        """Let each request arrive when it is due; returns when all are answered."""
        tiers = tuple(self._fleet.tiers)
        kinds = [
            (
                replace(NO_TEXTS, tenant=each.tenant),
                Target(
                    tiers, None, SloClass(slo_ms=each.slo_ms, when_none_fits=each.when_none_fits), None, each.slo_ms
                ),
            )
            for each in self._workload.classes.values()
        ]
        arrived = zip(requests.arrived_s.tolist(), requests.kind.tolist(), requests.pairs.tolist(), strict=True)
        async with asyncio.TaskGroup() as tasks:
            for number, (arrived_s, kind, pairs) in enumerate(arrived):
                if (wait_s := arrived_s - self._clock()) > 0:
                    await asyncio.sleep(wait_s)
                asked, target = kinds[kind]
                tasks.create_task(self._request(number, asked, target, pairs))
                for _ in range(SETTLING_ROUNDS):
                    await asyncio.sleep(0)

    async def _request(self, number: int, asked: RerankRequest, target: Target, pairs: int) -> None:
        """Rank one request as the service does, and note what became of it."""
        outcome, due_s = self._outcome, self._clock()
        if self._cost.delay_ms > 0:
            await asyncio.sleep(self._cost.delay_ms / 1e3)
        arrived_s = await self._occupy_core(self._cost.before_ms(pairs))
        try:
            plan, answer = await self._router.route(self._tokenized(asked, target, pairs, arrived_s))
        except RequestError as error:
            if isinstance(error, Expired) or isinstance(error.__cause__, Expired):
                outcome.state[number] = GIVEN_UP
            return
        if answer is None:
            outcome.state[number] = GIVEN_UP
            return
        await self._occupy_core(self._cost.reply_ms)
        took_ms = outcome.took_ms[number] = (self._clock() - due_s) * 1e3
        outcome.tier[number] = target.tiers.index(str(plan.tier))
        outcome.quality[number] = plan.quality
        in_time = target.budget_ms is None or took_ms <= target.budget_ms + 1e-6
        outcome.state[number] = IN_TIME if in_time else LATE

    async def _occupy_core(self, ms: float) -> float:
        """Let client and router work for so long, when the core is free. Returns when they began."""
        begins_s, ends_s = self._core.occupy(ms, now_s := self._clock())
        if ends_s > now_s:
            await asyncio.sleep(ends_s - now_s)
        return begins_s

    def _tokenized(self, asked: RerankRequest, target: Target, pairs: int, arrived_s: float) -> TokenizedRequest:
        if (texts := self._texts.get(pairs)) is None:
            texts = self._texts[pairs] = SimulatedTexts(self._fleet, pairs, self._workload.tokens)
        request = PlanRequest(
            texts.work,
            arrived_s,
            target.budget_ms,
            None,
            target.slo.when_none_fits,
            lengths=texts.lengths,
            max_stages=MAX_STAGES,
        )
        fusion = Fusion.of(pairs, None, self._view.quality.weights) if self._fleet.ranked else None
        resolved = ResolvedRequest(asked, target, None, arrived_s, fusion)
        return TokenizedRequest(resolved, texts, request, Timing(arrived_s))

    # Replicas

    def _new_group(self, name: str, ledger: Ledger) -> SimulatedGroup:
        fleet, group, replicas = self._fleet, self._fleet.groups[name], self._fleet.replicas_of(name)

        def new_worker(replica: str) -> Worker:
            return Worker(
                replica,
                {tier: HostedModel(tier, None, self._models[tier]) for tier in group.tiers},
                self._view.own_quality,
                group.batch_tokens,
                self._score,
                clock=self._clock,
                routing=fleet.routing,
                scheduling=fleet.scheduling,
                select_batch=self._policy.select_batch,
            )

        # Ray's part of the way to a replica and back runs in the router's process.
        hop = partial(self._occupy_core, self._cost.hop_ms / 2)
        simulated = SimulatedGroup(name, ledger, new_worker, hop)
        simulated.scale_to(replicas.max if self._scaler is None else max(1, replicas.min), 0.0)
        return simulated

    async def _score(self, model: HostedModel, chunks: Sequence[Chunk]) -> tuple[list[np.ndarray], float]:
        """A device: takes the time of the batch, and scores all pairs alike."""
        ms = model.latency.mean_ms(Work.sum(chunk.pairs.work for chunk in chunks))
        if self._sigma[model.tier]:
            ms = (ms + SPREAD_MS) * math.exp(self._sigma[model.tier] * self._rng.standard_normal()) - SPREAD_MS
            ms = max(0.0, ms)
        self._outcome.gpu_s += ms / 1e3
        self._outcome.batches += 1
        await asyncio.sleep(ms / 1e3)
        return [np.zeros(len(chunk.pairs), np.float32) for chunk in chunks], ms / 1e3

    async def _poll_latency(self) -> None:
        """Ask each group for its latency models, as routers do."""
        while True:
            await asyncio.sleep(LATENCY_PERIOD_S)
            for group in self._groups.values():
                if group.ready:
                    self._view.update_latency(next(r for r in group.replicas if r.started).worker.models)

    async def _scale(self, scaler: Scaler, last_s: float) -> None:
        """Ask the scaler for targets, and start and drain replicas, until the last request has arrived."""
        groups, outcome = self._groups, self._outcome
        while self._clock() <= last_s:
            now_s = self._clock()
            seen = {name: group.snapshot(self._offered.counters[name]) for name, group in groups.items()}
            for name, target in scaler.targets(seen, now_s).items():
                if seen[name].ready == 0 and seen[name].ongoing > 0:  # as Serve does, whatever a policy says
                    target = max(1, target)
                groups[name].scale_to(target, self._start_s)
            outcome.replica_s += TICK_S * sum(len(group.all_replicas) for group in groups.values())
            count = sum(len(group.replicas) for group in groups.values())
            ready = sum(group.ready for group in groups.values())
            if not outcome.replicas or outcome.replicas[-1][1:] != (count, ready):
                outcome.replicas.append((now_s, count, ready))
            await asyncio.sleep(TICK_S)
