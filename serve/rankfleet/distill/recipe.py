"""The settings of a training run: the published Ettin recipe by size of the student.

One epoch, linear warm-up over 3% of the steps, then linear decay; learning rate and batch by size.
"""

from dataclasses import dataclass

WARMUP_SHARE = 0.03
WEIGHT_DECAY = 0.01
# The published batches are for 143 million pairs. Fewer pairs in such batches would make too few steps to learn from.
MIN_STEPS, MIN_BATCH = 500, 32


@dataclass(frozen=True)
class Recipe:
    """Settings of one run. batch: pairs per optimiser step; max_tokens: limit of a pair while training."""

    learning_rate: float
    batch: int
    epochs: float = 1.0
    max_tokens: int = 512


# Upper bound of the student's parameters in millions → the published setting.
# https://huggingface.co/blog, "Introducing the Ettin Reranker Family", training section.
PUBLISHED = {
    25: Recipe(2.4e-4, 1024),
    50: Recipe(1.2e-4, 512),
    110: Recipe(3e-5, 256),
    275: Recipe(1.5e-5, 192),
    700: Recipe(7e-6, 256),
}
LARGEST = Recipe(3e-6, 512)


def published_recipe(parameters: int) -> Recipe:
    """The published setting for a student of this many parameters."""
    return next((recipe for millions, recipe in PUBLISHED.items() if parameters <= millions * 1e6), LARGEST)


def fitting_batch(published: int, pairs: int, epochs: float) -> int:
    """The published batch, or where there are few pairs, the largest power of two that makes MIN_STEPS steps, and at
    least MIN_BATCH."""
    most = max(MIN_BATCH, int(pairs * epochs / MIN_STEPS))
    return min(published, 1 << (most.bit_length() - 1))


def micro_batch(batch: int, most: int) -> int:
    """Pairs on the device at once: the largest divisor of the batch that is at most `most`. Gradients of several are
    accumulated."""
    return next(size for size in range(min(batch, most), 0, -1) if batch % size == 0)
