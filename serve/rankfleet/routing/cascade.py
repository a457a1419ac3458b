"""The second stage of a cascade, once the first is back: which candidates are scored again, if any, and how both
orders become one."""

import numpy as np

from rankfleet.core.messages import Stage, Work
from rankfleet.routing.latency import LatencyModel

REACH = 0.5  # the cut may lie this share of the planned depth above or below it
FUSION = 60  # places that damp the first ranks; the constant of Cormack, Clarke and Büttcher (SIGIR 2009)


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
    """Rows to score again, most promising first; none where the time left is not enough for the fewest worth it, so
    that the first stage's order is the answer.

    logits: of the first stage, float [pairs]; lengths: tokens of each pair for the second; left_ms: slack less what
    waits ahead; retrieved: as in `promising`. As many go on as lie above the widest gap between neighbours in the
    first stage's order, within REACH of the planned depth: candidates that score alike are judged alike. Ties go to
    the fewer.
    """
    order = promising(logits, retrieved)
    least = max(1, min(len(order), round(stage.candidates * (1 - REACH))))
    most = min(len(order), round(stage.candidates * (1 + REACH)))
    while most >= least and model.p99_ms(Work.of(lengths[order[:most]])) > left_ms:
        most -= 1
    if most < least:
        return order[:0]
    sorted_logits = -np.sort(-logits)
    gaps = sorted_logits[least - 1 : most] - np.append(sorted_logits, -np.inf)[least : most + 1]
    if most == len(order):  # below the last candidate there is nothing to be apart from
        gaps[-1] = 0.0
    return order[: least + int(gaps.argmax())]


def merged(first: np.ndarray, kept: np.ndarray, second: np.ndarray) -> np.ndarray:
    """One score for each candidate, [candidates]: those of the second stage where it has scored; the others keep
    their own, but none above the lowest of the second's, since both stages together rank them behind.

    first: [candidates]; kept: places that went on; second: their scores.
    """
    rest = np.ones(len(first), dtype=bool)
    rest[kept] = False
    scores = first.copy()
    scores[rest] = np.minimum(scores[rest], second.min())
    scores[kept] = second
    return scores
