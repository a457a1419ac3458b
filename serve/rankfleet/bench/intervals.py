"""Confidence intervals of means over requests that are not independent of each other."""

import numpy as np

ROUNDS = 10_000
LEVEL = 0.95
SEED = 1


def block_interval(values: np.ndarray, blocks: np.ndarray) -> tuple[float, float]:
    """The 95% interval of the mean by a bootstrap over blocks: whole blocks are drawn with replacement.

    Requests of one burst wait for each other, those of different blocks of time hardly do.

    values: float [requests]. blocks: int [requests], the block of each.
    """
    _, place = np.unique(blocks, return_inverse=True)
    counts, sums = np.bincount(place), np.bincount(place, weights=values)
    drawn = np.random.default_rng(SEED).integers(len(counts), size=(ROUNDS, len(counts)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
