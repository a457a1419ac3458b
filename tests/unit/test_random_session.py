"""Random sessions of a fleet whose parts fail: no request is lost, none is late, and nothing is left over.

`make test` runs 20,000 steps, the same each time; `make fuzz` a million new ones (`tests/fuzzing.py`).
"""

import logging
import math
from itertools import product

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rankfleet.core.decisions import Plan, Refusal
from rankfleet.core.errors import NotHosted, Overloaded, RankfleetError, ReplicaLost, ScoringFailed
from rankfleet.estimates.fusion import Fusion
from rankfleet.router.plan_options import PlanRequest
from rankfleet.router.replica_record import Entry
from tests.fuzzing import fuzzed
from tests.unit.fakes import one_tier
from tests.unit.faulty_fleet import Client, FaultyFleet, Link, limit_s
from tests.unit.faulty_replica import CONFIG, DeviceFault, FaultyReplica, logits, texts

MAX_EJECTION_S = 60.0
LONG_S = 3000.0  # a request that may take this long is answered if its group is settled
GROUPS = st.sampled_from([*CONFIG.groups])
PLACES = st.integers(0, 7)  # of a router or a replica, modulo how many there are
RETRIEVER = 0.34  # of the quality table: below medium, and above small unless it scores the first 20 alone
WEIGHTS = {"small": 3.0, "large": 0.5}  # of the quality table
BUDGETS_MS = st.sampled_from([None, None, None, 0.001, 1.0, 20.0, 100.0, 400.0, 1500.0, 4500.0, 60_000.0, 3_600_000.0])


log = logging.getLogger("ray.serve")


class Session(RuleBasedStateMachine):
    """waiting: clients that have no reply yet. unsettled_s: by group and version, when its replicas were last such that
    a request may go without scores however long it waits."""

    @initialize(is_profiled=st.sampled_from([True, True, False]), replicas=st.integers(1, 4))
    def begin(self, is_profiled: bool, replicas: int) -> None:
        self.level = log.level
        log.setLevel(logging.CRITICAL + 1)  # thousands of faults are logged
        self.fleet = FaultyFleet(is_profiled)
        self.links = [link for router in self.fleet.routers for link in router.links.values()]
        self.waiting: list[Client] = []
        self.has_failed = False
        self.unsettled_s: dict[tuple[str, int], float] = {}
        for group in ("fast", "good"):
            for _ in range(replicas):
                self.fleet.start(group)
            self.publish_to_all(group)

    def publish_to_all(self, group: str) -> None:
        for router in self.fleet.routers:
            self.fleet.publish(router, group, with_hosts=True)

    def replica(self, group: str, place: int) -> FaultyReplica | None:
        every = self.fleet.replicas[group]
        return every[place % len(every)] if every else None

    # Clients

    @rule(
        router=PLACES,
        documents=st.sampled_from([1, 20, 100, 300]),
        tokens=st.sampled_from([16, 64]),
        queries=st.sampled_from([1, 1, 1, 3]),
        copies=st.sampled_from([0.0, 0.0, 0.0, 0.4]),
        budget_ms=BUDGETS_MS,
        pinned=st.sampled_from([None, None, None, *CONFIG.tiers]),
        refuse=st.booleans(),
        min_quality=st.sampled_from([0.0, 0.0, 0.0, 0.0, 0.35, 0.51, 0.99]),
        fused_by=st.sampled_from([None, "order", "scores"]),
        count=st.sampled_from([1, 1, 3, 10]),
        then_s=st.sampled_from([0.0, 0.0, 0.001, 0.01, 0.1]),
    )
    def requests_come(
        self,
        router: int,
        documents: int,
        tokens: int,
        queries: int,
        copies: float,
        budget_ms: float | None,
        pinned: str | None,
        refuse: bool,
        min_quality: float,
        fused_by: str | None,
        count: int,
        then_s: float,
    ) -> None:
        pairs = texts(documents, tokens, queries, round(copies * documents))
        process, candidates = self.fleet.routers[router % 2], sum(pairs.lists.counts)
        request = PlanRequest(
            {tier: work for tier, work in pairs.work.items() if pinned in (None, tier)},
            self.fleet.clock(),
            budget_ms,
            "name" if pinned else None,
            "refuse" if refuse else "degrade",
            min_quality,
            pairs.lengths,
            max_stages=2,
        )
        scores = None if fused_by == "order" else [float(rank**2) for rank in range(candidates, 0, -1)]
        weights = process.view.quality.weights
        fusion = None if fused_by is None else Fusion.of_lists(pairs.lists, scores, weights)
        self.waiting += [self.fleet.submit(process, request, pairs, fusion) for _ in range(count)]
        self.fleet.run_for(then_s)

    @rule(place=PLACES)
    def a_client_leaves(self, place: int) -> None:
        if self.waiting:
            client = self.waiting[place % len(self.waiting)]
            client.has_left = True
            client.task.cancel()

    # Time

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.25, 0.5, 1.0, 5.0, 6.0, 30.0, 130.0]))
    def time_passes(self, seconds: float) -> None:
        self.fleet.run_for(seconds)
        for router, replicas in product(self.fleet.routers, self.fleet.replicas.values()):
            if replicas and not replicas[0].is_gone:
                router.view.update_latency(replicas[0].worker.models)

    @rule(seconds=st.sampled_from([0.01, 0.3, 0.6, 2.0, 10.0]))
    def everything_stalls(self, seconds: float) -> None:
        self.fleet.loop.stall(seconds)
        self.fleet.run_for(1e-6)

    # Replicas

    @rule(
        group=GROUPS,
        place=PLACES,
        count=st.sampled_from([1, 1, 6]),
        how=st.sampled_from(
            ["gone", "gone", "silent", "silent", "hung", "slow", "fast", "failing", "failing", "flaky"]
        ),
    )
    def replicas_break(self, group: str, place: int, count: int, how: str) -> None:
        for i in range(count):
            if (replica := self.replica(group, place + i)) is not None and not replica.is_gone:
                replica.fail(how)
                self.has_failed |= bool(replica.fails)

    @rule(group=GROUPS, place=PLACES)
    def a_replica_recovers(self, group: str, place: int) -> None:
        if (replica := self.replica(group, place)) is not None and not replica.is_gone:
            replica.reset()

    @rule(
        group=GROUPS,
        versions=st.sampled_from([(1, 2), (1, 2), (1, 2), (1,), (2,)]),
        precision=st.sampled_from("aab"),
        clock_offset_s=st.sampled_from([0.0, -7200.0, 36_000.0]),
        clock_rate=st.sampled_from([1.0, 0.999, 1.001]),
        publish=st.booleans(),
    )
    def a_replica_starts(
        self,
        group: str,
        versions: tuple[int, ...],
        precision: str,
        clock_offset_s: float,
        clock_rate: float,
        publish: bool,
    ) -> None:
        if len(self.fleet.replicas[group]) < 6:
            self.fleet.start(group, versions, precision, clock_offset_s, clock_rate)
        if publish:
            self.publish_to_all(group)

    @rule(group=GROUPS, count=st.sampled_from([1, 1, 6]), can_start=st.booleans())
    def replicas_drain(self, group: str, count: int, can_start: bool) -> None:
        self.fleet.can_start = can_start
        del self.fleet.replicas[group][:count]
        self.publish_to_all(group)

    # Routers and Serve

    @rule(router=PLACES, group=GROUPS, with_hosts=st.booleans(), again=st.booleans())
    def serve_lists_replicas(self, router: int, group: str, with_hosts: bool, again: bool) -> None:
        """again: those that it listed the time before."""
        process = self.fleet.routers[router % 2]
        if again:
            process.links[group].publish(process.links[group].before, with_hosts)
        else:
            self.fleet.publish(process, group, with_hosts)

    @rule(router=PLACES, group=GROUPS, is_rough=st.booleans(), version=st.sampled_from([1, 2]))
    def serve_and_router_change(self, router: int, group: str, is_rough: bool, version: int) -> None:
        process = self.fleet.routers[router % 2]
        process.links[group].is_rough = is_rough
        if version != process.version:
            process.serve_version(version)

    # What holds after every step

    @invariant()
    def everything_holds(self) -> None:
        self.requests_end_in_time()
        self.estimates_are_finite()
        self.links_are_right()
        self.no_task_fails_unseen()
        self.note_what_is_unsettled()

    def requests_end_in_time(self) -> None:
        """Every request ends in an answer or one of our errors. It does so at once if it is refused; if it is accepted,
        a second after its deadline at the latest. Where its plan is late, the predicted time takes the place of the
        deadline. Without a budget, and for a pinned tier that may be late, only `teardown` sets a limit."""
        now_s, waiting = self.fleet.clock(), []
        for client in self.waiting:
            if client.task.done():
                self.check(client)
            else:
                waiting.append(client)
                if isinstance(client.decision, Plan) and not client.has_left:
                    assert now_s <= limit_s(client.request) + 1e-3
        self.waiting = waiting

    def check(self, client: Client) -> None:
        """What became of a request is what its plan allows."""
        if client.task.cancelled():
            assert client.has_left
            return
        client.task.result()
        if client.error is not None:
            assert not isinstance(client.error, ReplicaLost | NotHosted), "no client sees these"
            assert self.has_failed or not isinstance(client.error, ScoringFailed)
            if isinstance(client.error, Overloaded):
                assert 0 < client.error.retry_after_s < math.inf
        if not isinstance(client.decision, Plan):
            assert client.answer is None
            assert isinstance(client.decision, Refusal) == (client.error is not None)
            return
        if client.plan is not None:
            assert client.plan.quality >= client.request.min_quality
            if client.fusion is not None and client.request.pinned is None:
                assert client.plan.quality >= RETRIEVER
        if client.answer is not None:
            self.check_scores(client)
        elif limit_s(client.request) > client.request.arrived_s + LONG_S:
            groups = [CONFIG.group_of(stage.tier) for stage in client.decision.stages]
            since_s = max(self.unsettled_s.get((group, client.version), -math.inf) for group in groups)
            assert since_s >= client.request.arrived_s, client

    def check_scores(self, client: Client) -> None:
        """Every candidate has the score of its document, fused where candidates are ranked, and those of a stage come
        from the same weights. The same document has the same score wherever it occurs."""
        order, scores, raw = client.answer.order, client.answer.scores, client.answer.logits
        stage, documents, best = client.answer.stages[-1], client.texts.documents, []
        for part in client.texts.lists.slices:
            assert sorted(order[part].tolist()) == list(range(part.start, part.stop))
            best.append(order[part][: stage.candidates])
            placed = scores[order[part]]
            assert (placed[1:] <= placed[:-1]).all()
        places = np.concatenate(best)
        numbers = places if documents is None else documents[places]
        weights = [f"{stage.tier}@{client.version}/{precision}" for precision in "ab"]
        assert any(np.array_equal(raw[places], logits(each, numbers)) for each in weights)
        expected = raw[places].astype(np.float64)
        if client.fusion is not None:
            expected += WEIGHTS.get(stage.tier, 0.0) * client.fusion.evidence[places]
        assert np.allclose(scores[places], expected, rtol=0, atol=1e-9)
        if documents is not None:
            of_first = np.unique(documents, return_index=True)[1]
            assert np.array_equal(raw, raw[of_first][documents])

    def estimates_are_finite(self) -> None:
        now_s = self.fleet.clock()
        values: list[float] = []
        for router in self.fleet.routers:
            for group in router.view.snapshot(now_s).groups.values():
                assert group.replicas >= 1
                values += (group.backlog_s, *group.arrivals.burst_rates_per_s, *(ms for ms, _ in group.in_flight))
            for model in router.view.models.values():
                values += model.to_json().values()
            for counters in router.offered.counters.values():
                values += counters
        for replica in self.fleet.all_replicas:
            values += (replica.worker.backlog_s, replica.worker.load.backlog_s, *replica.worker.load.counters)
        assert all(0.0 <= value < math.inf for value in values)

    def links_are_right(self) -> None:
        after_s = self.fleet.clock() + MAX_EJECTION_S
        for link in self.links:
            assert not any(link.ledger.is_ejected(replica.name, after_s) for replica in link.listed)
            assert not link.faults, link.faults
            ended_s = [client.ended_s for client in link.asking.values() if client.ended_s is not None]
            assert min(ended_s, default=math.inf) > self.fleet.clock() - 1e-3, "nobody waits for this chunk"

    def no_task_fails_unseen(self) -> None:
        for task in self.fleet.tasks:
            if task.done() and not task.cancelled() and task.exception() is not None:
                assert isinstance(task.exception(), RankfleetError | DeviceFault)
        self.fleet.tasks[:] = [task for task in self.fleet.tasks if not task.done()]
        assert not self.fleet.loop.faults

    def note_what_is_unsettled(self) -> None:
        for router, group, version in product(self.fleet.routers, CONFIG.groups, (1, 2)):
            listed = router.links[group].listed
            sound = sum(replica.is_sound and version in replica.versions for replica in listed)
            if sound == 0 or len(listed) - sound > 1 or router.links[group].is_rough:
                self.unsettled_s[group, version] = self.fleet.clock()

    def teardown(self) -> None:
        if not hasattr(self, "fleet"):
            return
        try:
            self.everything_ends()
        finally:
            log.setLevel(self.level)

    def everything_ends(self) -> None:
        """Enough time passes: then every request has ended, and nothing is left of any."""
        for _ in range(120):
            if self.waiting:
                self.fleet.run_for(60.0)
                self.requests_end_in_time()
        assert not self.waiting, "a request never ends"
        for replica in self.fleet.all_replicas:
            if not replica.is_gone:
                replica.reset()
        self.fleet.run_for(7200.0)
        self.everything_holds()
        assert not self.fleet.tasks, "a task never ends"
        for replica in self.fleet.all_replicas:
            assert (replica.worker.backlog_s, replica.worker.load.backlog_s, replica.worker.busy) == (0.0, 0.0, False)
        for link in self.links:
            self.nothing_is_left(link)

    def nothing_is_left(self, link: Link) -> None:
        """The ledger is empty, and each replica that is listed is chosen in its turn."""
        ledger, now_s = link.ledger, self.fleet.clock()
        assert not ledger.busy
        assert ledger.backlog_s(1, now_s) == 0.0
        assert not any(record.chunks or record.since_ms for record in ledger._replicas.values())
        names = [replica.name for replica in link.listed]
        entries = [Entry(1.0, math.inf, now_s, frontier=one_tier(1.0)) for _ in names]
        for entry in entries:
            ledger.open(entry, now_s)
        assert {names[ledger.choose(entry, names, now_s)] for entry in entries} == {*names}


# A session has about 90 steps: 20,000 in all, or a million with FUZZ_FACTOR=50.
TestSession = Session.TestCase
TestSession.settings = fuzzed(230, stateful_step_count=100)
