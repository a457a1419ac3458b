"""What a replica scores next: one tier and one batch, decided when the device is free (late binding).

`select_batch` applies four rules to the waiting chunks, which are in order of deadline:

1. Feasibility (`feasible_chunks`). Keep as many chunks as can meet their deadlines one after the other, each at its
   cheapest tier. If not all can, give up the largest until the rest can, which keeps the most (Moore–Hodgson). Times
   are means here, so that a chunk is tried as long as the mean batch would be in time.
2. Price (`find_price`). Which tier each chunk gets is a trade of quality against device time, which they share. The
   Lagrange multiplier of that constraint is the price of device time: at a given price every chunk takes the best
   tier whose gain is worth its time, so a small chunk takes a larger tier than a large chunk does. The price is the
   lowest at which all feasible chunks are done by their deadlines and within the horizon, at the 99th percentile.
3. Serving order (`serving_order`). The earliest deadline goes first. Best-effort chunks, which have no deadline, go
   last; but they accrue a share of the device's time as a deficit, and go first once the deficit covers the first of
   them, or a part of it (deficit round robin with two classes).
4. Batch (`fill_batch`). The first chunk gets its tier at the price. Others join in serving order while the batch stays
   within its time and tokens. A chunk whose own tier at the price is more than one point away on its frontier waits.
   What is on the device cannot be interrupted. Work that can wait, because it is best-effort or has more time than
   the typical request of the tenant with the shortest budgets, makes no batch longer than `yielding_batch_ms`; of a
   larger chunk a part is scored, and others get in between.
"""

import heapq
import math
from bisect import bisect_left
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rankfleet.core.sections import Routing
from rankfleet.estimates.arrivals import ArrivalStats
from rankfleet.estimates.frontier import Frontier, TierOption

T = TypeVar("T")

# Prices that are tried: 20% apart (finer ones change no figure in docs/routing.md), up to where no gain is worth it.
PRICES: tuple[float, ...] = tuple(0.01 * 1.2**i for i in range(70))
ROUNDING_MS = 1e-6  # by which a sum of times may miss a deadline
# Of a batch that has to be short. Each costs the way to the device's thread and back, a millisecond or two, whatever it
# holds: if a few requests with budgets of milliseconds made parts as short, all others would be late.
SHORTEST_BATCH_MS = 10.0
# The largest part of such a batch's time that its fixed cost may be. Without this limit, a tenant with few requests and
# budgets of milliseconds would cost the others much of the fleet at high load: every part costs it once.
MAX_FIXED_SHARE = 1 / 6


@dataclass(frozen=True, slots=True)
class QueuedChunk(Generic[T]):
    """A chunk that waits for the device.

    tokens: of all its pairs
    deadline_s: when its scores are due; infinity for best-effort work
    frontier: the tiers that may score it and their times
    item: what the caller gets back
    request: equal for all chunks of one request; None for a request that is one chunk
    over_share: whether it is above its tenant's share, and goes behind all that is not
    pairs: into how many parts it can be cut
    tenant: whose it is; None if it has none
    """

    tokens: int
    deadline_s: float
    frontier: Frontier
    item: T
    request: Hashable = None
    over_share: bool = False
    pairs: int = 1
    tenant: str | None = None

    @property
    def min_ms(self) -> float:
        """Device time at its cheapest tier, with its share of a full batch's fixed cost; 99th percentile."""
        return self.frontier.points[0].amortized_ms

    @property
    def is_best_effort(self) -> bool:
        """Whether it gets what others leave: it has no deadline, or is above a share."""
        return self.over_share or self.deadline_s == math.inf

    def can_wait(self, urgent_s: float) -> bool:
        """Whether it is best-effort, or due after `urgent_s`: when a request that arrives now with
        `ArrivalStats.shortest_budget_ms` is due."""
        return self.over_share or self.deadline_s > urgent_s

    @property
    def latest_start_s(self) -> float:
        """When the device must start at the latest for it to be in time, alone at its cheapest tier in the mean."""
        return self.deadline_s - self.frontier.points[0].mean_ms / 1e3

    def is_infeasible(self, now_s: float) -> bool:
        """Whether its latest start has passed."""
        return self.frontier.points[0].mean_ms > (self.deadline_s - now_s) * 1e3 + ROUNDING_MS


@dataclass(frozen=True, slots=True)
class BatchDecision:
    """What the device does next.

    tier: that scores the batch; None if no waiting chunk is feasible
    batch, infeasible: indices into the waiting chunks, ascending
    price: of device time, per typical budget of it
    predicted_ms: 99th percentile of the batch's time
    horizon_ms: the time in which all feasible chunks have to be done
    share: of the batch, which is one chunk if it is below 1, that is scored now; the rest waits on, for this tier
    """

    tier: str | None
    batch: tuple[int, ...]
    infeasible: tuple[int, ...]
    price: float = 0.0
    predicted_ms: float = 0.0
    horizon_ms: float = 0.0
    share: float = 1.0

    @property
    def reason(self) -> str:
        """The decision in one sentence."""
        if self.tier is None:
            return f"no waiting chunk can meet its deadline; {len(self.infeasible)} infeasible"
        given_up = f"; {len(self.infeasible)} infeasible" if self.infeasible else ""
        return (
            f"{self.tier} for a batch of {len(self.batch)}, {self.predicted_ms:.0f} ms: all waiting chunks have to be "
            f"done within {self.horizon_ms:.0f} ms{given_up}"
        )


def select_batch(
    waiting: Sequence[QueuedChunk[Any]],
    arrivals: ArrivalStats,
    routing: Routing,
    max_tokens: int,
    now_s: float,
    deficit_ms: float = 0.0,
) -> BatchDecision:
    """Decide the next batch.

    waiting: in order of deadline, and what is above shares behind all else in the same order; not empty
    max_tokens: of one batch; a chunk that has more is scored alone
    deficit_ms: device time that best-effort work has accrued
    """
    feasible = feasible_chunks(waiting, now_s)
    infeasible = tuple(sorted(set(range(len(waiting))).difference(feasible))) if len(feasible) < len(waiting) else ()
    if not feasible:
        return BatchDecision(None, (), infeasible)
    price = find_price([waiting[i] for i in feasible], arrivals, routing, now_s)
    price_per_ms = price / arrivals.typical_budget_ms
    shortest_horizon_ms = routing.horizon * arrivals.shortest_budget_ms
    order = serving_order(waiting, feasible, price_per_ms, shortest_horizon_ms, deficit_ms)
    first = waiting[order[0]]
    left_ms = (first.deadline_s - now_s) * 1e3 + ROUNDING_MS
    points = first.frontier.points
    index = first.frontier.index_at(price_per_ms)
    while index > 0 and points[index].p99_ms > left_ms:
        index -= 1
    point = points[index]
    horizon_ms = arrivals.horizon_ms(price, routing, first.tokens)
    urgent_s = now_s + (arrivals.shortest_budget_ms + ROUNDING_MS) / 1e3
    can_wait = first.can_wait(urgent_s)
    first_ms = point.p99_ms
    if first_ms > left_ms:  # in time at the mean only: let others join by the same measure
        left_ms *= first_ms / max(point.mean_ms, ROUNDING_MS)
    yielding_ms = min(left_ms, yielding_batch_ms(point, shortest_horizon_ms))
    max_ms = deficit_ms if len(order) < len(feasible) else yielding_ms if can_wait else left_ms
    if can_wait and first_ms > max_ms and first.pairs > 1:
        share = max(max_ms / first_ms, 1 / first.pairs)
        return BatchDecision(point.tier, (order[0],), infeasible, price, share * first_ms, horizon_ms, share)
    batch, predicted_ms = fill_batch(waiting, order, point, price_per_ms, max_ms, yielding_ms, urgent_s, max_tokens)
    return BatchDecision(point.tier, batch, infeasible, price, predicted_ms, horizon_ms)


def feasible_chunks(waiting: Sequence[QueuedChunk[Any]], now_s: float) -> list[int]:
    """Indices of the chunks that can all be in time one after the other, each at its cheapest tier, at the mean.

    Moore–Hodgson: go through the chunks by deadline; whenever one would be late, give up the largest so far. Work above
    a share follows after all else, and is given up by itself.
    """
    tried: list[int] = []
    largest: list[tuple[float, int]] = []  # heap of (−mean time, index)
    given_up: set[int] = set()
    busy_ms = 0.0  # when the last chunk so far would be done, from now
    over_share = False
    for i, chunk in enumerate(waiting):
        if chunk.over_share and not over_share:
            over_share, largest = True, []  # nothing else is given up for what is above a share
        if chunk.is_infeasible(now_s):
            continue
        point = chunk.frontier.points[0]
        left_ms = (chunk.deadline_s - now_s) * 1e3 + ROUNDING_MS
        if not tried:  # amortized times hold a share of the fixed cost; the first batch pays the rest of it at once
            busy_ms = point.mean_ms - point.mean_amortized_ms
        tried.append(i)
        busy_ms += point.mean_amortized_ms
        heapq.heappush(largest, (-point.mean_amortized_ms, i))
        while busy_ms > left_ms and largest:
            negative_ms, dropped = heapq.heappop(largest)
            busy_ms += negative_ms
            given_up.add(dropped)
    return [i for i in tried if i not in given_up] if given_up else tried


def find_price(chunks: Sequence[QueuedChunk[Any]], arrivals: ArrivalStats, routing: Routing, now_s: float) -> float:
    """The lowest of PRICES at which the feasible `chunks`, in order of deadline, drain in time.

    In time means at the 99th percentile. If no price achieves that, because some chunks are feasible at the mean only,
    it means at the mean.
    """
    if drains_in_time(chunks, PRICES[0], arrivals, routing, now_s):  # at low load, the most frequent case
        return PRICES[0]
    cheapest = chunks[0].frontier.points[0]
    has_spread = cheapest.mean_ms < cheapest.p99_ms
    at_mean = has_spread and not drains_in_time(chunks, PRICES[-1], arrivals, routing, now_s)
    low, high = 1, len(PRICES) - 1
    while low < high:
        middle = (low + high) // 2
        if drains_in_time(chunks, PRICES[middle], arrivals, routing, now_s, at_mean):
            high = middle
        else:
            low = middle + 1
    return PRICES[low]


def drains_in_time(
    chunks: Sequence[QueuedChunk[Any]],
    price: float,
    arrivals: ArrivalStats,
    routing: Routing,
    now_s: float,
    at_mean: bool = False,
) -> bool:
    """Whether all chunks, each at its tier by this price, are done by their deadlines and within the horizon, which is
    that of the largest chunk so far.

    at_mean: by mean times, not by the 99th percentile. Best-effort chunks come last and do not count; those above a
    share count if nothing else waits.
    """
    price_per_ms = price / arrivals.typical_budget_ms
    first = chunks[0].frontier
    point = first.points[first.index_at(price_per_ms)]
    # As in `feasible_chunks`: the part of the first batch's fixed cost that amortized times leave out.
    start_ms = point.mean_ms - point.mean_amortized_ms if at_mean else point.p99_ms - point.amortized_ms
    start_ms += now_s * 1e3 - ROUNDING_MS
    busy_ms = horizon_ms = 0.0
    largest = -1
    for chunk in chunks:
        if chunk.deadline_s == math.inf or chunk.over_share is not chunks[0].over_share:
            break
        if chunk.tokens > largest:
            largest = chunk.tokens
            horizon_ms = arrivals.horizon_ms(price, routing, largest)
        frontier = chunk.frontier
        point = frontier.points[frontier.index_at(price_per_ms)]
        busy_ms += point.mean_amortized_ms if at_mean else point.amortized_ms
        if busy_ms > horizon_ms or start_ms + busy_ms > chunk.deadline_s * 1e3:
            return False
    return True


def serving_order(
    waiting: Sequence[QueuedChunk[Any]],
    feasible: list[int],
    price_per_ms: float,
    shortest_horizon_ms: float,
    deficit_ms: float,
) -> list[int]:
    """The feasible chunks in the order in which they may form the next batch.

    All of them by deadline; or the best-effort ones alone, if the deficit covers the first of these in a batch of its
    own, or a part of it.
    """
    if deficit_ms <= 0 or not waiting[feasible[-1]].is_best_effort:
        return feasible
    start = bisect_left(feasible, True, key=lambda i: waiting[i].is_best_effort)
    first = waiting[feasible[start]]
    point = first.frontier.points[first.frontier.index_at(price_per_ms)]
    first_ms = point.p99_ms
    part_ms = max(yielding_batch_ms(point, shortest_horizon_ms), first_ms / first.pairs)
    return feasible[start:] if min(first_ms, part_ms) <= deficit_ms else feasible


def yielding_batch_ms(point: TierOption, shortest_horizon_ms: float) -> float:
    """The most that a batch of work that can wait may take at this tier; requests that arrive meanwhile wait for its
    end."""
    return max(shortest_horizon_ms, SHORTEST_BATCH_MS, point.fixed_ms / MAX_FIXED_SHARE)


def fill_batch(
    waiting: Sequence[QueuedChunk[Any]],
    order: Sequence[int],
    point: TierOption,
    price_per_ms: float,
    max_ms: float,
    yielding_ms: float,
    urgent_s: float,
    max_tokens: int,
) -> tuple[tuple[int, ...], float]:
    """The batch that starts with the first chunk of `order` at `point`: indices, and 99th percentile of its time.

    max_ms: of its time; yielding_ms: if work that can wait joins it
    urgent_s: as in `QueuedChunk.can_wait`
    """
    batch = [order[0]]
    tokens = waiting[order[0]].tokens
    batch_ms = point.p99_ms
    for i in order[1:]:
        chunk = waiting[i]
        index = chunk.frontier.index_by_tier.get(point.tier)
        if index is None or abs(index - chunk.frontier.index_at(price_per_ms)) > 1:
            continue
        longer_ms = batch_ms + chunk.frontier.points[index].marginal_ms
        can_take_ms = min(max_ms, yielding_ms) if chunk.can_wait(urgent_s) else max_ms
        if tokens + chunk.tokens > max_tokens or longer_ms > can_take_ms:
            break
        batch.append(i)
        tokens += chunk.tokens
        batch_ms = longer_ms
    return tuple(batch), batch_ms
