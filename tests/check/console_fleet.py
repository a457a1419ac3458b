"""A router with the demo tiers in its own process, served on loop-back without Ray, for tests of the console."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterator

import uvicorn

from rankfleet.api.app import build_api
from rankfleet.cluster.environment import free_port
from rankfleet.cli.options import load_config
from rankfleet.core.errors import RankfleetError
from rankfleet.core.messages import Chunk, ChunkScores, Ranking
from rankfleet.engine.checkpoint.files import find_checkpoint
from rankfleet.engine.runtime.scorer import Reranker
from rankfleet.estimates.latency import LatencyModel
from rankfleet.router.ledger import Entry, Ledger
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


class DemoGroup:
    """Scores chunks by the demo tiers. fault: if set, raised in place of an answer; slow_s: waited before each."""

    def __init__(self, rerankers: dict[str, Reranker]) -> None:
        self._rerankers = rerankers
        self.fault: RankfleetError | None = None
        self.slow_s = 0.0

    async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
        if self.slow_s:
            await asyncio.sleep(self.slow_s)
        if self.fault is not None:
            raise self.fault
        start_s = time.perf_counter()
        logits = self._rerankers[chunk.tier].scorer.score(chunk.pairs)
        infer_ms = (time.perf_counter() - start_s) * 1e3
        return ChunkScores(logits, 0.0, infer_ms, "r1", 0.0, chunk.tier, f"{chunk.tier} float32")


class ConsoleFleet:
    """url: of the router. group: what scores. service: the router's. app: replaced to change what is answered."""

    def __init__(self) -> None:
        fleet = load_config("demo")
        rerankers = {name: Reranker.load(find_checkpoint(tier.model), "float32") for name, tier in fleet.tiers.items()}
        self.group = DemoGroup(rerankers)
        tokenizers = {name: reranker.tokenizer for name, reranker in rerankers.items()}
        self.service = RankingService(
            fleet, tokenizers, {"demo": self.group}, {"demo": Ledger()}, models={name: name for name in fleet.tiers}
        )
        self.service.fleet.update_latency(LATENCY)
        self.api = build_api(self.service, NoMetrics())
        self.key: str | None = None  # if set, the API answers 401 without it
        self.url = f"http://127.0.0.1:{free_port()}"

    async def app(self, scope: dict, receive: Callable[..., Awaitable], send: Callable[..., Awaitable]) -> None:
        sent = dict(scope.get("headers", ())).get(b"authorization", b"").decode()
        if self.key is not None and scope["path"].startswith("/v1/") and sent != f"Bearer {self.key}":
            body = b'{"error": {"code": "unauthorized", "message": "this server wants an API key", "request_id": "r"}}'
            await send({"type": "http.response.start", "status": 401, "headers": [(b"content-type", b"application/json")]})
            await send({"type": "http.response.body", "body": body})
            return
        await self.api(scope, receive, send)


@contextlib.contextmanager
def console_fleet() -> Iterator[ConsoleFleet]:
    """The fleet while it answers."""
    fleet = ConsoleFleet()
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
