"""Fusion: the order in which candidates came is evidence, and counts besides a tier's own score.

    fused = logit + weight × evidence

The weight, in logits per unit of evidence, belongs to a tier: the worse a tier ranks, the more the retriever counts
beside it. `rankfleet evaluate --fit-fusion` fits it on judged queries and writes it into the quality table.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class FusionWeights:
    """Of one tier, in logits per unit of evidence. order: beside candidates of which only the order is known. scores:
    beside candidates that come with the retriever's scores."""

    order: float = 0.0
    scores: float = 0.0


def evidence_of_order(count: int) -> np.ndarray:
    """float64 [count]: −ln(rank), rank from 1, minus its mean.

    The logarithm of how likely a candidate is to be relevant, where that falls with a power of its rank.
    """
    logarithms = -np.log(np.arange(1, count + 1))
    return logarithms - logarithms.mean() if count else logarithms


def evidence_of_scores(scores: np.ndarray) -> np.ndarray:
    """float64 [count]: standard deviations above the mean of these scores; 0 for all if they are equal.

    Retrievers score on scales of their own (BM25 from 0 to 50, cosines from .6 to .9); the spread of one request's
    candidates is the scale that they share.
    """
    centred = np.asarray(scores, np.float64) - np.mean(scores) if len(scores) else np.zeros(0)
    deviation = float(np.std(centred)) if len(centred) else 0.0
    return centred / deviation if deviation > 0 else np.zeros(len(centred))


@dataclass(frozen=True)
class Fusion:
    """What the candidates of one request bring with them.

    evidence: float64 [documents], in the retriever's order.
    weights: by tier; a tier without weights is not fused.
    """

    evidence: np.ndarray
    by: Literal["order", "scores"]
    weights: Mapping[str, FusionWeights] = field(default_factory=dict)

    @staticmethod
    def of(documents: int, scores: np.ndarray | None, weights: Mapping[str, FusionWeights]) -> "Fusion":
        """Of candidates in their order. scores: of the retriever, in the same order; None if they are not known."""
        if scores is None:
            return Fusion(evidence_of_order(documents), "order", weights)
        return Fusion(evidence_of_scores(scores), "scores", weights)

    def weight(self, tier: str) -> float:
        """0 for a tier that is not fused."""
        weights = self.weights.get(tier, FusionWeights())
        return weights.order if self.by == "order" else weights.scores

    def fused(self, tier: str, logits: np.ndarray, places: np.ndarray) -> np.ndarray:
        """float64 [places]: the fused scores. logits: float [places], of this tier. places: of the documents that it
        scored."""
        return logits.astype(np.float64) + self.weight(tier) * self.evidence[places]
