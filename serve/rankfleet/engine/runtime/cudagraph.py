"""CUDA graphs of forward passes.

A forward pass of a small model is a hundred kernels of a few microseconds each, which a GPU runs faster than a host can
launch them. Recorded in a graph, they are launched at once.

A graph has fixed shapes and fixed memory. So one is recorded for each bucket, a number of tokens and rows. A batch is
padded to the next bucket with filler pairs, whose scores are dropped, and with empty rows; its index arrays are copied
to the memory that the graph reads. A batch that fits no bucket runs without a graph.
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

MIN_TOKENS = 256  # of a bucket; a smaller one would save nothing
STEPS_PER_OCTAVE = 4  # buckets from one power of two to the next: on average a tenth of a batch is filler
TOKENS_PER_ROW = 32  # a bucket has room for pairs of this mean length
MAX_PAIR = (
    512  # tokens of the longest pair: PyTorch's kernels launch blocks for pairs of this length, so no more than needed
)
MAX_FILLER = 128  # tokens of the longest filler pair: short, because attention within it is wasted
WARM_UPS = 3  # runs before a recording, in which libraries choose kernels and Triton compiles


@dataclass(frozen=True, order=True)
class Bucket:
    """Fixed size of a recorded batch: tokens of all pairs together, and number of pairs."""

    tokens: int
    rows: int


def buckets_to(max_tokens: int) -> list[Bucket]:
    """All buckets up to `max_tokens`, smallest first: from 256 tokens on, in quarters of each power of two."""
    sizes, octave = [], MIN_TOKENS
    while octave <= max_tokens:
        sizes += [octave + octave * step // STEPS_PER_OCTAVE for step in range(STEPS_PER_OCTAVE)]
        octave *= 2
    return [Bucket(tokens, tokens // TOKENS_PER_ROW) for tokens in sizes if tokens <= max_tokens]


def filler_pairs(bucket: Bucket, tokens: int, max_filler: int) -> int:
    """How many filler pairs pad a batch of `tokens` to the bucket."""
    return -(-(bucket.tokens - tokens) // max_filler)


def choose(buckets: Iterable[Bucket], lengths: np.ndarray, max_pair: int, max_filler: int) -> Bucket | None:
    """The smallest bucket with room for these pairs and their filler; None if there is none, or if a pair is longer
    than `max_pair`.

    `buckets`: smallest first. `lengths`: [pairs]. `max_filler`: tokens of a filler pair.
    """
    if lengths.max(initial=0) > max_pair:
        return None
    tokens = int(lengths.sum())
    for bucket in buckets:
        if bucket.tokens >= tokens and bucket.rows >= len(lengths) + filler_pairs(bucket, tokens, max_filler):
            return bucket
    return None


def pad_to_bucket(pairs: TokenizedPairs, bucket: Bucket, max_filler: int) -> TokenizedPairs:
    """The pairs, then filler pairs of token 0, then empty ones: exactly the bucket's tokens and rows."""
    missing, rows = bucket.tokens - pairs.tokens, bucket.rows - len(pairs)
    lengths = np.zeros(rows, dtype=np.int32)
    full, rest = divmod(missing, max_filler)
    lengths[:full] = max_filler
    if rest:
        lengths[full] = rest
    return TokenizedPairs(
        np.concatenate([pairs.ids, np.zeros(missing, dtype=np.int32)]),
        np.concatenate([pairs.lengths, lengths]),
        np.concatenate([pairs.document_offsets, np.zeros(rows, dtype=np.int32)]),
    )


class Recorder(Protocol):
    """Records device work that reads and writes fixed memory."""

    def record(self, work: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, Callable[[], None]]:
        """The tensor that `work` returns, and a function that recomputes it from the memory that `work` reads."""


class CudaRecorder:
    """Records CUDA graphs that share one memory pool, since no two of them run at the same time."""

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
        # Capture this thread only: another one of the process may be loading a model.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            out = work()
        return out, graph.replay


@dataclass(frozen=True)
class Recording:
    """A recorded pass. `index`: int32, where it reads `index_buffer`. `logits`: float32 [rows], where it writes."""

    index: torch.Tensor
    logits: torch.Tensor
    replay: Callable[[], None]


class Graphs:
    """The recorded forward passes of one model. Not thread-safe."""

    def __init__(
        self,
        forward: Callable[[PackedBatch], torch.Tensor],
        recorder: Recorder,
        device: torch.device,
        buckets: list[Bucket],
        max_pair: int = MAX_PAIR,
        max_filler: int = MAX_FILLER,
    ) -> None:
        """`forward`: a batch to logits, float32 [pairs]. `max_pair`: tokens of the longest pair, at most what the model
        takes. `max_filler`: tokens of the longest filler pair."""
        self._forward = forward
        self._recorder = recorder
        self._device = device
        self._buckets = buckets
        self._max_pair = max_pair
        self._max_filler = min(max_filler, max_pair)
        self._recordings: dict[Bucket, Recording] = {}
        self.runs: Counter[Bucket | None] = Counter()  # batches by bucket; None: those that fitted none

    @property
    def recorded(self) -> list[Bucket]:
        """Buckets with a recording, smallest first."""
        return sorted(self._recordings)

    def capture(self) -> None:
        """Record all buckets, the largest first, so that the others reuse its memory.

        A failure is logged, and such batches run without a graph. After running out of memory the smaller buckets are
        still tried; any other failure ends the recording.
        """
        for bucket in sorted(set(self._buckets) - set(self._recordings), reverse=True):
            try:
                self._recordings[bucket] = self._record(bucket)
            except torch.OutOfMemoryError as error:
                log.warning("no graph for %d tokens: %s", bucket.tokens, error)
            except Exception as error:
                log.warning("no graphs from %d tokens down: %s: %s", bucket.tokens, type(error).__name__, error)
                return

    def _record(self, bucket: Bucket) -> Recording:
        no_pairs = TokenizedPairs(*(np.empty(0, dtype=np.int32) for _ in range(3)))
        pairs = pad_to_bucket(no_pairs, bucket, self._max_filler)
        index = upload(index_buffer(pairs), self._device).clone()

        def work() -> torch.Tensor:
            return self._forward(read_buffer(index, bucket.tokens, self._max_pair, pairs.lengths))

        logits, replay = self._recorder.record(work)
        return Recording(index, logits, replay)

    def run(self, pairs: TokenizedPairs) -> torch.Tensor | None:
        """Logits of a batch, float32 [pairs] on the device; None if no recording fits it."""
        bucket = choose(self.recorded, pairs.lengths, self._max_pair, self._max_filler)
        self.runs[bucket] += 1
        if bucket is None:
            return None
        recording = self._recordings[bucket]
        recording.index.copy_(upload(index_buffer(pad_to_bucket(pairs, bucket, self._max_filler)), self._device))
        recording.replay()
        return recording.logits[: len(pairs)].clone()  # the next run overwrites it
