"""Agreement of tiers with a judge, the strongest ranker at hand, where there are no judgements."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rankfleet.evaluate.comparison import difference
from rankfleet.evaluate.measures import DEPTH, DISCOUNTS

MEASURES = ("ndcg@10", "overlap@10", "tau")


def agreement(order: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """How far one order of a query's candidates agrees with the judge's. Both int [candidates], places best first.

    ndcg@10: the judge's order as truth, its first ten with the gains 10 to 1. overlap@10: share of its first ten among
    this order's. tau: Kendall's, over all pairs of candidates, from −1 to 1; 1 for a single candidate.
    """
    depth = min(DEPTH, len(truth))
    gains, ranks = np.zeros(len(truth)), np.empty(len(truth))
    gains[truth[:depth]] = np.arange(DEPTH, DEPTH - depth, -1)
    ranks[truth] = np.arange(len(truth))
    upper = np.triu_indices(len(order), 1)
    agreed = np.sign(ranks[order][upper[1]] - ranks[order][upper[0]])
    return {
        "ndcg@10": float(gains[order[:depth]] @ DISCOUNTS[:depth] / (gains[truth[:depth]] @ DISCOUNTS[:depth])),
        "overlap@10": len({*order[:depth].tolist()} & {*truth[:depth].tolist()}) / depth,
        "tau": float(agreed.mean()) if len(agreed) else 1.0,
    }


Orders = Mapping[str, Mapping[str, np.ndarray]]  # by ranker and query: places of the candidates, best first


def agreements(orders: Orders, judge: str) -> dict[str, dict[str, dict[str, float]]]:
    """By ranker other than the judge, and by query: `agreement`."""
    truth = orders[judge]
    return {
        name: {query: agreement(order, truth[query]) for query, order in own.items()}
        for name, own in orders.items()
        if name != judge
    }


def means(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, Any]]:
    """By ranker: the mean of each measure over the queries, and the 95% `interval` of nDCG@10 by a bootstrap."""
    figures = {}
    for name, by_query in found.items():
        values = {measure: np.array([each[measure] for each in by_query.values()]) for measure in MEASURES}
        interval = difference([values["ndcg@10"]], [np.zeros(len(by_query))])["interval"]
        figures[name] = {key: round(float(own.mean()), 4) for key, own in values.items()} | {"interval": interval}
    return figures


def most_different(
    found: Mapping[str, Mapping[str, Mapping[str, float]]], tiers: Sequence[str], count: int
) -> list[str]:
    """The queries on which these tiers agree least with the judge, by their mean nDCG@10; the worst first."""
    queries = [*next(iter(found.values()))]
    agreed = {query: np.mean([found[tier][query]["ndcg@10"] for tier in tiers]) for query in queries}
    return sorted(queries, key=agreed.__getitem__)[:count]
