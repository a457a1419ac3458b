"""Fakes that tests pass as arguments, and builders for what several tests need."""

import asyncio
import functools
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

import httpx
import numpy as np
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from rankfleet.api.app import HostProcess, build_api
from rankfleet.api.feedback import Sink
from rankfleet.api.keys import KeyRing
from rankfleet.api.ranking import Retriever
from rankfleet.core.config import FleetConfig
from rankfleet.core.events import RequestEvent
from rankfleet.core.experiment_state import ExperimentState
from rankfleet.core.fleet_file import parse_config
from rankfleet.core.messages import Chunk, ChunkScores, Ranking
from rankfleet.engine.text.pair_template import InstructionSlot
from rankfleet.engine.text.tokenizer import PairTokenizer
from rankfleet.estimates.arrivals import SIZES, ArrivalStats
from rankfleet.estimates.frontier import Frontier, TierOption
from rankfleet.router.ledger import Ledger
from rankfleet.router.replica_record import Entry
from rankfleet.router.service import RankingService
from rankfleet.router.shadow import OnShadow
from rankfleet.simulate.virtual_time import VirtualLoop

P = ParamSpec("P")
T = TypeVar("T")
DAWN_S = 1_796_083_200.0  # 2026-12-01T00:00:00Z, `date -u -d 2026-12-01 +%s`
WORDS = ["a", "cat", "dog", "bird", "is", "an", "animal", "the", "sat", "on", "mat", "sun", "moon", "x", "y", "z"]


def arrivals_of(typical_budget_ms: float, burst_rate_per_s: float) -> ArrivalStats:
    """Arrivals that are of the largest size, so that they count in full for every request."""
    return ArrivalStats(typical_budget_ms, typical_budget_ms, (burst_rate_per_s,) * len(SIZES))


def tier_option(
    tier: str, quality: float, ms: float, fixed_ms: float = 0.0, amortized_ms: float | None = None, spread: float = 1.0
) -> TierOption:
    """A tier that takes fixed_ms + ms for a chunk at the 99th percentile, and that ÷ spread at the mean."""
    amortized_ms = ms if amortized_ms is None else amortized_ms
    return TierOption(tier, quality, fixed_ms, ms, amortized_ms, (fixed_ms + ms) / spread, amortized_ms / spread)


def fleet(**changes: object) -> FleetConfig:
    """Three tiers in one group, as the demo has them."""
    settings: dict[str, object] = {
        "tiers": {
            "small": {"model": "demo/small", "quality": 0.3},
            "medium": {"model": "demo/medium", "quality": 0.4},
            "large": {"model": "demo/large", "quality": 0.5},
        },
        "groups": {"demo": {"tiers": ["small", "medium", "large"]}},
    }
    return parse_config(settings | changes)


def word_tokenizer(max_tokens: int = 64) -> PairTokenizer:
    """One token a word: [CLS]=1 query [SEP]=2 document [SEP]=2; words from 3 on, unknown ones are 0."""
    vocabulary = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2} | {word: i + 3 for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PairTokenizer(tokenizer, max_tokens)


def instructed_tokenizer(max_tokens: int = 64) -> PairTokenizer:
    """As `word_tokenizer`, with a prompt that shows an instruction, if there is one, between `the` and `sat`."""
    tokenizer = word_tokenizer(max_tokens)
    tokenizer.template = replace(tokenizer.template, instruction=InstructionSlot("the ", " sat"))
    return tokenizer


class FakeGroup:
    """A group that scores each pair by a function of its token ids, and keeps what it was sent."""

    def __init__(self, score: Callable[[np.ndarray], float] = lambda ids: float(len(ids)), backlog_s: float = 0.0):
        self._score = score
        self._backlog_s = backlog_s
        self.chunks: list[Chunk] = []

    async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
        self.chunks.append(chunk)
        pieces = np.split(chunk.pairs.ids, np.cumsum(chunk.pairs.lengths)[:-1])
        logits = np.array([self._score(ids) for ids in pieces], dtype=np.float32)
        return ChunkScores(logits, queue_ms=1.0, infer_ms=2.0, replica="r1", backlog_s=self._backlog_s, tier=chunk.tier)


def one_tier(ms: float) -> Frontier:
    """The frontier of a chunk that one tier may score, in so many milliseconds alone in a batch."""
    return Frontier.of([tier_option("small", 0.5, ms)])


class FakeClock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class LoopWithoutThreads(VirtualLoop):
    """Makes calls that are meant for a thread at once."""

    def run_in_executor(self, executor: None, func: Callable[..., T], *args: object) -> asyncio.Future[T]:  # type: ignore[override]
        done = self.create_future()
        done.set_result(func(*args))
        return done


async def let_threads_run() -> None:
    """Let the threads of other calls go on, too, which `asyncio.sleep(0)` may not do for minutes.

    An event loop with something to do at each turn frees the interpreter for microseconds only, and a thread on a core
    that sleeps wakes too late to take it.
    """
    await asyncio.to_thread(int)


def on_virtual_time(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Runs a test on a virtual clock, which begins at 0 s: what it waits for comes at once, in order of time."""

    async def alone(coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            return await coroutine
        finally:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return LoopWithoutThreads().run_until_complete(alone(test(*args, **kwargs)))

    return run


def ledgers(config: FleetConfig) -> dict[str, Ledger]:
    """An empty ledger for each group."""
    return {name: Ledger() for name in config.groups}


def service(
    group: FakeGroup | None = None,
    config: FleetConfig | None = None,
    tokenizers: Mapping[str, PairTokenizer] | None = None,
    clock: Callable[[], float] | None = None,
    before: RankingService | None = None,
    on_event: Callable[[RequestEvent], None] | None = None,
    on_shadow: OnShadow = lambda outcome, event: None,
    experiment_states: Mapping[str, ExperimentState] = MappingProxyType({}),
    **changes: object,
) -> RankingService:
    """A router over one fake group, at 2026-12-01T00:00:00Z. before, on_event, on_shadow, experiment_states: as in
    `RankingService`. changes: keys of the fleet file."""
    config = config or fleet(**changes)
    return RankingService(
        config,
        tokenizers or dict.fromkeys(config.tiers, word_tokenizer()),
        {"demo": group or FakeGroup()},
        before.fleet.ledgers if before else ledgers(config),
        clock=clock or FakeClock(),
        before=before,
        wall_clock=lambda: DAWN_S,
        on_event=on_event,
        on_shadow=on_shadow,
        experiment_states=experiment_states,
    )


def send(service: RankingService, ms: float) -> None:
    """A chunk of this predicted time, with an hour to go, is in flight from now on."""
    service.fleet.ledgers["demo"].open(Entry(ms, service.clock() + 3600.0, service.clock()), service.clock())


class FakeStore:
    """Texts by key. fails: whether each call raises. asked: how often it was read."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.fails = False
        self.asked = 0

    def get(self, key: str) -> str | None:
        self.asked += 1
        self._check()
        return self.texts.get(key)

    def set(self, key: str, value: str) -> None:
        self._check()
        self.texts[key] = value

    def _check(self) -> None:
        if self.fails:
            raise OSError("no store")


class FakeMetrics:
    """Keeps what it is told of requests."""

    def __init__(self) -> None:
        self.rankings: list[Ranking] = []
        self.codes: list[str] = []

    def answered(self, ranking: Ranking) -> None:
        self.rankings.append(ranking)

    def refused(self, code: str) -> None:
        self.codes.append(code)


def http_client(
    service: RankingService,
    metrics: FakeMetrics | None = None,
    retriever: Retriever | None = None,
    host: HostProcess | None = None,
    keys: KeyRing | None = None,
    feedback: Sink | None = None,
) -> httpx.AsyncClient:
    """A client of the HTTP API over a router, without a network."""
    api = build_api(
        service, metrics or FakeMetrics(), retriever, host=host or HostProcess(), keys=keys, feedback=feedback
    )
    return httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test")


BPE_TEXTS = [
    "The wing of an aircraft at supersonic speed heats the boundary layer.",
    "Patients were given the drug twice a day; 12% don't report a headache!",
    "Бързата кафява лисица, 速い茶色の狐, ثعلب بني سريع — naïve café 😀.",
    "def rank(query, documents):\n    return sorted(documents, key=score)\n",
]


def bpe_tokenizer(
    normalizer: normalizers.Normalizer | None = None,
    added: Sequence[AddedToken | str] = (),
    add_prefix_space: bool = False,
) -> Tokenizer:
    """Byte-level BPE as ModernBERT has it, with a small vocabulary of its own: special tokens 0 to 4, bytes,
    then what it has learnt, then `added`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer or normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["[UNK]", "[CLS]", "[SEP]", "[PAD]", AddedToken("[MASK]", lstrip=True)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(BPE_TEXTS * 20, trainer)
    tokenizer.add_tokens([*added])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer
