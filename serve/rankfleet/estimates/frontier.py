"""Which tiers are worth their time for one chunk: the concave frontier of quality over device time.

A tier that another tier, or a mixture of two others, beats in quality for the same time is not on the frontier. Along
the frontier each further millisecond gains less, so one price of device time decides how far up a chunk goes.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rankfleet.core.sections import Routing
from rankfleet.estimates.arrivals import ArrivalStats


class TierOption(NamedTuple):
    """One tier that may score a chunk: nDCG@10, and the fields of its `Cost`."""

    tier: str
    quality: float
    fixed_ms: float
    marginal_ms: float
    amortized_ms: float
    mean_ms: float
    mean_amortized_ms: float

    @property
    def p99_ms(self) -> float:
        """99th percentile of a batch of the chunk alone."""
        return self.fixed_ms + self.marginal_ms


@dataclass(frozen=True, slots=True)
class Frontier:
    """The tiers worth their time, cheapest first.

    negative_prices: for each point −(gain in quality over the point before ÷ additional amortized_ms); ascending, for
        bisection. Minus infinity for the first point, which is taken at any price.
    index_by_tier: tier → index in `points`
    """

    points: tuple[TierOption, ...]
    negative_prices: tuple[float, ...]
    index_by_tier: dict[str, int] = field(hash=False)

    @staticmethod
    def of(options: Sequence[TierOption], quality_unit: float = 1.0) -> "Frontier":
        """The frontier of the tiers that may score one chunk. Raises ValueError without options.

        quality_unit: the difference in quality that counts as 1 in prices (`quality_range`), so that a price means the
            same whatever the measure of quality
        """
        if not options:
            raise ValueError("a chunk needs at least one tier that may score it")
        corners = upper_hull([o.amortized_ms for o in options], [o.quality / quality_unit for o in options])
        points = tuple(options[i] for i, _ in corners)
        prices = tuple(-price for _, price in corners)
        return Frontier(points, prices, {point.tier: index for index, point in enumerate(points)})

    def index_at(self, price_per_ms: float) -> int:
        """Index of the point chosen at a price of device time: the last whose gain per millisecond is worth it."""
        return bisect_right(self.negative_prices, -price_per_ms) - 1

    def alone(self, left_ms: float, tokens: int, arrivals: ArrivalStats, routing: Routing) -> TierOption:
        """The point that an idle device takes for one chunk of so many tokens: the best that is done within `left_ms`
        and within the horizon at its price. It is the rule of `replica/batching.py` for a queue of one."""
        for point, negative_price in zip(reversed(self.points), reversed(self.negative_prices), strict=True):
            price = -negative_price * arrivals.typical_budget_ms
            ms = point.p99_ms
            if ms <= left_ms and ms <= arrivals.horizon_ms(price, routing, tokens):
                return point
        return self.points[0]


def quality_range(qualities: Iterable[float]) -> float:
    """Best − worst quality, the unit of prices; 1 if all are equal."""
    known = list(qualities)
    return max(known) - min(known) or 1.0


def upper_hull(ms: Sequence[float], quality: Sequence[float]) -> list[tuple[int, float]]:
    """The corners of the upper concave hull of quality over time, by ascending time, as (index, price).

    The price of a corner is its gain over the corner before ÷ the additional milliseconds. It falls from corner to
    corner; the first has an infinite price, since there is no cheaper one.
    """
    corners: list[tuple[int, float]] = []
    for i in sorted(range(len(ms)), key=lambda i: (ms[i], -quality[i])):
        if corners and quality[i] <= quality[corners[-1][0]]:
            continue
        price = math.inf
        while corners:
            previous, previous_price = corners[-1]
            price = (quality[i] - quality[previous]) / max(ms[i] - ms[previous], 1e-12)
            if price < previous_price:
                break
            corners.pop()  # going on to i gains more per millisecond than going to `previous` did
        corners.append((i, price))
    return corners
