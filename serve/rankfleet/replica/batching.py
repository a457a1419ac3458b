"""Late binding: which tier and which chunks go next, decided when the device is free and not before.

Three steps, each a pure function of what waits, in order of deadline:

1. `feasible`: as many requests as can be in time at their cheapest tier, by the times that batches take as a rule: what
   has a fair chance is tried. Where not all can, the largest are given up first (Moore's and Hodgson's rule, which
   keeps most), at once and before they cost anything. All that follows counts with the 99th percentile.
2. `price_of`: device time has a price, the same for everybody. At a price each chunk would take the highest tier
   whose gain is worth its time, so a small chunk takes a larger tier than a large one. The price is the lowest at
   which all that waits is done within the horizon and each by its deadline.
3. `select_batch`: the first chunk gets its tier at that price, and others join its batch in order of deadline while the
   first stays in time. Who would be served by a tier further than one step away waits for a batch of its own. The
   first is the one with the earliest deadline, unless enough time is owed to work without one (`lead`).
"""

import heapq
import math
from bisect import bisect_left
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rankfleet.core.sections import Routing
from rankfleet.estimates.arrivals import ArrivalStats
from rankfleet.estimates.frontier import Frontier, FrontierPoint

T = TypeVar("T")

# Steps of 20%: finer ones change no figure in docs/routing.md. At the last, every gain is too dear.
PRICES: tuple[float, ...] = tuple(0.01 * 1.2**step for step in range(70))
AT_ONCE_MS = 1e-6  # rounding


@dataclass(frozen=True, slots=True)
class Waiting(Generic[T]):
    """One chunk in the queue. deadline_s: infinity for none; ladder: what it may be scored with and how long
    that takes; item: what the caller wants back; request: the same for all chunks of a request that was cut."""

    tokens: int
    deadline_s: float
    frontier: Frontier
    item: T
    request: Hashable = None

    @property
    def min_ms(self) -> float:
        """Its device time at the cheapest tier."""
        return self.frontier.points[0].full_ms

    @property
    def is_best_effort(self) -> bool:
        """Whether it has no deadline."""
        return self.deadline_s == math.inf

    @property
    def last_start_s(self) -> float:
        """Until when the device has to begin with it to be in time as a rule."""
        point = self.frontier.points[0]
        return self.deadline_s - (point.fixed_ms + point.ms) * point.mean_over_p99 / 1e3

    def is_infeasible(self, now_s: float) -> bool:
        """Whether it would be late, as a rule, even if the device began with it now."""
        point = self.frontier.points[0]
        return (point.fixed_ms + point.ms) * point.mean_over_p99 > (self.deadline_s - now_s) * 1e3 + AT_ONCE_MS


@dataclass(frozen=True, slots=True)
class BatchDecision(Generic[T]):
    """What the device does next. batch: places in the queue, ascending; hopeless: places of those given up;
    price: per typical budget of device time; ms: predicted time of the batch."""

    tier: str
    batch: tuple[int, ...]
    infeasible: tuple[int, ...]
    price: float
    ms: float
    horizon_ms: float

    @property
    def reason(self) -> str:
        """One sentence for people."""
        if not self.batch:
            return f"nothing that waits can be in time; {len(self.infeasible)} given up"
        given_up = f"; {len(self.infeasible)} given up" if self.infeasible else ""
        return (
            f"{self.tier} for {len(self.batch)} of what waits, {self.ms:.0f} ms: all has to be done "
            f"within {self.horizon_ms:.0f} ms{given_up}"
        )


def feasible(waiting: Sequence[Waiting[Any]], now_s: float) -> list[int]:
    """Places of the chunks that can all be in time as a rule, one after the other, each at its cheapest tier."""
    kept: list[int] = []
    largest: list[tuple[float, int]] = []
    gone: set[int] = set()
    busy_ms = 0.0
    for place, chunk in enumerate(waiting):
        if chunk.is_infeasible(now_s):
            continue
        point = chunk.frontier.points[0]
        left_ms = (chunk.deadline_s - now_s) * 1e3 + AT_ONCE_MS
        if not kept:  # the first pays for starting a batch, the others share what further batches cost
            busy_ms = (point.fixed_ms - (point.full_ms - point.ms)) * point.mean_over_p99
        median_ms = point.full_ms * point.mean_over_p99
        kept.append(place)
        busy_ms += median_ms
        heapq.heappush(largest, (-median_ms, place))
        while busy_ms > left_ms:
            least, dropped = heapq.heappop(largest)
            busy_ms += least
            gone.add(dropped)
            if not largest:
                break
    return [place for place in kept if place not in gone] if gone else kept


def price_of(chunks: Sequence[Waiting[Any]], arrivals: ArrivalStats, rule: Routing, now_s: float) -> float:
    """The lowest of PRICES at which `chunks`, in order of deadline, drain in time at the 99th percentile; as a rule,
    where they do at none because some have no more than a fair chance."""
    if drains(chunks, PRICES[0], arrivals, rule, now_s):  # a calm fleet
        return PRICES[0]
    uncertain = chunks[0].frontier.points[0].mean_over_p99 < 1.0
    as_a_rule = uncertain and not drains(chunks, PRICES[-1], arrivals, rule, now_s)
    low, high = 1, len(PRICES) - 1
    while low < high:
        middle = (low + high) // 2
        if drains(chunks, PRICES[middle], arrivals, rule, now_s, as_a_rule):
            high = middle
        else:
            low = middle + 1
    return PRICES[low]


def drains(
    chunks: Sequence[Waiting[Any]],
    price: float,
    arrivals: ArrivalStats,
    rule: Routing,
    now_s: float,
    as_a_rule: bool = False,
) -> bool:
    """Whether all chunks, each at its tier by this price, are done within the horizon and by their deadlines, at the
    99th percentile or as a rule. Those without a deadline wait behind all others and hold nobody up."""
    per_ms = price / arrivals.budget_ms
    max_ms = arrivals.horizon_ms(price, rule)
    first = chunks[0].frontier
    point = first.points[first.at(per_ms)]
    start_ms = (point.fixed_ms - (point.full_ms - point.ms)) * (point.mean_over_p99 if as_a_rule else 1.0)
    start_ms += now_s * 1e3 - AT_ONCE_MS
    busy_ms = 0.0
    for chunk in chunks:
        if chunk.deadline_s == math.inf:
            break
        steps = chunk.frontier
        point = steps.points[steps.at(per_ms)]
        busy_ms += point.full_ms * point.mean_over_p99 if as_a_rule else point.full_ms
        if busy_ms > max_ms or start_ms + busy_ms > chunk.deadline_s * 1e3:
            return False
    return True


def lead(waiting: Sequence[Waiting[Any]], kept: list[int], per_ms: float, deficit_ms: float) -> list[int]:
    """`kept`, or from the first without a deadline on, once its time is owed. per_ms: price of a millisecond."""
    if deficit_ms <= 0 or not waiting[kept[-1]].is_best_effort:
        return kept
    first = bisect_left(kept, math.inf, key=lambda place: waiting[place].deadline_s)
    chunk = waiting[kept[first]]
    point = chunk.frontier.points[chunk.frontier.at(per_ms)]
    return kept[first:] if point.fixed_ms + point.ms <= deficit_ms else kept


def select_batch(
    waiting: Sequence[Waiting[Any]],
    arrivals: ArrivalStats,
    rule: Routing,
    max_tokens: int,
    now_s: float,
    deficit_ms: float = 0.0,
) -> BatchDecision[Any]:
    """The next batch out of `waiting`, which is in order of deadline and not empty. max_tokens: most tokens in one
    batch, unless a single chunk has more; deficit_ms: device time owed to work without a deadline."""
    kept = feasible(waiting, now_s)
    infeasible = tuple(sorted(set(range(len(waiting))).difference(kept))) if len(kept) < len(waiting) else ()
    if not kept:
        return BatchDecision("", (), infeasible, 0.0, 0.0, 0.0)
    price = price_of([waiting[place] for place in kept], arrivals, rule, now_s)
    per_ms = price / arrivals.budget_ms
    turn = lead(waiting, kept, per_ms, deficit_ms)
    head = waiting[turn[0]]
    left_ms = (head.deadline_s - now_s) * 1e3 + AT_ONCE_MS
    step = head.frontier.at(per_ms)
    while step > 0 and head.frontier.points[step].fixed_ms + head.frontier.points[step].ms > left_ms:
        step -= 1
    point = head.frontier.points[step]
    horizon_ms = arrivals.horizon_ms(price, rule)
    if point.fixed_ms + point.ms > left_ms:  # only a fair chance is left, and it is as fair for those that join
        left_ms /= point.mean_over_p99
    # Without a deadline of its own a batch may take as long as the horizon: who comes meanwhile has to wait for it.
    max_ms = deficit_ms if len(turn) < len(kept) else horizon_ms if head.is_best_effort else left_ms
    batch, ms = fill(waiting, turn, point, per_ms, max_ms, max_tokens)
    return BatchDecision(point.tier, batch, infeasible, price, ms, horizon_ms)


def fill(
    waiting: Sequence[Waiting[Any]],
    kept: Sequence[int],
    point: FrontierPoint,
    per_ms: float,
    max_ms: float,
    max_tokens: int,
) -> tuple[tuple[int, ...], float]:
    """Places of the batch that the first of `kept` leads at `rung`, and its predicted ms."""
    batch = [kept[0]]
    tokens = waiting[kept[0]].tokens
    ms = point.fixed_ms + point.ms
    for place in kept[1:]:
        chunk = waiting[place]
        step = chunk.frontier.by_tier.get(point.tier)
        if step is None or abs(step - chunk.frontier.at(per_ms)) > 1:
            continue
        longer_ms = ms + chunk.frontier.points[step].ms
        if tokens + chunk.tokens > max_tokens or longer_ms > max_ms:
            break
        batch.append(place)
        tokens += chunk.tokens
        ms = longer_ms
    return tuple(batch), ms
