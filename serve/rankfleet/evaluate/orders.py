"""The order of one query's candidates by plan: one tier on all or the first of them, or a cascade."""

import math

import numpy as np

from rankfleet.core.decisions import Stage
from rankfleet.estimates.latency import LatencyModel
from rankfleet.router.cascade import ranked, second_stage

INSTANT = LatencyModel(0.0, 0.0, 0.0)  # a tier that takes no time, so that no second stage is shortened


def best_first(scores: np.ndarray) -> np.ndarray:
    """Indices of the candidates, best first; ties in the given order."""
    return np.argsort(-scores, kind="stable")


def first_scored(scores: np.ndarray, depth: int) -> np.ndarray:
    """The order when only the first `depth` candidates are scored: those by score, then the others in the given
    order."""
    return np.concatenate([best_first(scores[:depth]), np.arange(len(scores))[depth:]])


def cascade(small: np.ndarray, large: np.ndarray, keep: int, retrieved: bool = True) -> np.ndarray:
    """The order that the service gives when `small` scores all candidates and `large` the `keep` most promising.

    small, large: scores, float [candidates], in the retriever's order. retrieved: as in `router.cascade.promising`;
    False for fused scores, which have the retriever's order in them.
    """
    lengths = np.zeros(len(small), dtype=np.int64)
    kept = second_stage(Stage.of("large", keep), small, lengths, INSTANT, math.inf, retrieved)
    order, _ = ranked(small, kept, large[kept], retrieved)
    return order
