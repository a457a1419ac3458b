"""What a chunk may be scored with, and what each step up gains for the time it takes."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class TierOption(NamedTuple):
    """One tier for one chunk. fixed_ms: what a batch of this tier costs however small; ms: what this chunk adds; both
    at the 99th percentile. usual: the share of that which it takes as a rule."""

    tier: str
    quality: float
    fixed_ms: float
    ms: float
    mean_over_p99: float = 1.0


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """A tier worth its time. full_ms: `ms` and the chunk's share of the fixed cost of a full batch; the rest as in
    `Option`."""

    tier: str
    quality: float
    fixed_ms: float
    ms: float
    full_ms: float
    mean_over_p99: float = 1.0


@dataclass(frozen=True, slots=True)
class Frontier:
    """The tiers that no mixture of others beats, cheapest first.

    negative_prices: by rung, minus the price up to which it is taken: what it gains over the rung below ÷ the
    device milliseconds it takes more. Ascending, and minus infinity for the cheapest, which is always affordable.
    """

    points: tuple[FrontierPoint, ...]
    negative_prices: tuple[float, ...]
    by_tier: dict[str, int] = field(hash=False)

    def at(self, price: float) -> int:
        """The rung taken at a price per device millisecond: the highest whose gain is worth it."""
        return bisect_right(self.negative_prices, -price) - 1


def scale_of(qualities: Iterable[float]) -> float:
    """The range of qualities, in which prices are measured; 1 where all are equal."""
    known = list(qualities)
    return max(known) - min(known) or 1.0


def hull(ms: Sequence[float], quality: Sequence[float]) -> list[tuple[int, float]]:
    """The upper concave hull of quality over time: places of its corners, cheapest first, and the price of each, its
    gain over the corner before ÷ the milliseconds it takes more. The first has an infinite price: there is no
    cheaper one."""
    found: list[tuple[int, float]] = []
    for i in sorted(range(len(ms)), key=lambda i: (ms[i], -quality[i])):
        if found and quality[i] <= quality[found[-1][0]]:
            continue
        price = float("inf")
        while found:
            below, below_price = found[-1]
            price = (quality[i] - quality[below]) / max(ms[i] - ms[below], 1e-12)
            if price < below_price:
                break
            found.pop()  # the step to this one gains more for its time than the step to that one did
        found.append((i, price))
    return found


def frontier_of(options: Iterable[TierOption], share: float = 0.0, scale: float = 1.0) -> Frontier:
    """The options worth their time, by price.

    share: of a full batch that the chunk takes, in tokens; scale: the range of qualities that counts as 1, so
    that prices mean the same whatever the measure. Raises ValueError without options.
    """
    points = [
        FrontierPoint(o.tier, o.quality, o.fixed_ms, o.ms, o.ms + o.fixed_ms * share, o.mean_over_p99) for o in options
    ]
    if not points:
        raise ValueError("a chunk needs at least one tier it may be scored with")
    corners = hull([point.full_ms for point in points], [point.quality / scale for point in points])
    kept = tuple(points[i] for i, _ in corners)
    return Frontier(kept, tuple(-price for _, price in corners), {point.tier: step for step, point in enumerate(kept)})
