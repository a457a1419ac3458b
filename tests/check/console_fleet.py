"""A router with the demo tiers in its own process, served on loop-back without Ray, for tests of the console."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import cache

import uvicorn

from rankfleet.api.app import HostProcess, build_api
from rankfleet.autoscaler.board import Board
from rankfleet.cli.options import load_config
from rankfleet.cluster.environment import free_port
from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import RankfleetError
from rankfleet.core.experiment_state import ExperimentState
from rankfleet.core.messages import Chunk, ChunkScores, Ranking
from rankfleet.engine.checkpoint.files import find_checkpoint
from rankfleet.engine.runtime.scorer import Reranker
from rankfleet.estimates.latency import LatencyModel
from rankfleet.router.ledger import Ledger
from rankfleet.router.replica_record import Entry
from rankfleet.router.service import RankingService

# Times that tests can rely on, whatever this computer does: per batch, and per token.
LATENCY = {
    "small": LatencyModel(2.0, 0.01, 0.0),
    "medium": LatencyModel(6.0, 0.02, 0.0),
    "large": LatencyModel(20.0, 0.05, 0.0),
}
START_S = 60.0


class NoMetrics:
    def answered(self, ranking: Ranking) -> None: ...

    def refused(self, code: str) -> None: ...


class SteppingClock:
    """Moves on by a tenth of a millisecond whenever it is read, and by what work is said to take, so that tests see the
    same times on every computer."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1e-4
        return self.now_s


class DemoGroup:
    """Scores chunks by the demo tiers. fault: if set, raised in place of an answer. held: whether answers wait."""

    def __init__(self, rerankers: dict[str, Reranker], clock: SteppingClock) -> None:
        self._rerankers = rerankers
        self._clock = clock
        self.fault: RankfleetError | None = None
        self.held = False

    async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
        while self.held:
            await asyncio.sleep(0.01)
        if self.fault is not None:
            raise self.fault
        infer_ms = LATENCY[chunk.tier].p99_ms(chunk.pairs.work)
        self._clock.now_s += infer_ms / 1e3
        logits = self._rerankers[chunk.tier].scorer.score(chunk.pairs)
        return ChunkScores(logits, 0.0, infer_ms, "r1", 0.0, chunk.tier, f"{chunk.tier} float32")


@cache
def demo_reranker(model: str) -> Reranker:
    return Reranker.load(find_checkpoint(model), "float32")


class ConsoleFleet:
    """url: of the router. group: what scores. service: the router's. key: if set, the API answers 401 without it.
    board: what Serve's controller says. states: of experiments, by their identity."""

    def __init__(self, **changes: object) -> None:
        """changes: keys of the demo fleet's file."""
        demo = load_config("demo")
        fleet = FleetConfig.model_validate(demo.model_dump(mode="json") | changes)
        rerankers = {name: demo_reranker(tier.model) for name, tier in fleet.tiers.items()}
        clock = SteppingClock()
        self.group = DemoGroup(rerankers, clock)
        tokenizers = {name: reranker.tokenizer for name, reranker in rerankers.items()}
        models = {name: name for name in fleet.tiers}
        self.states: dict[str, ExperimentState] = {}
        self.service = RankingService(
            fleet,
            tokenizers,
            {"demo": self.group},
            {"demo": Ledger()},
            clock,
            models,
            experiment_states=self.states,
        )
        self.service.fleet.update_latency(LATENCY)
        self.board = Board()
        self.api = build_api(self.service, NoMetrics(), host=HostProcess(name="router-1", board=self.told))
        self.key: str | None = None
        self.url = f"http://127.0.0.1:{free_port()}"

    async def told(self) -> Board:
        return self.board

    async def app(self, scope: dict, receive: Callable[..., Awaitable], send: Callable[..., Awaitable]) -> None:
        sent = dict(scope.get("headers", ())).get(b"authorization", b"").decode()
        if self.key is not None and scope["path"].startswith("/v1/") and sent != f"Bearer {self.key}":
            body = b'{"error": {"code": "unauthorized", "message": "this server wants an API key", "request_id": "r"}}'
            await send(
                {"type": "http.response.start", "status": 401, "headers": [(b"content-type", b"application/json")]}
            )
            await send({"type": "http.response.body", "body": body})
            return
        await self.api(scope, receive, send)


@contextlib.contextmanager
def console_fleet(**changes: object) -> Iterator[ConsoleFleet]:
    """The fleet while it answers. changes: keys of the demo fleet's file."""
    fleet = ConsoleFleet(**changes)
    port = int(fleet.url.rpartition(":")[2])
    options = {"host": "127.0.0.1", "port": port, "log_level": "error", "lifespan": "off"}
    config = uvicorn.Config(fleet.app, interface="asgi3", **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + START_S
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.started, "the server did not start"
    try:
        yield fleet
    finally:
        server.should_exit = True
        thread.join(10)
