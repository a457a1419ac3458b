"""Between the stages of a cascade: how many candidates the larger tier gets, and how both orders become one."""

import math

import numpy as np

LEAST_SHARE = 0.7  # of the planned number; a gap further up would leave out too many


def keep_at_gap(scores: np.ndarray, planned: int) -> int:
    """How many of the best go on to the second stage: at most `planned`, cut where the scores of the first stage
    fall most, so that no near-tie is torn apart for nothing. scores: [candidates], in any order."""
    if planned >= len(scores):
        return len(scores)
    ranked = np.sort(scores)[::-1]
    least = max(1, math.ceil(planned * LEAST_SHARE))
    falls = ranked[least - 1 : planned] - ranked[least : planned + 1]
    return least + int(np.argmax(falls))


def merged(first: np.ndarray, kept: np.ndarray, second: np.ndarray) -> np.ndarray:
    """One score for each candidate, [candidates]: those of the second stage where it has scored; the others keep
    their own, but none above the lowest of the second's, since both stages together rank them behind.

    first: [candidates]; kept: places that went on; second: their scores.
    """
    scores = first.copy()
    rest = np.ones(len(first), dtype=bool)
    rest[kept] = False
    if len(kept):
        scores[rest] = np.minimum(scores[rest], second.min())
    scores[kept] = second
    return scores
