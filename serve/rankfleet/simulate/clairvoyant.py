"""A scaler that knows the arrivals: replicas stand ready when work comes, and go when it ends.

Its schedule follows the work that is coming, averaged over a window, ÷ a utilisation. A replica is started `start_s`
ahead, and kept through a lull in which starting another would cost as much as keeping it. The window and the
utilisation are free: `benchmarks/autoscaling.py` looks for those with the fewest GPU-seconds.
"""

import itertools

import numpy as np

from rankfleet.simulate.scaling import TICK_S


def schedule(
    work_s: np.ndarray, window_s: float, utilisation: float, start_s: float, min_replicas: int, max_replicas: int
) -> np.ndarray:
    """Replicas decided at each tick, int [ticks]. work_s: seconds of work that arrive in each tick, float [ticks]."""
    width = max(1, round(window_s / TICK_S))
    padded = np.pad(work_s, (width // 2, width - 1 - width // 2))
    mean = np.convolve(padded, np.ones(width) / width, mode="valid") / TICK_S
    needed = np.clip(np.ceil(mean / utilisation - 1e-9), min_replicas, max_replicas).astype(np.int64)
    return ahead(held(needed, round(start_s / TICK_S)), round(start_s / TICK_S))


def held(needed: np.ndarray, ticks: int) -> np.ndarray:
    """Lulls of at most so many ticks filled up to the lower of their shores, level by level."""
    filled = needed.copy()
    for level in range(int(needed.min()) + 1, int(needed.max()) + 1):
        above = np.flatnonzero(filled >= level)
        for left, right in itertools.pairwise(above):
            if 1 < right - left <= ticks + 1:
                filled[left:right] = np.maximum(filled[left:right], level)
    return filled


def ahead(needed: np.ndarray, ticks: int) -> np.ndarray:
    """Each replica decided so many ticks earlier: the most that is needed from now until then."""
    if ticks == 0:
        return needed
    padded = np.concatenate([needed, np.full(ticks, needed[-1])])
    return np.lib.stride_tricks.sliding_window_view(padded, ticks + 1).max(axis=1)
