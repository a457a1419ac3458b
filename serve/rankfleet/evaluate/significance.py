"""Whether two rankings differ by more than luck: a paired randomisation test, and Holm's correction for several."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

EXACT = 12  # queries up to which all assignments are tried: 4,096
ROUNDS = 10_000
ROWS = 500  # assignments at a time, to bound memory
SEED = 1
ROUNDING = 1e-12


def randomisation_p(paired: Sequence[np.ndarray]) -> float:
    """Two-sided p-value of the mean over collections of the mean difference (Fisher's randomisation test).

    If two rankings are alike, each query's difference could as well have the other sign. p is the share of assignments
    of signs whose mean is as far from 0 as that observed: of all assignments for few queries, else of ROUNDS random
    ones together with the observed one, so that p is never 0.

    paired: by collection, float [queries], differences. A query without a difference does not count.
    """
    shares = np.concatenate([each / (len(each) * len(paired)) for each in paired])
    shares = shares[shares != 0]
    observed = abs(shares.sum()) - ROUNDING
    if len(shares) <= EXACT:
        signs = np.array([*itertools.product((-1, 1), repeat=len(shares))]).reshape(2 ** len(shares), len(shares))
        return float(np.mean(np.abs(signs @ shares) >= observed))
    draw, count = np.random.default_rng(SEED), 1
    for _ in range(ROUNDS // ROWS):
        signs = 2 * draw.integers(2, size=(ROWS, len(shares)), dtype=np.int8) - 1
        count += int((np.abs(signs @ shares) >= observed).sum())
    return count / (ROUNDS + 1)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values corrected by Holm's method: comparing those with α, the chance of one or more false alarms is at most α.

    The i-th smallest of m is multiplied by m + 1 − i, and none is below the one before it.
    """
    ordered = sorted(p_values, key=p_values.__getitem__)
    scaled = [min(1.0, (len(ordered) - i) * p_values[name]) for i, name in enumerate(ordered)]
    corrected = dict(zip(ordered, itertools.accumulate(scaled, max), strict=True))
    return {name: corrected[name] for name in p_values}
