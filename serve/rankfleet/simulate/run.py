"""The simulation: requests arrive, are planned, wait in a replica's queue, and are scored in batches.

Planner, ledger, queue and autoscaling policy are the functions that serve traffic. What a request costs outside of
queue and engine (`overhead_ms`) passes before its chunks reach the queue.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from rankfleet.core.config import FleetConfig
from rankfleet.core.messages import UnloadedPlan
from rankfleet.core.work import Work
from rankfleet.estimates.correction import log_sigma
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.load import OfferedLoad
from rankfleet.replica.batching import QueuedChunk
from rankfleet.replica.queue import TokenQueue
from rankfleet.router.fleet import FleetView
from rankfleet.router.plan_options import PlanOption, PlanRequest
from rankfleet.router.snapshot import spread
from rankfleet.router.unloaded import unloaded_plan
from rankfleet.simulate.costs import RequestCosts
from rankfleet.simulate.events import EventQueue
from rankfleet.simulate.policies import Policy
from rankfleet.simulate.scaling import TICK_S, Scaler
from rankfleet.simulate.simulated_replica import (
    Queued,
    SimulatedChunk,
    SimulatedGroup,
    SimulatedReplica,
    SimulatedRequest,
)
from rankfleet.simulate.workload import RequestClass, Requests, Workload

REFUSED, GIVEN_UP, LATE, IN_TIME = range(4)


@dataclass
class Outcome:
    """What became of the requests.

    state: int8 [requests], REFUSED … IN_TIME
    tier: int8 [requests], index of the tier that answered among the fleet's; −1 for none
    took_ms: float [requests], from arrival to answer; NaN for none
    gpu_s: time that devices were scoring
    replica_s: time that replicas were there, from the decision to start them
    replicas: at each change, the time, the number of replicas, and the number that had started
    """

    state: np.ndarray
    tier: np.ndarray
    took_ms: np.ndarray
    gpu_s: float = 0.0
    replica_s: float = 0.0
    batches: int = 0
    replicas: list[tuple[float, int, int]] = field(default_factory=list)


class Simulation:
    """One fleet under one policy, on the virtual clock of its events."""

    def __init__(
        self,
        fleet: FleetConfig,
        models: Mapping[str, LatencyModel],
        workload: Workload,
        policy: Policy,
        seed: int,
        scaler: Scaler | None = None,
        start_s: float = 0.0,
    ) -> None:
        """
        models: by tier
        seed: of the spread of batch times
        scaler: None for no autoscaling, with replicas.max of each group from the start
        start_s: time from the decision to start a replica until it scores
        """
        self._fleet, self._models, self._workload, self._policy = fleet, models, workload, policy
        self._scaler, self._start_s = scaler, start_s
        self._rng = np.random.default_rng(seed)
        self._events = EventQueue()
        self._costs = RequestCosts(fleet, models, workload.tokens)
        self._view = FleetView(fleet)
        self._view.update_latency(dict(models))
        self._idle = self._view.snapshot(0.0)
        self._offered = OfferedLoad.of(fleet.groups)
        self._replica_numbers = itertools.count()
        self._groups = {name: self._new_group(name) for name in fleet.groups}
        self._tier_index = {tier: i for i, tier in enumerate(fleet.tiers)}
        self._quality = {name: tier.quality for name, tier in fleet.tiers.items()}
        # Batch times are lognormal, such that their 99th percentile is the model's.
        self._sigma = {tier: log_sigma(model) for tier, model in models.items()}

    def run(self, requests: Requests) -> Outcome:
        """Simulate all requests until the last is answered."""
        count = len(requests)
        self._outcome = Outcome(np.full(count, REFUSED, np.int8), np.full(count, -1, np.int8), np.full(count, np.nan))
        classes = list(self._workload.classes.values())
        self._arrived_s: list[float] = requests.arrived_s.tolist()
        kinds, pairs = requests.kind.tolist(), requests.pairs.tolist()
        self._deadlines_s = [
            math.inf if (slo_ms := classes[kind].slo_ms) is None else arrived_s + slo_ms / 1e3
            for arrived_s, kind in zip(self._arrived_s, kinds, strict=True)
        ]
        self._last_arrival_s = self._arrived_s[-1] if count else 0.0
        if self._scaler is not None:
            self._events.at(0.0, self._scale)
        else:
            self._outcome.replica_s = self._last_arrival_s * sum(len(g.replicas) for g in self._groups.values())
        for number, arrived_s in enumerate(self._arrived_s):
            self._events.run_until(arrived_s)
            self._arrive(number, classes[kinds[number]], pairs[number], arrived_s)
        self._events.run_until(math.inf)
        return self._outcome

    def _new_group(self, name: str) -> SimulatedGroup:
        group = self._fleet.groups[name]

        def new_replica(ready_s: float) -> SimulatedReplica:
            queue: TokenQueue[SimulatedChunk] = TokenQueue(
                group.batch_tokens, self._fleet.routing, self._policy.select_batch, self._fleet.scheduling
            )
            return SimulatedReplica(f"{name}-{next(self._replica_numbers)}", queue, ready_s)

        simulated = SimulatedGroup(new_replica)
        simulated.grow_to(group.replicas.max if self._scaler is None else max(1, group.replicas.min), 0.0)
        return simulated

    def _arrive(self, number: int, slo: RequestClass, pairs: int, now_s: float) -> None:
        """Plan a request and send it."""
        work = self._costs.work(pairs)
        request = PlanRequest(work, now_s, slo.slo_ms, when_none_fits=slo.when_none_fits)
        snapshot = self._idle
        if self._policy.uses_fleet_state:
            snapshot = self._view.snapshot(now_s, self._deadlines_s[number], self._costs.min_ms(pairs))
        choice = self._policy.choose(request, snapshot, now_s)
        unloaded = unloaded_plan(choice.found or ([choice.chosen] if choice.chosen else ()), request, snapshot, now_s)
        if unloaded is not None:
            self._view.request_arrived(slo.slo_ms, now_s)
            self._offered.add(unloaded.work_ms)
        # A plan that leaves something out counts as missed: its quality is not known.
        if isinstance(choice.chosen, PlanOption) and choice.fits:
            self._send(number, choice.chosen, work[choice.chosen.tier], unloaded, now_s)

    def _send(
        self,
        number: int,
        chosen: PlanOption,
        work: Work,
        unloaded: UnloadedPlan | None,
        now_s: float,
    ) -> None:
        """Cut a request into chunks as the router does. They reach their queues after the overhead."""
        group = chosen.group
        is_whole = work.tokens <= self._idle.groups[group].whole_tokens
        parts = 1 if is_whole else spread(work, self._view.replicas(group, now_s))
        if parts > 1:
            work = work.share(parts)
        frontier = self._costs.frontier(chosen.stages[0].tiers, work)
        predicted_ms = frontier.points[0].amortized_ms * parts
        entry_id = self._view.chunk_sent(group, predicted_ms, now_s, self._deadlines_s[number])
        unloaded_tier = unloaded.tier if unloaded is not None else None
        # Load is measured at the unloaded tier if this group hosts it.
        hosted = unloaded_tier is not None and unloaded_tier in self._fleet.groups[group].tiers
        measured_at = unloaded_tier if unloaded_tier is not None and hosted else chosen.tier
        unloaded_ms = self._costs.amortized_ms(measured_at, work)
        request = SimulatedRequest(number, group, entry_id, parts, unloaded_tier, unloaded_ms)
        key = number if parts > 1 else None
        chunk: Queued = QueuedChunk(
            work.tokens, self._deadlines_s[number], frontier, SimulatedChunk(request, work), key
        )
        if self._fleet.overhead_ms > 0:
            arrival_s = now_s + self._fleet.overhead_ms / 1e3
            self._events.at(arrival_s, lambda at_s: self._enqueue(group, chunk, parts, at_s))
        else:
            self._enqueue(group, chunk, parts, now_s)

    def _enqueue(self, name: str, chunk: Queued, parts: int, now_s: float) -> None:
        """Put a chunk into the queues of the `parts` replicas with the least backlog, or park it if there is none."""
        replicas = self._groups[name].replicas
        if not replicas:
            self._groups[name].parked.append((chunk, parts))
            return
        backlogs = [replica.backlog_ms(now_s) for replica in replicas]
        order = (
            [backlogs.index(min(backlogs))] if parts == 1 else sorted(range(len(replicas)), key=backlogs.__getitem__)
        )
        for place in itertools.islice(itertools.cycle(order), parts):
            replica = replicas[place]
            replica.queue.put(chunk, now_s, device_idle=not replica.running)
            replica.load.arrived(chunk.item.request.unloaded_ms)
            if not replica.running:
                self._start_batch(replica, now_s)
            elif (latest_start_s := chunk.latest_start_s) < replica.free_s:
                self._events.at(latest_start_s, lambda at_s, replica=replica: self._expire(replica, at_s))  # type: ignore[misc]

    def _start_batch(self, replica: SimulatedReplica, now_s: float) -> None:
        """Put the next batch on an idle device, if a feasible chunk waits."""
        if now_s < replica.ready_s:
            self._events.at(replica.ready_s, lambda at_s: None if replica.running else self._start_batch(replica, at_s))
            return
        taken = replica.queue.take(now_s)
        for chunk in taken.infeasible:
            self._lose(replica, chunk, now_s)
        tier = taken.decision.tier
        if tier is None:
            return
        ms = self._models[tier].mean_ms(Work.sum(chunk.item.work for chunk in taken.batch))
        if self._sigma[tier]:
            ms *= math.exp(self._sigma[tier] * self._rng.standard_normal())
        replica.running, replica.tier, replica.free_s = taken.batch, tier, now_s + ms / 1e3
        self._outcome.gpu_s += ms / 1e3
        self._outcome.batches += 1
        self._events.at(replica.free_s, lambda at_s: self._finish_batch(replica, at_s))

    def _finish_batch(self, replica: SimulatedReplica, now_s: float) -> None:
        """Answer the requests of a batch, and start the next."""
        batch, replica.running = replica.running, []
        for chunk in batch:
            request, work = chunk.item
            replica.load.left(request.unloaded_ms)
            downgraded = self._quality[replica.tier] < self._quality.get(request.unloaded_tier or "", -math.inf)
            replica.load.scored(request.unloaded_ms, self._costs.amortized_ms(replica.tier, work), downgraded)
            request.chunks_left -= 1
            if request.chunks_left == 0 and not request.lost:
                number = request.number
                self._view.chunk_done(request.group, request.entry_id, now_s)
                self._outcome.took_ms[number] = (now_s - self._arrived_s[number]) * 1e3
                self._outcome.tier[number] = self._tier_index[replica.tier]
                is_in_time = now_s <= self._deadlines_s[number] + 1e-9
                self._outcome.state[number] = IN_TIME if is_in_time else LATE
        group = batch[0].item.request.group
        self._view.replica_reported(group, replica.name, replica.queue.backlog_ms / 1e3, now_s)
        self._start_batch(replica, now_s)

    def _expire(self, replica: SimulatedReplica, now_s: float) -> None:
        """Answer the requests of chunks that have become infeasible while the device is busy."""
        for chunk in replica.queue.expire(now_s):
            self._lose(replica, chunk, now_s)

    def _lose(self, replica: SimulatedReplica, chunk: Queued, now_s: float) -> None:
        """A chunk has expired, and with it its request. Its chunks at other replicas need not be scored."""
        request = chunk.item.request
        replica.load.left(request.unloaded_ms)
        if request.lost:
            return
        request.lost = True
        self._view.chunk_done(request.group, request.entry_id, now_s)
        self._outcome.state[request.number] = GIVEN_UP
        if request.chunks_left > 1:
            for other in self._groups[request.group].all_replicas:
                other.remove(request)

    def _scale(self, now_s: float) -> None:
        """Ask the scaler for targets, and start and drain replicas."""
        assert self._scaler is not None
        for group in self._groups.values():
            group.forget_drained()
        snapshots = {name: group.snapshot(self._offered.counters[name], now_s) for name, group in self._groups.items()}
        for name, target in self._scaler.targets(snapshots, now_s).items():
            group = self._groups[name]
            if snapshots[name].ready == 0 and snapshots[name].ongoing > 0:  # as Serve does, whatever a policy says
                target = max(1, target)
            group.grow_to(target, now_s + self._start_s)
            parked, group.parked = group.parked, []
            for chunk, parts in parked:
                self._enqueue(name, chunk, parts, now_s)
            group.shrink_to(target)
            self._view.set_running(name, group.ready_names(now_s))
        groups = self._groups.values()
        self._outcome.replica_s += TICK_S * sum(len(group.all_replicas) for group in groups)
        count = sum(len(group.replicas) for group in groups)
        ready = sum(len(group.ready_names(now_s)) for group in groups)
        if not self._outcome.replicas or self._outcome.replicas[-1][1:] != (count, ready):
            self._outcome.replicas.append((now_s, count, ready))
        if now_s < self._last_arrival_s:
            self._events.at(now_s + TICK_S, self._scale)
