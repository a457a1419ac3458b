"""An upper bound on attainment and quality that no policy can exceed, even one that knows the future.

The problem is relaxed in three ways: all replicas are one device as fast as their sum, which may preempt a request at
any time; a batch costs a request no more than its share of a full one; and a request may get a part of a tier's gain
for the same part of its time. The optimum of this relaxation is known. The gain of a request over device time is a
concave curve, so it consists of slices of work, each with a price (gain ÷ time). The sets of slices that can be done
in time are a polymatroid, hence greedy by price is optimal:

    bound = Σ over prices p, highest first, of (p − next lower price) · work(slices of price ≥ p)

where work(…) is the most of them that can be done in time, which earliest deadline first achieves.
"""

import heapq
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rankfleet.core.config import FleetConfig
from rankfleet.core.work import Work
from rankfleet.estimates.frontier import upper_hull
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.quality import own_table
from rankfleet.simulate.workload import Requests, Workload

Slices = list[tuple[float, float]]  # price per ms, ms; highest price first


def upper_bound(
    fleet: FleetConfig, models: Mapping[str, LatencyModel], workload: Workload, requests: Requests
) -> dict[str, Any]:
    """Upper bounds of attainment and of mean quality; two bounds, not one schedule. All replicas are there."""
    devices = sum(fleet.replicas_of(name).max for name in fleet.groups)
    budgets_ms = np.array([c.slo_ms if c.slo_ms is not None else np.inf for c in workload.classes.values()])
    deadlines_s = requests.arrived_s + (budgets_ms[requests.kind] - fleet.network_ms) / 1e3
    sizes, size_index = np.unique(requests.pairs, return_inverse=True)
    retriever = own_table(fleet).retriever
    options = [tier_options(fleet, models, workload, int(pairs), devices) for pairs in sizes]
    by_gain = [slices((quality - retriever, ms) for quality, ms in each) for each in options]
    by_count = [slices([(1.0, min(ms for _, ms in each))]) for each in options]
    n = len(requests)
    answered = max_value(requests.arrived_s, deadlines_s, size_index, by_count)
    gained = max_value(requests.arrived_s, deadlines_s, size_index, by_gain)
    return {
        "requests": n,
        "attainment": round(answered / n, 5),
        "mean_quality": round(retriever + gained / n, 5),
    }


def tier_options(
    fleet: FleetConfig, models: Mapping[str, LatencyModel], workload: Workload, pairs: int, devices: int
) -> list[tuple[float, float]]:
    """(quality, least milliseconds on all devices together) of each tier for a request."""
    options, quality = [], own_table(fleet).tiers
    for name, tier in fleet.tiers.items():
        length = min(workload.tokens, tier.max_tokens or workload.tokens)
        work = Work(pairs, pairs * length, pairs * length * length)
        batch_tokens = fleet.groups[fleet.group_of(name)].batch_tokens
        options.append((quality[name], models[name].cost(work, batch_tokens).mean_amortized_ms / devices))
    return options


def slices(options: Iterable[tuple[float, float]]) -> Slices:
    """The concave hull of gain over time, starting at no gain for no time, cut at its corners.

    options: (gain, ms)
    """
    gains, times_ms = zip((0.0, 0.0), *options, strict=True)
    corners = upper_hull(times_ms, gains)
    return [(price, times_ms[i] - times_ms[before]) for (before, _), (i, price) in itertools.pairwise(corners)]


def max_value(arrived_s: np.ndarray, deadlines_s: np.ndarray, size_index: np.ndarray, by_size: list[Slices]) -> float:
    """The largest sum of price · work that can be done in time.

    size_index: int [requests], into `by_size`, the slices of a request of each size
    """
    prices = sorted({price for each in by_size for price, _ in each}, reverse=True)
    total = 0.0
    for price, next_lower in zip(prices, [*prices[1:], 0.0], strict=True):
        ms = np.array([sum(slice_ms for p, slice_ms in each if p >= price) for each in by_size])
        total += (price - next_lower) * 1e3 * work_done_s(arrived_s, deadlines_s, ms[size_index] / 1e3)
    return total


def work_done_s(arrived_s: np.ndarray, deadlines_s: np.ndarray, work_s: np.ndarray) -> float:
    """Seconds of work that one preemptive device does in time, earliest deadline first.

    Work on a request counts until its deadline. arrived_s: ascending
    """
    waiting: list[list[float]] = []  # heap of [deadline, work left]
    done_s = 0.0
    arrivals = [*arrived_s.tolist(), np.inf]
    for now, deadline, work, next_arrival in zip(
        arrivals, deadlines_s.tolist(), work_s.tolist(), arrivals[1:], strict=False
    ):
        if work > 0:
            heapq.heappush(waiting, [deadline, work])
        while waiting and now < next_arrival:
            first = waiting[0]
            spent = min(first[1], first[0] - now, next_arrival - now)
            if spent > 0:
                now += spent
                done_s += spent
                first[1] -= spent
            if first[1] <= 0 or first[0] <= now:
                heapq.heappop(waiting)
    return done_s
