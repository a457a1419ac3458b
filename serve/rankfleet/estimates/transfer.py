"""How long chunks take between router and replica: measured, because it depends on the machine and on what the router's
event loop has to do at the time.

Chunks that are on their way at the same time are held up by the same thing, so they are one sample: the first that
comes back. Otherwise a few clients that happened to ask while the router was held up once would make the estimate.
"""

import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

SAMPLES = 64  # the last ones
SHARE = 0.98  # of the samples are within the estimate
# By how much a slow chunk exceeds the median is halved in this time. While the estimate is above most budgets few
# chunks are sent, so that it would take minutes until the slow ones are no longer among the last.
EXCESS_HALF_LIFE_S = 10.0
# While no chunk comes back the whole estimate halves in this time. What made the last ones slow may be over, and
# without this a router whose estimate exceeds every budget would send nothing any more, and never see it.
IDLE_HALF_LIFE_S = 30.0


class TransferMeter:
    """The time of a chunk to a replica and of its scores back, besides the replica's queue and engine."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=SAMPLES)  # ms, and when
        self._median_ms = 0.0
        self._took_s = -math.inf
        self._level = -math.inf  # log2 of the excess over the median at time 0, if it had been halving since then

    def took(self, ms: float, sent_s: float, now_s: float) -> None:
        """A chunk has come back. Less than nothing counts as nothing: clocks of two machines differ in rate."""
        if sent_s < self._took_s:
            return
        self._samples.append((max(0.0, ms), now_s))
        self._took_s = now_s
        last = len(self._samples) - 1
        median = sorted(each for each, _ in self._samples)[last // 2]
        levels = sorted(
            math.log2(each - median) + at_s / EXCESS_HALF_LIFE_S for each, at_s in self._samples if each > median
        )
        # Rounded down: the first calls make connections, and among few samples the slowest is to say nothing.
        above = last - int(SHARE * last)
        self._median_ms = median
        self._level = levels[-1 - above] if above < len(levels) else -math.inf

    def ms(self, now_s: float) -> float:
        """98th percentile of the last samples, of which older ones exceed the median by less; 0 before the first."""
        excess = 2.0 ** (self._level - now_s / EXCESS_HALF_LIFE_S)
        idle_s = max(0.0, now_s - self._took_s)
        return float((self._median_ms + excess) * 0.5 ** (idle_s / IDLE_HALF_LIFE_S))


class Transfers:
    """The time of a chunk on its way, by how many requests a router has on the way at once.

    The more there are the longer each takes, and what many took says nothing about a request that comes alone. So there
    is a meter for each power of two of other requests, and what fewer of them took is the least that more take.
    """

    def __init__(self) -> None:
        self.requests = 0  # on the way now
        self._meters: list[TransferMeter] = []

    @contextmanager
    def request(self) -> Iterator[None]:
        """A request is on the way while the block runs."""
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    def took(self, ms: float, others: int, sent_s: float, now_s: float) -> None:
        """As `TransferMeter.took`. others: the most requests that were on the way beside that of the chunk."""
        level = others.bit_length()
        while len(self._meters) <= level:
            self._meters.append(TransferMeter())
        self._meters[level].took(ms, sent_s, now_s)

    def ms(self, others: int, now_s: float) -> float:
        """What a chunk takes while so many other requests are on the way; 0 before the first."""
        return max((meter.ms(now_s) for meter in self._meters[: others.bit_length() + 1]), default=0.0)
