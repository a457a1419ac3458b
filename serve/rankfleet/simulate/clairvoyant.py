"""A schedule of replicas made with knowledge of the arrivals: the reference for autoscaling policies.

The number of replicas is the work that arrives, averaged over a window, ÷ a utilisation. Each replica is started
`start_s` ahead, and kept through a lull in which starting another would cost as much as keeping it. Window and
utilisation are free: `benchmarks/autoscaling.py` looks for those with the fewest GPU-seconds.
"""

import itertools

import numpy as np

from rankfleet.simulate.scaling import TICK_S


def schedule(
    work_s: np.ndarray, window_s: float, utilisation: float, start_s: float, min_replicas: int, max_replicas: int
) -> np.ndarray:
    """Targets at each tick, int [ticks].

    work_s: seconds of work that arrive in each tick, float [ticks]
    start_s: from the decision to start a replica until it scores
    """
    width = max(1, round(window_s / TICK_S))
    padded = np.pad(work_s, (width // 2, width - 1 - width // 2))
    load = np.convolve(padded, np.ones(width) / width, mode="valid") / TICK_S
    needed = np.clip(np.ceil(load / utilisation - 1e-9), min_replicas, max_replicas).astype(np.int64)
    start_ticks = round(start_s / TICK_S)
    return started_ahead(lulls_filled(needed, start_ticks), start_ticks)


def lulls_filled(needed: np.ndarray, max_ticks: int) -> np.ndarray:
    """Keep replicas through lulls of at most `max_ticks`: each is filled to the lower of the levels around it."""
    filled = needed.copy()
    for level in range(int(needed.min()) + 1, int(needed.max()) + 1):
        at_level = np.flatnonzero(filled >= level)
        for left, right in itertools.pairwise(at_level):
            if 1 < right - left <= max_ticks + 1:
                filled[left:right] = np.maximum(filled[left:right], level)
    return filled


def started_ahead(needed: np.ndarray, ticks: int) -> np.ndarray:
    """Decide each replica this many ticks earlier: at each tick the maximum from then until that much later."""
    if ticks == 0:
        return needed
    padded = np.concatenate([needed, np.full(ticks, needed[-1])])
    return np.lib.stride_tricks.sliding_window_view(padded, ticks + 1).max(axis=1)
