"""The event loop: requests arrive, are planned, wait in a replica's queue, and are scored in batches.

What a request costs outside of queue and engine (`overhead_ms`) passes before it reaches the queue.
"""

import heapq
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from rankfleet.core.config import FleetConfig
from rankfleet.core.messages import UnloadedPlan, Work
from rankfleet.estimates.frontier import Frontier, frontier_of, scale_of
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.load import OfferedLoad
from rankfleet.replica.batching import Waiting
from rankfleet.replica.queue import TokenQueue
from rankfleet.router.fleet import FleetView
from rankfleet.router.plan_options import PlanOption, PlanRequest, spread
from rankfleet.router.unloaded import unloaded_plan
from rankfleet.simulate.policies import Policy
from rankfleet.simulate.scaling import TICK_S, Scaler, SimulatedGroup
from rankfleet.simulate.simulated_replica import Job, SimulatedReplica
from rankfleet.simulate.workload import Requests, Workload

P99_SIGMAS = 2.326  # of a normal distribution
REFUSED, GIVEN_UP, LATE, IN_TIME = range(4)


@dataclass
class Outcome:
    """By request. state: REFUSED … IN_TIME; tier: place among the fleet's, −1 for none; took_ms: from arrival."""

    state: np.ndarray
    tier: np.ndarray
    took_ms: np.ndarray
    gpu_s: float = 0.0
    replica_s: float = 0.0
    batches: int = 0
    replicas: list[tuple[float, int, int]] = field(default_factory=list)  # at each change: time, all, ready


class Simulation:
    """One fleet, one policy. Time is that of the events."""

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
        """scaler: None for no autoscaling, all replicas at once; start_s: until a new replica scores."""
        self._fleet, self._models, self._workload, self._policy = fleet, models, workload, policy
        self._rng = np.random.default_rng(seed)
        self._view = FleetView(fleet)
        self._view.update_latency(dict(models))
        self._empty = self._view.snapshot(0.0)  # for policies that do not look
        self._scaler, self._start_s = scaler, start_s
        self._demanded = OfferedLoad.of(fleet.groups)
        self._names = itertools.count()
        self._replicas = {
            name: [
                self._replica(name) for _ in range(group.replicas.max if scaler is None else max(1, group.replicas.min))
            ]
            for name, group in fleet.groups.items()
        }
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self._place = {tier: i for i, tier in enumerate(fleet.tiers)}
        self._quality = {name: tier.quality for name, tier in fleet.tiers.items()}
        self._batch_tokens = {name: fleet.groups[fleet.group_of(name)].batch_tokens for name in fleet.tiers}
        self._range = scale_of(tier.quality for tier in fleet.tiers.values())
        self._least: dict[int, float] = {}
        self._works: dict[int, dict[str, Work]] = {}
        self._ladders: dict[tuple[Work, tuple[str, ...]], Frontier] = {}
        # A batch is now and then slower than predicted, such that the 99th percentile is the model's.
        self._sigma = {tier: math.log(model.p99_factor) / P99_SIGMAS for tier, model in models.items()}

    def run(self, requests: Requests) -> Outcome:
        """All requests, until the last is answered."""
        n = len(requests)
        self._outcome = Outcome(np.full(n, REFUSED, np.int8), np.full(n, -1, np.int8), np.full(n, np.nan))
        classes = list(self._workload.classes.values())
        arrived, kinds, pairs = requests.arrived_s.tolist(), requests.kind.tolist(), requests.pairs.tolist()
        self._arrived = arrived
        self._deadlines = [
            math.inf if (ms := classes[kind].slo_ms) is None else at + ms / 1e3
            for at, kind in zip(arrived, kinds, strict=True)
        ]
        self._last_s = arrived[-1] if n else 0.0
        self._let_go: dict[str, list[SimulatedReplica]] = {name: [] for name in self._replicas}
        self._parked: dict[str, list[tuple[Waiting[tuple[Job, Work]], int]]] = {name: [] for name in self._replicas}
        if self._scaler is not None:
            self._at(0.0, self._scale)
        else:
            self._outcome.replica_s = self._last_s * sum(map(len, self._replicas.values()))
        events = self._events
        for i in range(n):
            now_s = arrived[i]
            while events and events[0][0] <= now_s:
                at_s, _, act = heapq.heappop(events)
                act(at_s)
            self._arrive(i, classes[kinds[i]].slo_ms, classes[kinds[i]].when_none_fits, pairs[i], now_s)
        while events:
            at_s, _, act = heapq.heappop(events)
            act(at_s)
        return self._outcome

    def _at(self, when_s: float, act: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (when_s, next(self._order), act))

    def _replica(self, group: str, ready_s: float = 0.0) -> SimulatedReplica:
        queue: TokenQueue[tuple[Job, Work]] = TokenQueue(
            self._fleet.groups[group].batch_tokens,
            self._fleet.routing,
            self._policy.select_batch,
            self._fleet.scheduling,
        )
        return SimulatedReplica(f"{group}-{next(self._names)}", queue, ready_s)

    def _work(self, pairs: int) -> dict[str, Work]:
        """By tier; pairs of equal length, cut where a tier takes fewer tokens."""
        if pairs not in self._works:
            lengths = {t: min(self._workload.tokens, s.max_tokens or 512) for t, s in self._fleet.tiers.items()}
            self._works[pairs] = {t: Work(pairs, pairs * n, pairs * n * n) for t, n in lengths.items()}
        return self._works[pairs]

    def _min_ms(self, pairs: int, work: dict[str, Work]) -> float:
        """Device time of a request at its cheapest tier, as tickets count it."""
        if pairs not in self._least:
            steps = (
                self._ladder((tier,), work[tier], self._fleet.groups[self._fleet.group_of(tier)].batch_tokens)
                for tier in self._fleet.tiers
            )
            self._least[pairs] = min(step.points[0].full_ms for step in steps)
        return self._least[pairs]

    def _ladder(self, tiers: tuple[str, ...], work: Work, max_tokens: int) -> Frontier:
        if (work, tiers) not in self._ladders:
            options = [self._models[t].option(t, self._fleet.tiers[t].quality, work) for t in tiers]
            self._ladders[work, tiers] = frontier_of(options, work.tokens / max_tokens, self._range)
        return self._ladders[work, tiers]

    def _arrive(self, i: int, slo_ms: float | None, when_none_fits: str, pairs: int, now_s: float) -> None:
        work = self._work(pairs)
        ask = PlanRequest(work, now_s, slo_ms, when_none_fits=when_none_fits)  # type: ignore[arg-type]
        snapshot = self._empty
        if self._policy.looks:
            snapshot = self._view.snapshot(now_s, self._deadlines[i], self._min_ms(pairs, work))
        choice = self._policy.choose(ask, snapshot, now_s)
        ideal = unloaded_plan(choice.found or ([choice.chosen] if choice.chosen else ()), ask, snapshot, now_s)
        if ideal is not None:
            self._view.request_arrived(slo_ms, now_s)
            self._demanded.add(ideal.work_ms)
        # A ranking that leaves something out counts as missed: what it is worth is not known.
        if isinstance(choice.chosen, PlanOption) and choice.fits:
            self._send(i, choice.chosen, work[choice.chosen.tier], ideal, now_s)

    def _send(self, i: int, chosen: PlanOption, work: Work, ideal: UnloadedPlan | None, now_s: float) -> None:
        """Cut into chunks as the service does, which reach their queues when the overhead has passed."""
        group = chosen.group
        whole = work.tokens <= self._empty.groups[group].whole_tokens
        parts = 1 if whole else spread(work, self._view.replicas(group, now_s))
        if parts > 1:
            work = work.share(parts)
        steps = self._ladder(chosen.stages[0].tiers, work, self._fleet.groups[group].batch_tokens)
        entry_id = self._view.chunk_sent(group, steps.points[0].full_ms * parts, now_s, self._deadlines[i])
        unloaded_tier = ideal.tier if ideal is not None else None
        hosted = unloaded_tier is not None and unloaded_tier in self._fleet.groups[group].tiers
        best = unloaded_tier if unloaded_tier is not None and hosted else chosen.tier
        job = Job(i, group, entry_id, parts, unloaded_tier, self._share_ms(best, work))
        request = i if parts > 1 else None
        chunk = Waiting(work.tokens, self._deadlines[i], steps, (job, work), request)
        if self._fleet.overhead_ms > 0:
            self._at(now_s + self._fleet.overhead_ms / 1e3, lambda at_s: self._queue(group, chunk, parts, at_s))
        else:
            self._queue(group, chunk, parts, now_s)

    def _queue(self, group: str, chunk: Waiting[tuple[Job, Work]], parts: int, now_s: float) -> None:
        """To the replicas with the least backlog, a chunk each. Where there is none, they wait for one."""
        if not self._replicas[group]:
            self._parked[group].append((chunk, parts))
            return
        backlogs = [replica.backlog_ms(now_s) for replica in self._replicas[group]]
        least = (
            [backlogs.index(min(backlogs))] if parts == 1 else sorted(range(len(backlogs)), key=backlogs.__getitem__)
        )
        for place in itertools.islice(itertools.cycle(least), parts):
            replica = self._replicas[group][place]
            replica.queue.put(chunk, now_s, idle=not replica.running)
            replica.load.arrived(chunk.item[0].unloaded_ms)
            if not replica.running:
                self._start(replica, now_s)
            elif (last_s := chunk.last_start_s) < replica.free_s:
                self._at(last_s, lambda at_s, replica=replica: self._expire(replica, at_s))  # type: ignore[misc]

    def _start(self, replica: SimulatedReplica, now_s: float) -> None:
        """The next batch of an idle replica, if anything waits that can be in time."""
        if now_s < replica.ready_s:
            self._at(replica.ready_s, lambda at_s: None if replica.running else self._start(replica, at_s))
            return  # still starting up
        taken = replica.queue.take(now_s)
        for chunk in taken.infeasible:
            replica.load.left(chunk.item[0].unloaded_ms)
            self._lose(chunk.item[0], now_s)
        if not taken.batch:
            return
        tier = taken.bound.tier
        ms = self._models[tier].mean_ms(Work.sum(chunk.item[1] for chunk in taken.batch))
        if self._sigma[tier]:
            ms *= math.exp(self._sigma[tier] * self._rng.standard_normal())
        replica.running, replica.tier, replica.free_s = taken.batch, tier, now_s + ms / 1e3
        self._outcome.gpu_s += ms / 1e3
        self._outcome.batches += 1
        self._at(replica.free_s, lambda at_s: self._finish(replica, at_s))

    def _expire(self, replica: SimulatedReplica, now_s: float) -> None:
        """Answer what cannot be in time any more, though the replica is busy."""
        for chunk in replica.queue.expire(now_s):
            replica.load.left(chunk.item[0].unloaded_ms)
            self._lose(chunk.item[0], now_s)

    def _finish(self, replica: SimulatedReplica, now_s: float) -> None:
        """A batch is done: answer its requests, take the next."""
        batch, replica.running = replica.running, []
        for chunk in batch:
            job, work = chunk.item
            replica.load.left(job.unloaded_ms)
            lesser = self._quality[replica.tier] < self._quality.get(job.unloaded_tier or "", -math.inf)
            replica.load.scored(job.unloaded_ms, self._share_ms(replica.tier, work), lesser)
            job.left -= 1
            if job.left == 0 and not job.lost:
                self._view.chunk_done(job.group, job.entry_id, now_s)
                self._outcome.took_ms[job.request] = (now_s - self._arrived[job.request]) * 1e3
                self._outcome.tier[job.request] = self._place[replica.tier]
                in_time = now_s <= self._deadlines[job.request] + 1e-9
                self._outcome.state[job.request] = IN_TIME if in_time else LATE
        self._view.replica_reported(batch[0].item[0].group, replica.name, replica.queue.backlog_ms / 1e3, now_s)
        self._start(replica, now_s)

    def _lose(self, job: Job, now_s: float) -> None:
        """A chunk was given up, and so is its request: what is left of it elsewhere is work for nobody."""
        if job.lost:
            return
        job.lost = True
        self._view.chunk_done(job.group, job.entry_id, now_s)
        self._outcome.state[job.request] = GIVEN_UP
        if job.left > 1:
            for replica in self._replicas[job.group] + self._let_go[job.group]:
                replica.forget(job)

    def _share_ms(self, tier: str, work: Work) -> float:
        return self._models[tier].share_ms(work, min(1.0, work.tokens / self._batch_tokens[tier]))

    def _group(self, name: str, now_s: float) -> SimulatedGroup:
        """What a scaler may know. Those let go still report what they finish."""
        there, gone = self._replicas[name], self._let_go[name]
        sources = {f"replica {r.name}": r.load.counts for r in there + gone}
        return SimulatedGroup(
            ready=sum(r.ready_s <= now_s for r in there),
            all=len(there),
            sources=sources | {"router": self._demanded.counts[name]},
            backlog_s=sum(r.load.backlog_s for r in there + gone),
            ongoing=sum(len(r.queue) + len(r.running) for r in there + gone) + len(self._parked[name]),
        )

    def _scale(self, now_s: float) -> None:
        """Ask the scaler. A replica let go finishes what it has, and counts until then; a new one takes work when it
        is ready."""
        assert self._scaler is not None
        for name, gone in self._let_go.items():
            self._let_go[name] = [replica for replica in gone if replica.running or len(replica.queue)]
        groups = {name: self._group(name, now_s) for name in self._replicas}
        for name, target in self._scaler.targets(groups, now_s).items():
            replicas = self._replicas[name]
            if groups[name].ready == 0 and groups[name].ongoing > 0:  # as Serve does, whatever a policy says
                target = max(1, target)
            while len(replicas) < target:
                replicas.append(self._replica(name, now_s + self._start_s))
            parked, self._parked[name] = self._parked[name], []
            for chunk, parts in parked:
                self._queue(name, chunk, parts, now_s)
            self._let_go[name] += replicas[target:]
            del replicas[target:]
            self._view.set_running(name, frozenset(replica.name for replica in replicas if replica.ready_s <= now_s))
        self._outcome.replica_s += TICK_S * sum(map(len, [*self._replicas.values(), *self._let_go.values()]))
        every = [replica for group in self._replicas.values() for replica in group]
        state = len(every), sum(replica.ready_s <= now_s for replica in every)
        if not self._outcome.replicas or self._outcome.replicas[-1][1:] != state:
            self._outcome.replicas.append((now_s, *state))
        if now_s < self._last_s:
            self._at(now_s + TICK_S, self._scale)
