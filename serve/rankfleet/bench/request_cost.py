"""What a request costs client and router: CPU time of the client of `bench serve` and of a router's real HTTP API, in
one process, over groups that answer at once.

The texts are known to the router's cache, as most are in a load that repeats its documents. HTTP goes through uvicorn,
as in Ray Serve. The way from the router to a replica needs Ray, and is not measured here.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Mapping, Sequence

import numpy as np

from rankfleet.api.app import build_api
from rankfleet.bench.serve import AMPLE_MS, token_counter
from rankfleet.bench.traffic import Call, calls, send, session
from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import Unavailable
from rankfleet.core.messages import Chunk, ChunkScores, Ranking
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.request_cost import RequestCost
from rankfleet.router.ledger import Ledger
from rankfleet.router.replica_record import Entry
from rankfleet.router.service import RankingService
from rankfleet.router.tokenize import load_tokenizers
from rankfleet.simulate.workload import Candidates, RequestClass, Requests, Workload

DOCUMENTS = (1, 20, 50, 100)
TOKENS = 96  # of a pair
REPEATS = 60  # requests of each size that count
# Between requests. At tens of requests a second each finds the processor's caches cold, and takes several times as long
# as in a tight loop.
PAUSE_S = 0.02
WARM_UP = 40  # the first requests of each size, which do not: they bring its documents into the cache
SEED = 1


class InstantGroup:
    """A group that scores at once. CPU seconds of this process, at the last chunk: came_s, answered_s."""

    came_s = answered_s = 0.0

    async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
        self.came_s = time.process_time()
        scores = ChunkScores(np.zeros(len(chunk.pairs), np.float32), 0.0, 0.0, "", 0.0, chunk.tier)
        self.answered_s = time.process_time()
        return scores


class NoMetrics:
    """Counts nothing."""

    def answered(self, ranking: Ranking) -> None: ...
    def refused(self, code: str) -> None: ...


@contextlib.asynccontextmanager
async def served(fleet: FleetConfig, models: Mapping[str, LatencyModel], group: InstantGroup) -> AsyncIterator[str]:
    """Serve the HTTP API of a router of this fleet over one stand-in for all groups; gives the URL."""
    import uvicorn

    ledgers = {name: Ledger() for name in fleet.groups}
    service = RankingService(fleet, load_tokenizers(fleet.tiers), dict.fromkeys(fleet.groups, group), ledgers)
    service.fleet.update_latency(models)
    settings = uvicorn.Config(
        build_api(service, NoMetrics()), "127.0.0.1", 0, log_level="error", lifespan="off", access_log=False
    )
    server = uvicorn.Server(settings)
    task = asyncio.create_task(server.serve())
    try:
        while not server.started:
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


def calls_of(fleet: FleetConfig, documents: int) -> Sequence[Call]:
    """WARM_UP different calls of one size."""
    workload = Workload(
        classes={"any": RequestClass(slo_ms=AMPLE_MS, share=1)},
        candidates=[Candidates(count=documents, share=1)],
        tokens=TOKENS,
    )
    many = Requests(np.zeros(WARM_UP), np.zeros(WARM_UP, dtype=np.int64), np.full(WARM_UP, documents))
    return calls(many, workload, *token_counter(fleet), SEED)


async def measure(fleet: FleetConfig, models: Mapping[str, LatencyModel]) -> RequestCost:
    """Time requests of several sizes, one after the other, and fit the cost. Raises Unavailable if one fails."""
    group = InstantGroup()
    taken: list[tuple[int, float, float]] = []
    # Made beforehand, because it takes longer than a server keeps an idle connection.
    by_size = {documents: calls_of(fleet, documents) for documents in DOCUMENTS}
    async with served(fleet, models, group) as url, session(url) as client:
        for documents, planned in by_size.items():
            for number, call in enumerate(itertools.islice(itertools.cycle(planned), WARM_UP + REPEATS)):
                if number >= WARM_UP:
                    await asyncio.sleep(PAUSE_S)
                sent_s = time.process_time()
                reply = await send(client, call, time.perf_counter())
                done_s = time.process_time()
                if not reply.scored:
                    raise Unavailable(f"a request of {documents} documents was not ranked: {reply.error}")
                if number >= WARM_UP:
                    before_ms, reply_ms = (group.came_s - sent_s) * 1e3, (done_s - group.answered_s) * 1e3
                    taken.append((documents, before_ms, reply_ms))
    return fit(taken)


def fit(taken: Sequence[tuple[int, float, float]]) -> RequestCost:
    """Least squares on the median of each size. taken: (documents, ms before the chunks are sent, ms of the reply)."""
    sizes = sorted({documents for documents, _, _ in taken})
    medians = np.array([np.median([row[1:] for row in taken if row[0] == size], axis=0) for size in sizes])
    document_ms, request_ms = np.polyfit(sizes, medians[:, 0], 1)
    return RequestCost(max(0.0, float(request_ms)), max(0.0, float(document_ms)), float(medians[:, 1].mean()))


def request_cost(fleet: FleetConfig, models: Mapping[str, LatencyModel]) -> RequestCost:
    """What a request costs on this machine, without the hop. models: by tier."""
    return asyncio.run(measure(fleet, models))
