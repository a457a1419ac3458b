"""What a chunk may be scored with, and what each step up gains for the time it takes."""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Option:
    """One tier for one chunk. fixed_ms: what a batch of this tier costs however small; ms: what this chunk adds."""

    tier: str
    quality: float
    fixed_ms: float
    ms: float


@dataclass(frozen=True, slots=True)
class Rung:
    """A tier worth its time. full_ms: `ms` and the chunk's share of the fixed cost of a full batch."""

    tier: str
    quality: float
    fixed_ms: float
    ms: float
    full_ms: float


@dataclass(frozen=True, slots=True)
class Ladder:
    """The tiers that no mixture of others beats, cheapest first.

    negative_prices: by rung, minus the price up to which it is taken: what it gains over the rung below ÷ the
    device milliseconds it takes more. Ascending, and minus infinity for the cheapest, which is always affordable.
    """

    rungs: tuple[Rung, ...]
    negative_prices: tuple[float, ...]
    by_tier: dict[str, int] = field(hash=False)

    def at(self, price: float) -> int:
        """The rung taken at a price per device millisecond: the highest whose gain is worth it."""
        return bisect_right(self.negative_prices, -price) - 1


def scale_of(qualities: Iterable[float]) -> float:
    """The range of qualities, in which prices are measured; 1 where all are equal."""
    known = list(qualities)
    return max(known) - min(known) or 1.0


def ladder(options: Iterable[Option], share: float = 0.0, scale: float = 1.0) -> Ladder:
    """The upper concave hull of quality over time.

    share: of a full batch that the chunk takes, in tokens; scale: the range of qualities that counts as 1, so
    that prices mean the same whatever the measure. Raises ValueError without options.
    """
    hull: list[tuple[float, Rung]] = []
    rungs = (Rung(o.tier, o.quality, o.fixed_ms, o.ms, o.ms + o.fixed_ms * share) for o in options)
    for rung in sorted(rungs, key=lambda r: (r.full_ms, -r.quality)):
        if hull and rung.quality <= hull[-1][1].quality:
            continue
        price = float("inf")
        while hull:
            below = hull[-1][1]
            price = (rung.quality - below.quality) / scale / max(rung.full_ms - below.full_ms, 1e-12)
            if price < hull[-1][0]:
                break
            hull.pop()  # the step to this one gains more for its time than the step to that one did
        hull.append((price, rung))
    if not hull:
        raise ValueError("a chunk needs at least one tier it may be scored with")
    kept = tuple(rung for _, rung in hull)
    return Ladder(kept, tuple(-price for price, _ in hull), {rung.tier: i for i, rung in enumerate(kept)})
