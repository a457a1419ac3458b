"""How long chunks take between router and replica: measured, because it depends on the machine and on what the router's
event loop has to do at the time."""

from collections import deque

SAMPLES = 64  # the last chunks
SHARE = 0.98  # of the samples are within the estimate
# While no chunk comes back the estimate halves in this time. What made the last ones slow may be over, and without this
# a router whose estimate exceeds every budget would send nothing any more, and never see it.
HALF_LIFE_S = 30.0


class TransferMeter:
    """The time of a chunk to a replica and of its scores back, besides the replica's queue and engine."""

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=SAMPLES)
        self._ms = self._took_s = 0.0

    def took(self, ms: float, now_s: float) -> None:
        """A chunk has come back. Less than nothing counts as nothing: clocks of two machines differ in rate."""
        self._samples.append(max(0.0, ms))
        self._took_s = now_s
        # Rounded down: the first calls make connections, and among few samples the slowest is to say nothing.
        self._ms = sorted(self._samples)[int(SHARE * (len(self._samples) - 1))]

    def ms(self, now_s: float) -> float:
        """98th percentile of the last chunks; 0 before the first."""
        return self._ms * 0.5 ** (max(0.0, now_s - self._took_s) / HALF_LIFE_S)
