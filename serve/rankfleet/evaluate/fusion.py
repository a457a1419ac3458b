"""Weights with which tiers are fused with the order of candidates, fitted on judged queries.

Of every query of a data set, a hash decides to which of five folds it belongs. What is reported for a query comes from
a weight that was chosen on the other folds, so that no weight is judged on what it was chosen by. The weight that is
served is chosen on all folds. Where the retriever's scores are known, the same weight counts.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rankfleet.core.errors import RankfleetError
from rankfleet.estimates.fusion import Fusion, evidence_of_order
from rankfleet.evaluate.candidates import Collection, ScoredCandidates
from rankfleet.evaluate.measures import Gains, padded

Evidence = Literal["order", "scores"]
EVIDENCE: tuple[Evidence, ...] = ("order", "scores")
FOLDS = 5
MIN_QUERIES = 20  # with fewer, a weight says more about single queries than about the tier

# Weights that are tried, in logits per unit of evidence. The steps of a quarter of an octave are finer than what a few
# hundred queries can tell apart; the ends leave the order of any tier, or that of the retriever, as it is.
WEIGHTS = np.array([0.0, *2.0 ** np.arange(-10, 10.25, 0.25)])
OCTAVE = 4  # steps


def check_enough(collections: Sequence[Collection]) -> None:
    """Raises RankfleetError if there are fewer than MIN_QUERIES judged queries."""
    queries = sum(len(collection.judged.queries) for collection in collections)
    if queries < MIN_QUERIES:
        raise RankfleetError(f"--fit-fusion needs {MIN_QUERIES} judged queries or more; there are {queries}")


def fold_of(query: str) -> int:
    """The fold of a query by its id: the same on every machine, and whatever the other queries are."""
    return int.from_bytes(hashlib.sha256(query.encode()).digest()[:8], "big") % FOLDS


def best_weight(curve: np.ndarray) -> float:
    """The weight whose nDCG@10 is the largest, as the mean over an octave to each side; 0 if no such mean is above the
    figure without fusion.

    Single queries make a curve jagged: its highest point is largely luck. The mean over neighbours, whose orders are
    nearly the same, finds the middle of the highest stretch, and weighs against fusion where that is narrow.

    curve: float [weights], nDCG@10 for each of WEIGHTS.
    """
    neighbours = np.full(2 * OCTAVE + 1, 1 / (2 * OCTAVE + 1))
    smooth = np.convolve(np.pad(curve[1:], OCTAVE, mode="edge"), neighbours, mode="valid").round(9)
    best = int(np.argmax(smooth))
    return float(WEIGHTS[1 + best]) if smooth[best] > curve[0].round(9) else 0.0


def curves_of(collection: Collection, tier: str) -> np.ndarray:
    """float64 [queries, weights]: nDCG@10 of every judged query for each of WEIGHTS, beside the candidates' order."""
    found, logits = collection.candidates, collection.scored[tier].logits
    none = np.zeros(0)
    scores = padded([logits.get(query, none).astype(np.float64) for query in found], -np.inf)
    beside = padded([evidence_of_order(len(hits)) for hits in found.values()], 0.0)
    gains = Gains.of(collection.judged, found)
    return np.stack([gains.ndcg(scores + weight * beside) for weight in WEIGHTS], axis=1)


def fusion_of(collection: Collection, query: str, evidence: Evidence, weights: Mapping[str, float]) -> Fusion:
    """Of one query's candidates, as the service has it."""
    hits = collection.candidates[query]
    scores = np.array([hit.score for hit in hits]) if evidence == "scores" else None
    return Fusion.of(len(hits), scores, weights)


@dataclass(frozen=True)
class FusionFit:
    """Weights fitted on several collections, which count equally.

    curves: by tier and collection, float64 [queries, weights], from `curves_of`
    folds: by collection, int [queries]
    """

    curves: Mapping[str, Mapping[str, np.ndarray]]
    folds: Mapping[str, np.ndarray]

    @staticmethod
    def of(collections: Sequence[Collection]) -> "FusionFit":
        curves = {tier: {c.name: curves_of(c, tier) for c in collections} for tier in collections[0].scored}
        return FusionFit(curves, {c.name: np.array([fold_of(q) for q in c.judged.queries]) for c in collections})

    def weight(self, tier: str, fold: int | None = None, collection: str | None = None) -> float:
        """The best weight on all queries, without those of this fold or of this collection."""
        means = []
        for name, curves in self.curves[tier].items():
            used = curves if fold is None else curves[self.folds[name] != fold]
            if name != collection and len(used):
                means.append(used.mean(axis=0))
        return best_weight(np.mean(means, axis=0))

    def weights(self) -> dict[str, float]:
        """By tier, fitted on all queries."""
        return {tier: float(f"{self.weight(tier):.4g}") for tier in self.curves}

    def held_back(self, collection: Collection, evidence: Evidence) -> dict[str, ScoredCandidates]:
        """Every tier's fused scores, each query's with the weight that was fitted on the other folds."""
        folds = dict(zip(collection.judged.queries, self.folds[collection.name].tolist(), strict=True))
        fused = {}
        for tier in collection.scored:
            by_fold = [self.weight(tier, fold=fold) for fold in range(FOLDS)]
            fused[tier] = fuse(collection, tier, evidence, {query: by_fold[fold] for query, fold in folds.items()})
        return fused

    def from_others(self, collection: Collection, evidence: Evidence) -> dict[str, ScoredCandidates]:
        """Every tier's fused scores, with the weight that was fitted on the other collections."""
        fused = {}
        for tier in collection.scored:
            weight = self.weight(tier, collection=collection.name)
            fused[tier] = fuse(collection, tier, evidence, dict.fromkeys(collection.candidates, weight))
        return fused


def fuse(collection: Collection, tier: str, evidence: Evidence, weights: Mapping[str, float]) -> ScoredCandidates:
    """One tier's fused scores, by the function that serves. weights: by query."""
    fused = {}
    for query, logits in collection.scored[tier].logits.items():
        fusion = fusion_of(collection, query, evidence, {tier: weights[query]})
        fused[query] = fusion.fused(tier, logits, np.arange(len(logits)))
    return ScoredCandidates(fused)
