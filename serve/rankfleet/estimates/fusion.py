"""Fusion: the order in which candidates came is evidence, and counts besides a tier's own score.

    fused = logit + weight × evidence

The weight, in logits per unit of evidence, belongs to a tier: the worse a tier ranks, the more the retriever counts
beside it. `rankfleet evaluate --fit-fusion` fits it on judged queries and writes it into the quality table. It holds
for both kinds of evidence, which spread about equally over a hundred candidates: a weight for each gained nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from rankfleet.core.query_lists import QueryLists

Scores = Sequence[float] | np.ndarray


def evidence_of_order(count: int) -> np.ndarray:
    """float64 [count]: −ln(rank), rank from 1, minus its mean.

    The logarithm of how likely a candidate is to be relevant, where that falls with a power of its rank.
    """
    logarithms = -np.log(np.arange(1, count + 1))
    return logarithms - logarithms.mean() if count else logarithms


def evidence_of_scores(scores: Scores) -> np.ndarray:
    """float64 [count]: standard deviations above the mean of these finite scores; 0 for all if they are equal.

    Retrievers score on scales of their own (BM25 from 0 to 50, cosines from .6 to .9); the spread of one request's
    candidates is the scale that they share.
    """
    scores = np.asarray(scores, np.float64)
    largest = np.abs(scores).max(initial=0.0)
    if largest == 0.0 or (scores == scores[0]).all():  # the rounding of the mean would pass for a deviation
        return np.zeros(len(scores))
    scaled = scores / largest  # so that no square overflows
    scaled -= scaled.mean()
    deviation = math.sqrt(scaled @ scaled / len(scaled))
    return scaled / deviation if deviation > 0 else scaled


@dataclass(frozen=True)
class Fusion:
    """What the candidates of one request bring with them.

    evidence: float64 [documents], in the retriever's order.
    weights: by tier, in logits per unit of evidence; a tier without one is not fused.
    """

    evidence: np.ndarray
    by: Literal["order", "scores"]
    weights: Mapping[str, float]

    @staticmethod
    def of(documents: int, scores: Scores | None, weights: Mapping[str, float]) -> "Fusion":
        """Of candidates in their order. scores: of the retriever, in the same order; None if they are not known."""
        if scores is None:
            return Fusion(evidence_of_order(documents), "order", weights)
        return Fusion(evidence_of_scores(scores), "scores", weights)

    @staticmethod
    def of_lists(lists: QueryLists, scores: Scores | None, weights: Mapping[str, float]) -> "Fusion":
        """Of the candidates of several queries, each query's as `of` says."""
        each = [Fusion.of(part.stop - part.start, scores and scores[part], weights) for part in lists.slices]
        return replace(each[0], evidence=np.concatenate([fusion.evidence for fusion in each]))

    def weight(self, tier: str) -> float:
        """0 for a tier that is not fused."""
        return self.weights.get(tier, 0.0)

    def fused(self, tier: str, logits: np.ndarray, places: np.ndarray) -> np.ndarray:
        """float64 [places]: the fused scores. logits: float [places], of this tier. places: of the documents that it
        scored."""
        return self.weight(tier) * self.evidence[places] + logits
