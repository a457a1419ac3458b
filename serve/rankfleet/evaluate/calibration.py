"""Calibration maps fitted on judged queries, and scores calibrated by maps that were fitted on other queries.

1. Each tier's own map, by logistic regression (Platt scaling): P(relevant | score) of a retriever's candidates. A
   candidate is relevant if its grade is above 0, and not if it has none.
2. The maps of all tiers are levelled. The better a tier ranks, the further its probabilities are from one another, so
   that one threshold would pass fewer documents of a tier that ranks worse: results would vanish whenever the router
   takes a smaller tier. Each map is moved so that its upper quantiles are those of the mean over the tiers.

Collections count equally, so do the queries of a collection, and the candidates of a query. Folds are those of
`evaluate/fusion.py`: what is reported for a query comes from maps, and with fusion from weights, that were fitted on
the other folds. The maps that are served are fitted on all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rankfleet.estimates.calibration import Calibration
from rankfleet.evaluate.candidates import Collection, ScoredCandidates
from rankfleet.evaluate.fusion import FOLDS, MIN_QUERIES, FusionFit, fold_of, fuse

# Of the ridge on the slope, beside the candidates' log-loss: nothing with hundreds of them, and it keeps the slope
# finite where scores separate all relevant candidates from all others.
RIDGE = 1e-3
LEVELLED = np.linspace(0.75, 0.995, 50)  # quantiles of log-odds: thresholds that pass from a quarter to one in 200
DIGITS = 6

ScoredBy = Callable[[Collection, str, int | None], ScoredCandidates]  # collection, tier, and the fold that is held back


@dataclass(frozen=True)
class Sample:
    """One tier's scores of all judged queries' candidates, one after the other.

    scores: float64 [candidates]; relevant: bool [candidates]
    collections, queries, folds: int [candidates], whose each is; queries are counted over all collections
    shares: float64 [candidates], how much each counts; their sum is 1
    """

    scores: np.ndarray
    relevant: np.ndarray
    collections: np.ndarray
    queries: np.ndarray
    folds: np.ndarray
    shares: np.ndarray

    @staticmethod
    def of(collections: Sequence[Collection], scored: Sequence[ScoredCandidates]) -> "Sample":
        """scored: one tier's scores, by collection."""
        rows, relevant = [], []
        for number, (collection, own) in enumerate(zip(collections, scored, strict=True)):
            for query, scores in own.logits.items():
                grades = collection.judged.qrels[query]
                rows.append((scores, number, fold_of(query), len(scores) * len(own.logits) * len(collections)))
                relevant.append([grades.get(hit.id, 0) > 0 for hit in collection.candidates[query]])
        scores, numbers, folds, parts = zip(*rows, strict=True)
        lengths = [*map(len, scores)]
        each = [np.repeat(values, lengths) for values in (numbers, np.arange(len(rows)), folds, 1 / np.array(parts))]
        return Sample(np.concatenate(scores).astype(np.float64), np.concatenate(relevant), *each)

    def by_query(self, values: np.ndarray) -> list[np.ndarray]:
        """By collection, float64 [queries]: the mean of each query's values. values: float [candidates]."""
        counts = np.bincount(self.queries)
        means = np.bincount(self.queries, values) / counts
        owners = self.collections[np.cumsum(counts) - 1]
        return [means[owners == number] for number in np.unique(owners)]

    def of_folds(self, used: np.ndarray) -> "Sample":
        """used: bool [candidates]. Shares are as before."""
        return Sample(*(column[used] for column in vars(self).values()))


Samples = Mapping[str, Sample]  # by tier


def fitted(sample: Sample) -> Calibration | None:
    """One tier's own map; None where nothing can be told: all candidates are relevant, none is, or the relevant ones do
    not score higher."""
    from sklearn.linear_model import LogisticRegression

    if sample.relevant.all() or not sample.relevant.any():
        return None
    model = LogisticRegression(C=1 / RIDGE, tol=1e-8, max_iter=1_000)
    weights = sample.shares * (len(sample.shares) / sample.shares.sum())
    model.fit(sample.scores[:, None], sample.relevant, sample_weight=weights)
    slope, intercept = float(model.coef_[0, 0]), float(model.intercept_[0])
    return Calibration(slope, intercept) if slope > 0 else None


def levelled(maps: Mapping[str, Calibration], samples: Samples) -> dict[str, Calibration]:
    """The maps, each moved so that its LEVELLED quantiles have the mean and the deviation that those of all tiers have
    on average."""
    quantiles = {}
    for tier, own in maps.items():
        log_odds = own.log_odds(samples[tier].scores)
        quantiles[tier] = np.quantile(log_odds, LEVELLED, weights=samples[tier].shares, method="inverted_cdf")
    mean, moved = np.mean([*quantiles.values()], axis=0), {}
    for tier, own in maps.items():
        spread = quantiles[tier].std()
        by = mean.std() / spread if spread > 0 else 1.0
        moved[tier] = Calibration(by * own.slope, mean.mean() + by * (own.intercept - quantiles[tier].mean()))
    return moved


def fitted_together(samples: Samples) -> dict[str, Calibration]:
    """By tier; a tier of which nothing can be told is missing."""
    maps = {tier: own for tier, sample in samples.items() if (own := fitted(sample)) is not None}
    return levelled(maps, samples) if maps else {}


def alone(collection: Collection, tier: str, fold: int | None) -> ScoredCandidates:
    """The tier's logits, whichever fold is held back."""
    return collection.scored[tier]


def fused_by(fit: FusionFit) -> ScoredBy:
    """The tier's scores fused with the order of the candidates, with the weight fitted without a fold."""

    def fused(collection: Collection, tier: str, fold: int | None) -> ScoredCandidates:
        return fuse(collection, tier, "order", dict.fromkeys(collection.candidates, fit.weight(tier, fold)))

    return fused


def samples_of(collections: Sequence[Collection], scored_by: ScoredBy, fold: int | None = None) -> dict[str, Sample]:
    """By tier. fold: as in `ScoredBy`."""
    return {
        tier: Sample.of(collections, [scored_by(each, tier, fold) for each in collections])
        for tier in collections[0].scored
    }


def calibrations(collections: Sequence[Collection], scored_by: ScoredBy) -> dict[str, Calibration]:
    """By tier, fitted on all queries; empty with fewer than MIN_QUERIES judged queries."""
    if sum(len(collection.judged.queries) for collection in collections) < MIN_QUERIES:
        return {}
    return fitted_together(samples_of(collections, scored_by))


def held_back(
    collections: Sequence[Collection],
    scored_by: ScoredBy,
    fit: Callable[[Samples], Mapping[str, Calibration]] = fitted_together,
    applied_to: Sequence[Collection] = (),
) -> dict[str, tuple[Sample, np.ndarray]]:
    """By tier (sample, log-odds float64 [candidates]): each candidate by the map that was fitted on the other folds.

    The samples' scores are those that the maps were applied to. A tier is missing where a fold has no map of it; with
    fewer than MIN_QUERIES judged queries, all are. applied_to: the same candidates with other scores, such as those in
    another precision, to which the maps are applied in place of those that they were fitted on.
    """
    if not calibrations(collections, scored_by):
        return {}
    maps, samples = [], []
    for fold in range(FOLDS):
        every = samples_of(collections, scored_by, fold)
        maps.append(fit({tier: own.of_folds(own.folds != fold) for tier, own in every.items()}))
        samples.append(samples_of(applied_to, scored_by, fold) if applied_to else every)
    found = {}
    for tier, first in samples[0].items():
        if all(tier in own for own in maps):
            place = first.folds, np.arange(len(first.folds))
            scores = np.array([each[tier].scores for each in samples])
            log_odds = np.array([own[tier].log_odds(row) for own, row in zip(maps, scores, strict=True)])
            found[tier] = replace(first, scores=scores[place]), log_odds[place]
    return found


def calibrated(
    tables: Mapping[str, Mapping[str, Any]], collections: Sequence[Collection], fit: FusionFit | None
) -> dict[str, Any]:
    """The tables of `data_sets` with `calibration`, and under `fused` that of fused scores. A collection's own is
    fitted on it alone, since the share of relevant candidates differs between collections."""
    found = {}
    for name, table in tables.items():
        of = [collection for collection in collections if collection.name == name] or collections
        found[name] = {**table, "calibration": as_json(calibrations(of, alone))}
        if fit is not None:
            found[name]["fused"] = table["fused"] | {"calibration": as_json(calibrations(of, fused_by(fit)))}
    return found


def as_json(maps: Mapping[str, Calibration]) -> dict[str, dict[str, float]]:
    return {
        tier: {"slope": round(float(own.slope), DIGITS), "intercept": round(float(own.intercept), DIGITS)}
        for tier, own in maps.items()
    }
