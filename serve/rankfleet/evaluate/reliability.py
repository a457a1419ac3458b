"""How reliable probabilities of relevance are: Brier score, log-loss and expected calibration error."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rankfleet.estimates.calibration import probability
from rankfleet.evaluate.calibration import Sample, alone, fused_by, held_back
from rankfleet.evaluate.candidates import Collection
from rankfleet.evaluate.comparison import difference, mean_over
from rankfleet.evaluate.fusion import FusionFit

BINS = 15  # as in Guo et al. (ICML 2017)


def brier(log_odds: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """float64 [candidates]: the squared distance of the probability from 1 for relevant, 0 for others."""
    return (probability(log_odds) - relevant) ** 2


def log_loss(log_odds: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """float64 [candidates]: −ln of the probability of what each is, in nats."""
    return np.logaddexp(0.0, np.where(relevant, -log_odds, log_odds))


def calibration_error(log_odds: np.ndarray, relevant: np.ndarray, shares: np.ndarray) -> float:
    """Expected calibration error: |mean probability − share of relevant|, as the mean over BINS bins.

    Bins hold equally many candidates, in the order of their probabilities. Of equal width, nearly all candidates would
    be in the first two. shares: float [candidates], how much each counts; their sum is 1.
    """
    excess = shares * (probability(log_odds) - relevant)
    bins = np.array_split(excess[np.argsort(log_odds, kind="stable")], BINS)
    return float(sum(abs(each.sum()) for each in bins))


MEASURES = {"brier": brier, "log_loss": log_loss}


def reliability(sample: Sample, log_odds: np.ndarray) -> dict[str, Any]:
    """`brier`, `log_loss` and `ece` of calibrated scores, under `plain` the same of their sigmoid, and under
    `less_plain` the paired differences of the first two, as in `comparison.difference`."""
    found: dict[str, Any] = {"plain": {}, "less_plain": {}}
    for name, measure in MEASURES.items():
        ours, theirs = (sample.by_query(measure(each, sample.relevant)) for each in (log_odds, sample.scores))
        found[name], found["plain"][name] = mean_over(ours), mean_over(theirs)
        found["less_plain"][name] = difference(ours, theirs)
    for figures, each in ((found, log_odds), (found["plain"], sample.scores)):
        figures["ece"] = round(calibration_error(each, sample.relevant, sample.shares), 4)
    return found


def reliability_of(collections: Sequence[Collection], fit: FusionFit | None) -> dict[str, dict[str, Any]]:
    """`reliability` by tier of the scores of held-back queries: `alone`, and `order` where weights were fitted. A tier
    without a map is missing."""
    ways = {"alone": alone} | ({} if fit is None else {"order": fused_by(fit)})
    found = {way: held_back(collections, scored_by) for way, scored_by in ways.items()}
    return {way: {tier: reliability(*pair) for tier, pair in by_tier.items()} for way, by_tier in found.items()}
