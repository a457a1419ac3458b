"""The second stage of a cascade: which candidates it scores again, and the ranking of both stages together."""

import itertools
from bisect import bisect_right

import numpy as np

from rankfleet.core.decisions import Stage
from rankfleet.core.query_lists import QueryLists
from rankfleet.core.work import Work
from rankfleet.estimates.latency import LatencyModel

FUSION = 60  # damps the influence of the first ranks; the constant of Cormack, Clarke and Büttcher (SIGIR 2009)

# How far a score is lowered below the one ahead of it. sigmoid(logit), which replies carry too, has to fall as well:
# at a logit of 15 its slope is 3e-7, so that one step is 1e-12, thousands of times the spacing of float64 below 1.
# Logits below 32 also stay apart for clients that read float32, whose spacing there is at most 2**-19. Over a thousand
# candidates the steps add up to 0.004.
STEP = 2.0**-18


def promising(logits: np.ndarray, retrieved: bool) -> np.ndarray:
    """int64 [candidates]: their places, the most promising for a larger tier first.

    logits: of the first stage. retrieved: whether the order of the candidates is that of a retriever. If so, both
    orders count, by reciprocal rank fusion: the sum of 1 ÷ (60 + rank), because a small tier and a retriever err on
    different documents. Otherwise the logits alone count.
    """
    order = np.argsort(-logits, kind="stable")
    if not retrieved:
        return order
    given = np.arange(len(order))
    rank = np.empty(len(order))
    rank[order] = given
    return np.argsort(-(1 / (FUSION + rank) + 1 / (FUSION + given)), kind="stable")


def second_stage(
    stage: Stage,
    logits: np.ndarray,
    lengths: np.ndarray,
    model: LatencyModel,
    left_ms: float,
    retrieved: bool = False,
    lists: QueryLists | None = None,
    documents: np.ndarray | None = None,
) -> np.ndarray:
    """The places of each query's candidates to score again, most promising first: as many of each as planned, or as
    many of each as fit into `left_ms` at the 99th percentile, which may be none.

    stage: as planned. logits: float [candidates], of the first stage. lengths: int [documents], tokens of each for
    the second stage. model: latency of the second stage's tier. left_ms: slack minus the work ahead. retrieved: as in
    `promising`. lists: the candidates of each query; None for one query. documents: as in `RequestTexts`.
    """
    lists = lists or QueryLists((len(logits),))
    orders = [part.start + promising(logits[part], retrieved)[: stage.candidates] for part in lists.slices]

    def best(depth: int) -> np.ndarray:
        return np.concatenate([order[:depth] for order in orders])

    def p99_ms(depth: int) -> float:
        places = best(depth)
        return model.p99_ms(Work.of(lengths[places if documents is None else np.unique(documents[places])]))

    depth = bisect_right(range(1, max(map(len, orders)) + 1), left_ms, key=p99_ms)
    return best(depth)


def ranked_lists(
    lists: QueryLists, first: np.ndarray, kept: np.ndarray, second: np.ndarray, retrieved: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(order, scores) of both stages together, query by query, each as `ranked` says."""
    order, scores = [], []
    for part in lists.slices:
        own = (part.start <= kept) & (kept < part.stop)
        places, by_place = ranked(first[part], kept[own] - part.start, second[own], retrieved)
        order.append(part.start + places)
        scores.append(by_place)
    return np.concatenate(order), np.concatenate(scores)


def ranked(first: np.ndarray, kept: np.ndarray, second: np.ndarray, retrieved: bool) -> tuple[np.ndarray, np.ndarray]:
    """(order, scores) of both stages together.

    order: int64 [candidates], places, best first: `kept` by the second stage's scores, ties in the order of `kept`;
    then the others in the order of `promising(first, retrieved)`.
    scores: float64 [candidates], by place: those of the second stage for `kept`. The others have their own score of
    the first stage, lowered if needed so that scores fall by at least STEP from one to the next behind the last of
    `kept`. A client that sorts by score, keeping ties as served, gets this very order.

    first: float [candidates], scores of the first stage. kept: places that the second stage has scored, most
    promising first, as returned by `second_stage`. second: float [kept], its scores. retrieved: as in `promising`.
    """
    scores = first.astype(np.float64)
    scores[kept] = second
    order = promising(first, retrieved)
    rest = order[~np.isin(order, kept)]
    # The others rank behind `kept` whatever their own scores are: logits of two tiers are not on one scale.
    worst = float(np.min(second, initial=np.inf))
    falling = itertools.accumulate(scores[rest].tolist(), lambda above, own: min(own, above - STEP), initial=worst)
    scores[rest] = list(falling)[1:]
    best = kept[np.argsort(-second, kind="stable")]
    return np.concatenate([best, rest]).astype(np.int64), scores
