"""A group that a router hosts in its own process: outside of Serve, with fakes for its models."""

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray import serve

from rankfleet.autoscaler.policy import FleetScaler
from rankfleet.cluster import envelope, router_deployment
from rankfleet.cluster.envelope import ledger_of
from rankfleet.cluster.group_deployment import ReplicaGroup
from rankfleet.cluster.in_router import InRouterGroup
from rankfleet.core.autoscaling import Autoscaling
from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import CheckpointError, ConfigError, NotHosted, ScoringFailed
from rankfleet.core.fingerprint import settings_name
from rankfleet.core.fleet_file import parse_config
from rankfleet.core.messages import Chunk, ChunkScores, RerankRequest
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.estimates.precision import Precision
from rankfleet.router.ledger import Ledger
from rankfleet.router.replica_record import Entry
from rankfleet.router.tokenize import model_names
from tests.unit.fakes import fleet, let_threads_run

Router = router_deployment.Router.__mro__[1]  # without what `serve.ingress` puts around it
SIZES = ["demo/small", "demo/medium", "demo/large"]


class FakeScorer:
    """Gives every pair the score of its model, unless the first token of one is 13; waits while `gate` is closed."""

    max_pair = 64

    def __init__(self, score: float, gate: threading.Event) -> None:
        self.batches: list[int] = []
        self._score, self._gate = score, gate

    def score(self, pairs: TokenizedPairs) -> np.ndarray:
        self.batches.append(len(pairs))
        if 13 in pairs.ids:
            raise MemoryError("out of memory")
        assert self._gate.wait(60)
        return np.full(len(pairs), self._score, np.float32)


def fingerprint(config: FleetConfig, tier: str) -> str:
    return model_names(config)[tier]


class Engine:
    """Makes replicas that load fake scorers. Models score by their sizes; `broken` cannot be loaded."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.scorers: dict[str, FakeScorer] = {}
        self.broken = ""

    def load(self, config: FleetConfig, tier: str) -> tuple[str, FakeScorer, str, Precision]:
        model = config.tiers[tier].model
        if model == self.broken:
            raise CheckpointError("there is no model folder")
        scorer = self.scorers[model] = FakeScorer(float(SIZES.index(model)), self.gate)
        return fingerprint(config, tier), scorer, f"weights of {model}", Precision("float32", "asked for by name")

    def replica(self, name: str) -> ReplicaGroup:
        return ReplicaGroup(name, fingerprint, self.load, lambda *_: None)  # type: ignore[arg-type]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    context = SimpleNamespace(replica_id=SimpleNamespace(unique_id="router 1"))
    monkeypatch.setattr(serve, "get_replica_context", lambda: context)
    monkeypatch.setattr(router_deployment, "HOSTED_PERIOD_S", 0.0)
    monkeypatch.setattr(envelope, "LEDGERS", {})
    interval = sys.getswitchinterval()
    yield Engine()
    sys.setswitchinterval(interval)


def in_router(small: str = "demo/small", **changes: object) -> FleetConfig:
    tiers = {"small": {"model": small, "quality": 0.3}}
    return fleet(tiers=tiers, groups={"demo": {"tiers": ["small"], "in_router": True}}, **changes)


def chunk(*ids: int, **models: str) -> Chunk:
    n = len(ids)
    return Chunk(
        ("small",), TokenizedPairs(np.array(ids, np.int32), np.ones(n, np.int32), np.ones(n, np.int32)), models=models
    )


async def hosted(engine: Engine) -> tuple[InRouterGroup, Ledger]:
    """A group in the router that hosts demo/small, and its ledger."""
    ledger = Ledger()
    group = InRouterGroup("demo", ledger, "router 1", engine.replica("demo"), lambda: 5.0)
    await group.follow(in_router())
    return group, ledger


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await let_threads_run()


async def test_the_ledger_knows_the_replica_as_if_serve_had_told_it(engine: Engine) -> None:
    _, ledger = await hosted(engine)
    assert ledger.running == {"router 1"}
    assert ledger.hosts == {"router 1": {fingerprint(in_router(), "small"), "weights of demo/small"}}
    assert ledger.ready(5.0, min_replicas=1) == 1


async def test_an_answer_names_the_router_and_the_ledger_counts_the_chunk_there(engine: Engine) -> None:
    group, ledger = await hosted(engine)
    entry = Entry(predicted_ms=10.0, deadline_s=9.0, sent_s=5.0)
    ledger.open(entry, 5.0)
    scores = await group.score(chunk(1, 2), entry)
    assert (scores.logits.tolist(), scores.replica, scores.tier) == ([0.0, 0.0], "router 1", "small")
    assert (entry.replica, entry.placed_s) == ("router 1", 5.0)


async def test_what_goes_wrong_is_what_a_replica_of_its_own_would_report(engine: Engine) -> None:
    group, _ = await hosted(engine)
    reason = r"^replica router 1 of group demo failed on this request: MemoryError: out of memory$"
    with pytest.raises(ScoringFailed, match=reason):
        await group.score(chunk(13), Entry(1.0, 9.0, 5.0))
    with pytest.raises(NotHosted):
        await group.score(chunk(1, small="another model"), Entry(1.0, 9.0, 5.0))


async def test_a_chunk_that_nobody_waits_for_leaves_the_queue(engine: Engine) -> None:
    group, _ = await hosted(engine)
    scorer = engine.scorers["demo/small"]
    before = len(scorer.batches)
    engine.gate.clear()
    running = asyncio.create_task(group.score(chunk(1), Entry(1.0, 9.0, 5.0)))
    await until(lambda: len(scorer.batches) > before)
    waiting = asyncio.create_task(group.score(chunk(1, 2, 3), Entry(1.0, 9.0, 5.0)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    engine.gate.set()
    await running
    assert scorer.batches[before:] == [1], "the second was never scored"


async def test_a_file_that_cannot_be_loaded_is_reported_with_its_settings(engine: Engine) -> None:
    group, ledger = await hosted(engine)
    changed = in_router("demo/medium")
    engine.broken = "demo/medium"
    await group.follow(changed)

    def reported() -> bool:
        group.publish()
        return bool(ledger.faults)

    await until(reported)
    assert ledger.faults == [(settings_name(changed.for_groups), "tier small: there is no model folder")]
    assert ledger.hosts == {"router 1": {fingerprint(in_router(), "small"), "weights of demo/small"}}


# The router around it


class Handle:
    """The handle of a group whose one replica is called in this process."""

    is_initialized = True

    def __init__(self, replica: ReplicaGroup) -> None:
        self._replica = replica
        self.latency = SimpleNamespace(remote=replica.latency)

    def options(self, **_: str) -> "Handle":
        return self

    def remote(self, sent: envelope.Envelope) -> "asyncio.Future[ChunkScores]":
        sent.entry.replica = "r1"
        return self._replica.submit(sent.chunk)


def file(config: FleetConfig) -> dict[str, Any]:
    return config.model_dump(mode="json")


async def rank(router: Any, **changes: str) -> Any:
    return await router._now.service.rank(RerankRequest("a question", ["some words", "more"], **changes))


async def turned(router: Any, config: FleetConfig) -> None:
    """Hand a router a file, and wait until it serves it."""
    await router.reconfigure(file(config))
    await until(lambda: router._rollover.next is None and router._rollover.now.config == config)


async def test_a_router_ranks_with_its_own_models_and_turns_to_new_ones(engine: Engine) -> None:
    router = Router({"demo": engine.replica})
    await router.reconfigure(file(in_router()))
    ranking = await rank(router)
    assert [document.logit for document in ranking.documents] == [0.0, 0.0]
    await turned(router, in_router("demo/medium"))
    assert (await rank(router)).documents[0].logit == 1.0
    await turned(router, in_router())
    assert (await rank(router)).documents[0].logit == 0.0
    assert (await router.state())["faults"] == []


async def test_a_router_reports_for_its_own_group_and_the_scaler_has_nothing_to_decide(engine: Engine) -> None:
    router = Router({"demo": engine.replica})
    await router.reconfigure(file(in_router()))
    await rank(router)
    report = router.record_autoscaling_stats()
    assert report["offered_load_s:demo"] > 0
    await router.check_health()
    assert FleetScaler().decide({}, {}, Autoscaling(), 1.0) == {}


async def test_a_model_that_the_router_cannot_load_is_the_fault_that_apply_reads(engine: Engine) -> None:
    router = Router({"demo": engine.replica})
    await router.reconfigure(file(in_router()))
    engine.broken = "demo/medium"
    await router.reconfigure(file(in_router("demo/medium")))
    await until(lambda: bool(router._faults()))
    state = await router.state()
    assert (state["faults"], state["config"]) == (["tier small: there is no model folder"], file(in_router()))
    assert (await rank(router)).documents[0].logit == 0.0


async def test_a_first_model_that_cannot_be_loaded_ends_the_start(engine: Engine) -> None:
    engine.broken = "demo/small"
    with pytest.raises(CheckpointError, match=r"^tier small: there is no model folder\n"):
        await Router({"demo": engine.replica}).reconfigure(file(in_router()))


async def test_a_group_does_not_move_while_its_router_runs(engine: Engine) -> None:
    apart = parse_config(file(in_router()) | {"groups": {"demo": {"tiers": ["small"]}}})
    reason = r"the file has groups demo, but this router was started for demo \(in_router\)"
    with pytest.raises(ConfigError, match=reason):
        await Router({"demo": engine.replica}).reconfigure(file(apart))


async def test_a_stuck_engine_makes_the_router_unhealthy(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    router = Router({"demo": engine.replica})
    await router.reconfigure(file(in_router()))
    engine.gate.clear()
    scorer = engine.scorers["demo/small"]
    before = len(scorer.batches)
    running = asyncio.create_task(rank(router))
    await until(lambda: len(scorer.batches) > before)
    worker = router._hosted["demo"]._hosted._ready
    worker._clock = partial(lambda now_s: now_s + 1000.0, worker._clock())
    with pytest.raises(RuntimeError, match="the batch on the device does not come back"):
        await router.check_health()
    engine.gate.set()
    await running


async def test_groups_in_the_router_and_with_replicas_stand_side_by_side(engine: Engine) -> None:
    groups = {"demo": {"tiers": ["small"], "in_router": True}, "apart": {"tiers": ["medium", "large"]}}
    config = fleet(groups=groups)
    replica = ReplicaGroup("apart", fingerprint, engine.load)  # type: ignore[arg-type]
    await replica.reconfigure(config.for_groups)
    ledger_of("apart").update(frozenset({"r1"}), {"r1": frozenset(replica.record_routing_stats()["hosts"])})
    router = Router({"demo": engine.replica}, apart=Handle(replica))
    await router.reconfigure(file(config))
    by_tier = {tier: (await rank(router, model=tier)).documents[0].logit for tier in ("small", "medium", "large")}
    assert by_tier == {"small": 0.0, "medium": 1.0, "large": 2.0}
    assert sorted(engine.scorers) == ["demo/large", "demo/medium", "demo/small"], "each is loaded in one place"
