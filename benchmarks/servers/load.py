"""The load: texts as all servers get them, and clients that each send their next request when the last is answered."""

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import aiohttp
from benchmarks.servers.contestants import Contestant
from benchmarks.servers.process import JSON

from rankfleet.bench.sample_texts import SampleRequest, pair_lengths, write_request

MEAN_TOKENS, LONGEST_TOKENS = 154, 512
DOCUMENTS = 2000  # that requests draw from
REQUESTS = 40  # of each cell; they come again when all have been sent
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Cell:
    """A kind of load: `clients` that each rank `documents` at a time."""

    clients: int
    documents: int

    @property
    def name(self) -> str:
        return f"{self.clients} × {self.documents}"


CELLS = (Cell(1, 100), Cell(8, 20), Cell(1, 3))


@dataclass(frozen=True)
class Burst:
    """One run of a cell. took_ms: of each answered request; failed: requests without a whole ranking."""

    documents: int
    seconds: float
    took_ms: Sequence[float]
    failed: int

    @property
    def pairs_per_s(self) -> float:
        return self.documents * len(self.took_ms) / self.seconds


def write_requests(cell: Cell, count: Callable[[str], int], special: int, seed: int = 1) -> list[SampleRequest]:
    """The requests of a cell. count: number of a text's tokens; special: special tokens of a pair."""
    lengths = [min(n, LONGEST_TOKENS) for n in pair_lengths(DOCUMENTS, MEAN_TOKENS, LONGEST_TOKENS, seed)]
    pool = write_request(lengths, count, special, seed).documents
    rng = random.Random(cell.name)
    queries = (write_request([], count, special, seed + n).query for n in range(REQUESTS))
    return [SampleRequest(query, rng.sample(pool, cell.documents)) for query in queries]


async def load(url: str, contestant: Contestant, cell: Cell, bodies: Sequence[bytes], seconds: float) -> Burst:
    """Send bodies for this long, each client its next when its last is answered, and wait for the last answers."""
    took_ms: list[float] = []
    turn = itertools.cycle(bodies)
    failed = 0
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(url, timeout=timeout, trust_env=False) as client:
        started_s = time.perf_counter()

        async def keep_sending() -> None:
            nonlocal failed
            while (sent_s := time.perf_counter()) < started_s + seconds:
                async with client.post(contestant.path, data=next(turn), headers=JSON) as response:
                    reply = await response.read()
                ms = (time.perf_counter() - sent_s) * 1e3
                if response.status == 200 and len(contestant.scores(reply)) == cell.documents:
                    took_ms.append(ms)
                else:
                    failed += 1

        await asyncio.gather(*(keep_sending() for _ in range(cell.clients)))
        return Burst(cell.documents, time.perf_counter() - started_s, took_ms, failed)
