"""The second stage of a cascade: which candidates it scores again, and the order that both stages give together."""

import itertools
from bisect import bisect_right

import numpy as np

from rankfleet.core.messages import Stage, Work
from rankfleet.estimates.latency import LatencyModel

FUSION = 60  # places that damp the first ranks; the constant of Cormack, Clarke and Büttcher (SIGIR 2009)

# By how much a score is lowered below the one ahead of it. The reply carries sigmoid(logit) too, and it has to fall as
# well: at a logit of 15 its slope is 3e-7, so one step is 1e-12, thousands of times the spacing of float64 below 1. For
# clients that read float32, logits below 32 stay apart too: the spacing there is at most 2**-19. A thousand candidates
# are lowered by 0.004 in all.
STEP = 2.0**-18


def promising(logits: np.ndarray, retrieved: bool) -> np.ndarray:
    """Places of the candidates, those first that should go on to a larger tier.

    retrieved: whether they came in an order that means something. Then both orders count, by reciprocal rank fusion,
    1 ÷ (60 + rank) in either: a small tier and a retriever err on different documents. Else by the scores alone.
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
) -> np.ndarray:
    """Rows to score again, most promising first: as many as planned, fewer where that takes longer than `left_ms`, none
    where not even one fits.

    stage: the planned one; logits: of the first stage, float [candidates]; lengths: tokens of each for the second
    stage, int [candidates]; model: of the second stage's tier; left_ms: slack less the work ahead; retrieved: as in
    `promising`. "Fits" is at the 99th percentile.
    """
    order = promising(logits, retrieved)[: stage.candidates]

    def p99_ms(rows: int) -> float:
        return model.p99_ms(Work.of(lengths[order[:rows]]))

    return order[: bisect_right(range(1, len(order) + 1), left_ms, key=p99_ms)]


def ranked(first: np.ndarray, kept: np.ndarray, second: np.ndarray, retrieved: bool) -> tuple[np.ndarray, np.ndarray]:
    """(order, scores) of both stages together.

    order: int64 [candidates], places best first: `kept` by the second stage's scores, ties in the order of `kept`;
    behind them the others in the order of `promising(first, retrieved)`.
    scores: float64 [candidates], by place: the second stage's where it has scored. The others keep their own, lowered
    where needed so that scores fall by at least STEP from one to the next behind the last of `kept`: a client that
    sorts by score, ties as served, gets this very order.

    first: scores of the first stage, float [candidates]; kept: places that the second stage has scored, most
    promising first, as `second_stage` returns them; second: its scores, float [kept]; retrieved: as in `promising`.
    """
    scores = first.astype(np.float64)
    scores[kept] = second
    order = promising(first, retrieved)
    rest = order[~np.isin(order, kept)]
    # Two stages rank these behind, whatever their own scores are: logits of two tiers are not on one scale.
    worst = float(np.min(second, initial=np.inf))
    falling = itertools.accumulate(scores[rest].tolist(), lambda above, own: min(own, above - STEP), initial=worst)
    scores[rest] = list(falling)[1:]
    best = kept[np.argsort(-second, kind="stable")]
    return np.concatenate([best, rest]).astype(np.int64), scores
