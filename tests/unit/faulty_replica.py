"""A replica that can fail, on a virtual clock: a worker as it serves traffic, on a fake device and network."""

import asyncio
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import ReplicaLost
from rankfleet.core.fleet_file import parse_config
from rankfleet.core.messages import Chunk, ChunkScores
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.core.query_lists import QueryLists
from rankfleet.core.work import Work
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.lengths import Lengths
from rankfleet.replica.hosting import HostedModel
from rankfleet.replica.worker import Worker
from rankfleet.router.texts import Part
from rankfleet.router.tokenize import first_ranks
from rankfleet.simulate.texts import SimulatedTexts
from rankfleet.simulate.virtual_time import VirtualLoop

CONFIG: FleetConfig = parse_config(
    {
        "tiers": {
            "small": {"model": "m/small", "quality": 0.3},
            "medium": {"model": "m/medium", "quality": 0.4},
            "large": {"model": "m/large", "quality": 0.5},
            "rare": {"model": "m/rare", "quality": 0.6},
        },
        "groups": {
            "fast": {"tiers": ["small", "medium"], "replicas": {"min": 1, "max": 4}, "batch_tokens": 4096},
            "good": {"tiers": ["large"], "replicas": {"min": 1, "max": 4}, "batch_tokens": 4096},
            "sleepy": {"tiers": ["rare"], "replicas": {"min": 0, "max": 2}, "batch_tokens": 4096},
        },
        "quality": {"table": str(Path(__file__).with_name("faulty_fleet_quality.json"))},
    }
)
# 1, 2, 4 and 8 ms a batch; 20, 40, 80 and 160 ms for 1,000 tokens.
PROFILE = {tier: LatencyModel(2.0**i, 0.02 * 2**i, 0.0, 1.2) for i, tier in enumerate(CONFIG.tiers)}
QUALITY = {name: tier.quality for name, tier in CONFIG.tiers.items()}


def fingerprint(tier: str, version: int) -> str:
    return f"{tier}@{version}"


def logits(weights: str, documents: np.ndarray) -> np.ndarray:
    """The scores of documents by their numbers; they tell by which weights."""
    return (zlib.crc32(weights.encode()) % 1000 * 16 + documents * 7 % 13).astype(np.float32)


class NumberedTexts(SimulatedTexts):
    """Texts whose token ids are the number of the document, of one query or several; some documents occur twice."""

    def __init__(self, documents: int, tokens: int, queries: int, copies: int) -> None:
        """copies: candidates that are the same documents as the first ones."""
        super().__init__(CONFIG, documents, tokens)
        parts = np.array_split(np.arange(documents + copies), min(queries, documents))
        self.lists = QueryLists(tuple(map(len, parts)))
        self.documents = np.arange(documents + copies) % documents if copies else None
        if self.documents is not None or len(parts) > 1:
            ranks = first_ranks(self.lists.ranks, self.documents)
            self.lengths = {
                tier: Lengths(each.tokens, ranks=ranks, candidates=self.lists.longest)
                for tier, each in self.lengths.items()
            }

    async def part(self, tier: str, places: np.ndarray | None = None, max_tokens: int | None = None) -> Part:
        documents = self.documents
        if places is not None and documents is not None:
            places, documents = np.unique(documents[places], return_inverse=True)
        part = await super().part(tier, places, max_tokens)
        numbers = np.arange(len(part.pairs)) if places is None else places
        ids = np.repeat(numbers, part.pairs.lengths).astype(np.int32)
        return Part(TokenizedPairs(ids, part.pairs.lengths, part.pairs.document_offsets), part.layout, documents)


@cache
def texts(documents: int, tokens: int, queries: int = 1, copies: int = 0) -> NumberedTexts:
    return NumberedTexts(documents, tokens, queries, copies)


class DeviceFault(Exception):
    """What a device raises."""


class FaultyReplica:
    """A replica with a clock of its own.

    is_gone: its process has died. speaks: whether messages reach it and its answers the routers. device_runs: whether
    batches come back. slowness: time of a batch ÷ that of its profile. fails: every how many batches one fails; 0 for
    none.
    """

    def __init__(
        self,
        name: str,
        tiers: Sequence[str],
        loop: VirtualLoop,
        versions: Sequence[int],
        precision: str,
        clock_offset_s: float,
        clock_rate: float,
    ) -> None:
        self.name, self.versions, self.precision = name, versions, precision
        self._loop = loop
        self._clock: Callable[[], float] = lambda: clock_offset_s + clock_rate * loop.time()
        self.is_gone = False
        self.speaks, self.device_runs = asyncio.Event(), asyncio.Event()
        self.slowness, self.fails = 1.0, 0
        self.reset()
        self._batches = 0
        self._calls: set[asyncio.Task[ChunkScores]] = set()
        hosted = {
            fingerprint(tier, version): HostedModel(tier, None, PROFILE[tier], f"{tier}@{version}/{precision}")
            for tier in tiers
            for version in versions
        }
        self.worker = Worker(name, hosted, QUALITY, 4096, self._score, clock=self._clock)

    def reset(self) -> None:
        """Let all faults of a living replica end."""
        self.speaks.set()
        self.device_runs.set()
        self.slowness, self.fails = 1.0, 0

    def fail(self, how: str) -> None:
        """Do something wrong from now on."""
        match how:
            case "gone":
                self.kill()
            case "silent":
                self.speaks.clear()
            case "hung":
                self.device_runs.clear()
            case "slow":
                self.slowness = 20.0
            case "fast":
                self.slowness = 0.05
            case "failing":
                self.fails = 1
            case "flaky":
                self.fails = 3

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong with it."""
        ok = self.speaks.is_set() and self.device_runs.is_set() and not self.fails
        return ok and not self.is_gone and self.slowness <= 3 and self.precision == "a"

    @property
    def hosts(self) -> frozenset[str]:
        """As replicas report it."""
        return self.worker.hosts | self.worker.weights

    def kill(self) -> None:
        """The process dies; whoever waits for it hears of it."""
        self.is_gone = True
        self.reset()
        for call in [*self._calls]:
            call.cancel()

    async def answer(self, chunk: Chunk) -> ChunkScores:
        """As a call through Serve: cancelled if the replica dies, and the replica hears of a caller that has gone."""
        if self.is_gone:
            raise ReplicaLost(f"{self.name} is gone")
        call = self._loop.create_task(self._serve(chunk))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            if self.speaks.is_set():
                call.cancel()
            raise

    async def _serve(self, chunk: Chunk) -> ChunkScores:
        await self.speaks.wait()
        scores = await self.worker.submit(chunk)
        await self.speaks.wait()
        return scores

    async def _score(self, model: HostedModel, chunks: Sequence[Chunk]) -> tuple[list[np.ndarray], float]:
        """The device."""
        self._batches += 1
        started_s = self._clock()
        await asyncio.sleep(model.latency.mean_ms(Work.sum(chunk.pairs.work for chunk in chunks)) * self.slowness / 1e3)
        await self.device_runs.wait()
        if self.fails and self._batches % self.fails == 0:
            raise DeviceFault("out of memory")
        scores = [logits(model.weights, chunk.pairs.ids[chunk.pairs.lengths.cumsum() - 1]) for chunk in chunks]
        return scores, self._clock() - started_s
