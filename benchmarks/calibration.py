"""How reliable `relevance_score` is, and whether a threshold on it passes as many documents whichever tier answers.

    python -m benchmarks.calibration --data DIR [--data DIR …] [--json benchmarks/results/calibration.json]

DIR is a judged collection; BM25's top 100 are reranked by the demo tiers in int8, which the maps are fitted on, and in
float32, to which they are applied. Every figure is of held-back queries, with collections counting equally. Scores are
kept in the folder --scores, by the weights that gave them, so that only a tier that has changed is scored again.

Goals, for each tier: Brier score and log-loss below those of the plain sigmoid, with their 95% intervals; expected
calibration error of at most .05; and at the thresholds that pass 5, 10 and 20% of all documents, shares that differ by
at most 2 points between tiers. `each for itself` has the maps before they are levelled.
"""

import argparse
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.demo_scores import SCORES, scored

from rankfleet.bench.results import measured, write_results
from rankfleet.core.decisions import Stage
from rankfleet.estimates.calibration import Calibration, probability
from rankfleet.evaluate import INSTANT, Collection, FusionFit
from rankfleet.evaluate.calibration import Sample, ScoredBy, alone, fitted, fused_by, held_back
from rankfleet.evaluate.reliability import calibration_error, reliability
from rankfleet.router.cascade import ranked, second_stage

TOP_K = 100
FITTED, APPLIED = "int8", "float32"
PASSED = (0.05, 0.1, 0.2)
KEPT = 20  # candidates that a cascade's second tier scores
MAX_ERROR, MAX_POINTS = 0.05, 2.0

ByTier = Mapping[str, tuple[Sample, np.ndarray]]  # as `held_back` returns


def each_for_itself(samples: Mapping[str, Sample]) -> dict[str, Calibration]:
    """The maps before they are levelled."""
    return {tier: own for tier, sample in samples.items() if (own := fitted(sample)) is not None}


def thresholds(found: ByTier) -> dict[str, Any]:
    """By the percentage of all tiers' documents that it passes: the threshold, the percentage that each tier and each
    cascade passes, and the largest difference between two tiers, in points."""
    shares = next(iter(found.values()))[0].shares
    every = np.concatenate([log_odds for _, log_odds in found.values()])
    weights, figures = np.tile(shares, len(found)) / len(found), {}
    plans = {tier: log_odds for tier, (_, log_odds) in found.items()}
    cascades = {
        f"{small}>{large} {KEPT}": cascade(found, small, large) for small, large in itertools.combinations(found, 2)
    }
    for passed in PASSED:
        at = np.quantile(every, 1 - passed, weights=weights, method="inverted_cdf")
        percent = {plan: round(100 * float((each >= at) @ shares), 2) for plan, each in (plans | cascades).items()}
        own = [percent[tier] for tier in found]
        figures[f"{100 * passed:.0f}"] = {
            "threshold": round(float(probability(at)), 4),
            "passed": percent,
            "points": round(max(own) - min(own), 2),
        }
    return figures


def cascade(found: ByTier, small: str, large: str) -> np.ndarray:
    """float64 [candidates]: the log-odds that the service gives when `large` scores the best of `small`'s again."""
    (sample, first), (_, second) = found[small], found[large]
    every = np.empty(len(first))
    for rows in np.split(np.arange(len(first)), np.flatnonzero(np.diff(sample.queries)) + 1):
        lengths = np.zeros(len(rows), np.int64)
        kept = second_stage(Stage.of(large, KEPT), first[rows], lengths, INSTANT, math.inf)
        every[rows] = ranked(first[rows], kept, second[rows][kept], retrieved=False)[1]
    return every


def figures_of(found: ByTier) -> dict[str, Any]:
    """Of one way to score: `tiers`, the calibration error of all of them together, and `thresholds`."""
    tiers = {tier: reliability(*pair) for tier, pair in found.items()}
    samples, log_odds = zip(*found.values(), strict=True)
    relevant, shares = (np.concatenate([getattr(each, of) for each in samples]) for of in ("relevant", "shares"))
    error = round(calibration_error(np.concatenate(log_odds), relevant, shares / len(found)), 4)
    return {"tiers": tiers, "ece": error, "thresholds": thresholds(found)}


def goals(figures: Mapping[str, Any]) -> dict[str, bool]:
    """Whether each goal is met."""
    tiers = figures["tiers"].values()
    met = {
        f"{measure} below the plain sigmoid's": all(own["less_plain"][measure]["interval"][1] < 0 for own in tiers)
        for measure in ("brier", "log_loss")
    }
    met["calibration error"] = all(own["ece"] <= MAX_ERROR for own in (figures, *tiers))
    met["shares that pass"] = all(each["points"] <= MAX_POINTS for each in figures["thresholds"].values())
    return met


def by_collection(collections: Sequence[Collection], found: ByTier) -> dict[str, Any]:
    """Of each collection: the share of relevant candidates, and each tier's calibration error."""
    figures = {}
    for number, collection in enumerate(collections):
        errors = {}
        for tier, (sample, log_odds) in found.items():
            own, used = sample.of_folds(sample.collections == number), sample.collections == number
            errors[tier] = round(calibration_error(log_odds[used], own.relevant, own.shares / own.shares.sum()), 4)
        relevant = round(float(own.relevant @ own.shares / own.shares.sum()), 4)
        figures[collection.name] = {"queries": len(collection.judged.queries), "relevant": relevant, "ece": errors}
    return figures


def main() -> None:
    options = arguments()
    read = [Collection.read(folder, TOP_K) for folder in options.data]
    collections, other = (scored(read, dtype, options.scores, options.threads) for dtype in (FITTED, APPLIED))
    ways: dict[str, ScoredBy] = {"alone": alone, "order": fused_by(FusionFit.of(collections))}
    result: dict[str, Any] = {
        "queries": sum(len(each.judged.queries) for each in read),
        "top_k": TOP_K,
        "dtype": FITTED,
    }
    for way, scored_by in ways.items():
        found = held_back(collections, scored_by)
        result[way] = figures_of(found) | {"goals": goals(figures_of(found))}
        result[way]["each for itself"] = figures_of(held_back(collections, scored_by, each_for_itself))
        result[way][APPLIED] = figures_of(held_back(collections, scored_by, applied_to=other))
        result[way]["collections"] = by_collection(collections, found)
        for tier, own in result[way]["tiers"].items():
            cells = (
                f"{name} {own[name]:.4f} (plain {own['plain'][name]:.4f})" for name in ("brier", "log_loss", "ece")
            )
            print(f"{way:6} {tier:7}", *cells, sep="  ")
        for passed, each in result[way]["thresholds"].items():
            print(f"{way:6} {each['threshold']:.3f} passes {passed}%: {each['passed']}, {each['points']} points")
        print(way, result[way]["goals"])
    if options.json is not None:
        write_results(options.json, result, measured(packages=("bm25s", "scikit-learn")))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--scores", type=Path, default=SCORES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
