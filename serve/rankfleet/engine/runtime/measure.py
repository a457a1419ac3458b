"""Timing a scorer on batches of known size, from which a latency model is fitted."""

import itertools
import random
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from rankfleet.core.pairs import TokenizedPairs
from rankfleet.core.work import Work
from rankfleet.estimates.latency import Sample

if TYPE_CHECKING:  # which measures precisions itself when it is loaded
    from rankfleet.engine.runtime.scorer import Scorer

Shape = tuple[int, int]  # pairs, mean tokens of a pair
QUICK: tuple[Shape, ...] = ((1, 32), (8, 64), (32, 64), (16, 160), (4, 320), (48, 160))
# Shuffled, so that a run that its time limit ends early has seen large and small batches.
GRID: tuple[Shape, ...] = tuple(
    random.Random(1).sample(list(itertools.product((1, 2, 5, 10, 20, 50, 100), (16, 48, 96, 160, 256, 512))), 42)
)
WARM_UP_BATCHES = 3


def synthetic_pairs(pairs: int, tokens: int, max_tokens: int, seed: int = 0, vocabulary: int = 100) -> TokenizedPairs:
    """Pairs of about `tokens` tokens each, with lengths spread ±50% as in real candidates.

    `vocabulary`: token ids are below this. Which ids pairs hold does not change the time.
    """
    rng = np.random.default_rng(seed)
    lengths = rng.integers(max(4, tokens // 2), tokens + tokens // 2 + 1, pairs).clip(4, max_tokens).astype(np.int32)
    ids = rng.integers(min(5, vocabulary - 1), vocabulary, int(lengths.sum())).astype(np.int32)
    return TokenizedPairs(ids, lengths, np.minimum(lengths - 2, 8).astype(np.int32))


def time_batch(scorer: "Scorer", batch: TokenizedPairs) -> Sample:
    """The batch's work, and the milliseconds it took."""
    started = time.perf_counter()
    scorer.score(batch)
    return Sample(Work.of(batch.lengths), (time.perf_counter() - started) * 1e3)


def measure(scorer: "Scorer", max_tokens: int, shapes: Iterable[Shape], repeats: int, max_s: float) -> Iterator[Sample]:
    """Samples of each shape in turn, `repeats` times over, until `max_s` seconds have passed; at least three.

    A few batches before the first sample warm up and are not counted.
    """
    # Only token 0, which every vocabulary has.
    batches = [
        synthetic_pairs(pairs, tokens, max_tokens, seed, vocabulary=1) for seed, (pairs, tokens) in enumerate(shapes)
    ]
    for batch in batches[:WARM_UP_BATCHES]:
        scorer.score(batch)
    until = time.perf_counter() + max_s
    for taken, batch in enumerate(batch for _ in range(repeats) for batch in batches):
        if taken >= 3 and time.perf_counter() > until:
            return
        yield time_batch(scorer, batch)
