"""CUDA graphs: a forward pass of a small model is a hundred kernels of a few microseconds, which a GPU runs faster
than a host can start them. Recorded once, they start as one.

A graph has fixed shapes and fixed memory. So there is one per bucket, a number of tokens and rows; a batch is filled
up with pairs that nobody asked for, and empty rows, to the next bucket; its index arrays are copied to where the graph
reads them. What fits no bucket runs as usual.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from rankfleet.core.pairs import TokenizedPairs
from rankfleet.engine.attention.packing import PackedBatch, index_buffer, read_buffer
from rankfleet.engine.attention.upload import upload

log = logging.getLogger(__name__)

SMALLEST = 256  # tokens; below it a bucket more would save nothing
STEPS = 4  # buckets from one power of two to the next: on average a tenth of a batch is filling
TOKENS_PER_ROW = 32  # a bucket has room for pairs of this mean length
LONGEST = 512  # tokens of the longest pair: kernels start blocks for pairs of this length, so no more than needed
FILLER = 128  # tokens of the longest filling pair: short, for their attention is wasted
WARM_UPS = 3  # runs before a recording, in which libraries choose kernels and the compiler compiles


@dataclass(frozen=True, order=True)
class Bucket:
    """Fixed sizes of a recorded batch: tokens of all pairs together, and pairs."""

    tokens: int
    rows: int


def buckets_to(max_tokens: int) -> list[Bucket]:
    """Smallest first: from 256 tokens in quarters of each power of two, up to `max_tokens`."""
    sizes, octave = [], SMALLEST
    while octave <= max_tokens:
        sizes += [octave + octave * step // STEPS for step in range(STEPS)]
        octave *= 2
    return [Bucket(tokens, tokens // TOKENS_PER_ROW) for tokens in sizes if tokens <= max_tokens]


def filling(bucket: Bucket, tokens: int, filler: int) -> int:
    """How many filling pairs take a batch of `tokens` to the bucket's."""
    return -(-(bucket.tokens - tokens) // filler)


def choose(buckets: Iterable[Bucket], lengths: np.ndarray, longest: int, filler: int) -> Bucket | None:
    """The smallest bucket that these pairs and their filling fit; None where there is none, or for a pair that is
    longer than `longest`. buckets: smallest first; lengths: [pairs]."""
    if lengths.max(initial=0) > longest:
        return None
    tokens = int(lengths.sum())
    for bucket in buckets:
        if bucket.tokens >= tokens and bucket.rows >= len(lengths) + filling(bucket, tokens, filler):
            return bucket
    return None


def padded(pairs: TokenizedPairs, bucket: Bucket, filler: int) -> TokenizedPairs:
    """The pairs, then filling pairs of token 0, then empty ones, to exactly the bucket's tokens and rows."""
    missing, rows = bucket.tokens - pairs.tokens, bucket.rows - len(pairs)
    lengths = np.zeros(rows, dtype=np.int32)
    full, rest = divmod(missing, filler)
    lengths[:full] = filler
    if rest:
        lengths[full] = rest
    return TokenizedPairs(
        np.concatenate([pairs.ids, np.zeros(missing, dtype=np.int32)]),
        np.concatenate([pairs.lengths, lengths]),
        np.concatenate([pairs.seconds, np.zeros(rows, dtype=np.int32)]),
    )


class Recorder(Protocol):
    """Records device work that reads and writes fixed memory."""

    def record(self, work: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, Callable[[], None]]:
        """The tensor that `work` gives back, and what fills it anew from the memory that `work` reads."""


class CudaRecorder:
    """Graphs that share one pool of memory, since no two of them ever run at once."""

    def __init__(self, device: torch.device) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)
        self._device = device

    def record(self, work: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, Callable[[], None]]:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UPS):
                work()
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        # Of this thread alone: elsewhere in the process another model may be loading.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            out = work()
        return out, graph.replay


@dataclass(frozen=True)
class Recording:
    """index: int32, where the graph reads `index_buffer`; logits: float32 [rows], where it writes."""

    index: torch.Tensor
    logits: torch.Tensor
    replay: Callable[[], None]


class Graphs:
    """The recorded forward passes of one model. Not for several threads at once."""

    def __init__(
        self,
        forward: Callable[[PackedBatch], torch.Tensor],
        recorder: Recorder,
        device: torch.device,
        buckets: list[Bucket],
        longest: int = LONGEST,
        filler: int = FILLER,
    ) -> None:
        """forward: a batch to logits, float32 [pairs]. longest: tokens of a pair, at most what the model takes."""
        self._forward = forward
        self._recorder = recorder
        self._device = device
        self._buckets = buckets
        self._longest = longest
        self._filler = min(filler, longest)
        self._recordings: dict[Bucket, Recording] = {}
        self.runs: Counter[Bucket | None] = Counter()  # by bucket; None: batches that fitted none

    @property
    def recorded(self) -> list[Bucket]:
        return sorted(self._recordings)

    def capture(self) -> None:
        """Record all buckets, the largest first, so that the others find its memory. What cannot be recorded is
        logged and will run as usual; only want of memory leaves hope for smaller ones."""
        for bucket in sorted(set(self._buckets) - set(self._recordings), reverse=True):
            try:
                self._recordings[bucket] = self._record(bucket)
            except torch.OutOfMemoryError as error:
                log.warning("no graph for %d tokens: %s", bucket.tokens, error)
            except Exception as error:
                log.warning("no graphs from %d tokens down: %s: %s", bucket.tokens, type(error).__name__, error)
                return

    def _record(self, bucket: Bucket) -> Recording:
        nothing = TokenizedPairs(*(np.empty(0, dtype=np.int32) for _ in range(3)))
        pairs = padded(nothing, bucket, self._filler)
        index = upload(index_buffer(pairs), self._device).clone()

        def work() -> torch.Tensor:
            return self._forward(read_buffer(index, bucket.tokens, self._longest, pairs.lengths))

        logits, replay = self._recorder.record(work)
        return Recording(index, logits, replay)

    def run(self, pairs: TokenizedPairs) -> torch.Tensor | None:
        """Logits of a batch, float32 [pairs] on the device; None where no recording fits it."""
        bucket = choose(self.recorded, pairs.lengths, self._longest, self._filler)
        self.runs[bucket] += 1
        if bucket is None:
            return None
        recording = self._recordings[bucket]
        recording.index.copy_(upload(index_buffer(padded(pairs, bucket, self._filler)), self._device))
        recording.replay()
        return recording.logits[: len(pairs)].clone()  # the next run writes there
