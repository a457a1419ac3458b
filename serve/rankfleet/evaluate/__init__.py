"""Ranking quality and latency of each tier on judged queries, the weights with which tiers are fused, and what their
scores mean."""

from rankfleet.evaluate.calibration import calibrated
from rankfleet.evaluate.candidates import (
    Candidates,
    Collection,
    ScoredCandidates,
    retrieve,
)
from rankfleet.evaluate.comparison import by_query, compare, tiers_compared, values_of
from rankfleet.evaluate.fusion import FusionFit, check_enough
from rankfleet.evaluate.measures import MeanQuality, Run, check_installed, measure_run, ranked_run, run_of
from rankfleet.evaluate.orders import INSTANT, best_first, cascade, first_scored
from rankfleet.evaluate.reliability import reliability_of
from rankfleet.evaluate.table import (
    data_sets,
    evaluate_retriever,
    figures_of,
    mean_of,
    mean_of_steps,
    quality_steps,
)

__all__ = [
    "INSTANT",
    "Candidates",
    "Collection",
    "FusionFit",
    "MeanQuality",
    "Run",
    "ScoredCandidates",
    "best_first",
    "by_query",
    "calibrated",
    "cascade",
    "check_enough",
    "check_installed",
    "compare",
    "data_sets",
    "evaluate_retriever",
    "figures_of",
    "first_scored",
    "mean_of",
    "mean_of_steps",
    "measure_run",
    "quality_steps",
    "ranked_run",
    "reliability_of",
    "retrieve",
    "run_of",
    "tiers_compared",
    "values_of",
]
