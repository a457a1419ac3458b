"""How long chunks take between router and replica: measured, because it depends on the machine and on what the router's
event loop has to do at the time."""

import math
from collections import deque

SAMPLES = 64  # the last chunks
SHARE = 0.98  # of the samples are within the estimate
# A sample counts for half in this time. What made the last chunks slow may be over; and while the estimate exceeds most
# budgets few chunks are sent, so that it would take minutes until the slow ones are no longer among the last.
HALF_LIFE_S = 10.0


class TransferMeter:
    """The time of a chunk to a replica and of its scores back, besides the replica's queue and engine."""

    def __init__(self) -> None:
        # log2 of a sample when it was taken, plus its time in half-lives: older ones are less by what they have lost.
        self._levels: deque[float] = deque(maxlen=SAMPLES)
        self._level = -math.inf

    def took(self, ms: float, now_s: float) -> None:
        """A chunk has come back. Less than nothing counts as nothing: clocks of two machines differ in rate."""
        self._levels.append(math.log2(ms) + now_s / HALF_LIFE_S if ms > 0 else -math.inf)
        # Rounded down: the first calls make connections, and among few samples the slowest is to say nothing.
        self._level = sorted(self._levels)[int(SHARE * (len(self._levels) - 1))]

    def ms(self, now_s: float) -> float:
        """98th percentile of the last chunks, each as much as its age leaves of it; 0 before the first."""
        return float(2.0 ** (self._level - now_s / HALF_LIFE_S))
