"""A bound that no policy can pass, even one that knows the future.

All replicas are one device as fast as their sum, which may put a request aside at any time; a batch costs a request
no more than its share of a full one; and a request may be worth part of a tier's gain for part of its time. Of that
relaxation the optimum is known. What a request gains over its time is a concave curve, so that it falls into slices
of work, each with a price (gain ÷ time). The sets of slices that can be done in time are a polymatroid, hence
greedy by price is best:

    bound = Σ over prices p, highest first, of (p − next lower price) × work(slices of price ≥ p)

where work(…) is the most that can be done in time, which earliest deadline first does.
"""

import heapq
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rankfleet.core.config import FleetConfig
from rankfleet.core.messages import Work
from rankfleet.estimates.frontier import TierOption, frontier_of
from rankfleet.estimates.latency import LatencyModel
from rankfleet.simulate.workload import Requests, Workload

NOTHING = "nothing"
Slices = list[tuple[float, float]]  # price, ms; highest price first


def bound(
    fleet: FleetConfig, models: Mapping[str, LatencyModel], workload: Workload, requests: Requests
) -> dict[str, Any]:
    """Upper bounds of attainment and, separately, of mean quality. Without autoscaling: all replicas are there."""
    devices = sum(group.replicas.max for group in fleet.groups.values())
    arrived_s = requests.arrived_s
    budgets = np.array([c.slo_ms if c.slo_ms is not None else np.inf for c in workload.classes.values()])
    ends_s = arrived_s + (budgets[requests.kind] - fleet.overhead_ms) / 1e3
    sizes, size = np.unique(requests.pairs, return_inverse=True)
    retriever = fleet.quality.retriever
    options = [device_options(fleet, models, workload, int(pairs), devices) for pairs in sizes]
    gains = [slices([(o.quality - retriever, o.marginal_ms) for o in each]) for each in options]
    counts = [slices([(1.0, min(o.marginal_ms for o in each))]) for each in options]
    n = len(requests)
    return {
        "requests": n,
        "attainment": round(most(arrived_s, ends_s, size, counts) / n, 5),
        "mean_quality": round(retriever + most(arrived_s, ends_s, size, gains) / n, 5),
    }


def device_options(
    fleet: FleetConfig, models: Mapping[str, LatencyModel], workload: Workload, pairs: int, devices: int
) -> list[TierOption]:
    """Each tier's quality and least time on all devices together."""
    found = []
    for name, tier in fleet.tiers.items():
        length = min(workload.tokens, tier.max_tokens or workload.tokens)
        work = Work(pairs, pairs * length, pairs * length * length)
        share = min(1.0, work.tokens / fleet.groups[fleet.group_of(name)].batch_tokens)
        ms = models[name].alpha_ms * share + models[name].mean_ms(work) - models[name].alpha_ms
        found.append(TierOption(name, tier.quality, 0.0, ms / devices))
    return found


def slices(gains: Iterable[tuple[float, float]]) -> Slices:
    """The concave hull of gains over time, from nothing on, cut at its corners."""
    options = [TierOption(NOTHING, 0.0, 0.0, 0.0), *(TierOption(str(ms), gain, 0.0, ms) for gain, ms in gains)]
    points = frontier_of(options).points
    return [
        (
            (upper.quality - lower.quality) / (upper.marginal_ms - lower.marginal_ms),
            upper.marginal_ms - lower.marginal_ms,
        )
        for lower, upper in itertools.pairwise(points)
    ]


def most(arrived_s: np.ndarray, ends_s: np.ndarray, size: np.ndarray, by_size: list[Slices]) -> float:
    """The largest sum of price × work that can be done in time."""
    prices = sorted({price for each in by_size for price, _ in each}, reverse=True)
    total = 0.0
    for price, lower in zip(prices, [*prices[1:], 0.0], strict=True):
        ms = np.array([sum(part for p, part in each if p >= price) for each in by_size])
        total += (price - lower) * 1e3 * work_done_s(arrived_s, ends_s, ms[size] / 1e3)
    return total


def work_done_s(arrived_s: np.ndarray, ends_s: np.ndarray, work_s: np.ndarray) -> float:
    """Seconds of work done by one device, earliest deadline first, each request's until its own end. The times of
    arrival ascend."""
    waiting: list[list[float]] = []  # end, work left
    done = 0.0
    arrivals = [*arrived_s.tolist(), np.inf]
    for now, end, work, until in zip(arrivals, ends_s.tolist(), work_s.tolist(), arrivals[1:], strict=False):
        if work > 0:
            heapq.heappush(waiting, [end, work])
        while waiting and now < until:
            first = waiting[0]
            spent = min(first[1], first[0] - now, until - now)
            if spent > 0:
                now += spent
                done += spent
                first[1] -= spent
            if first[1] <= 0 or first[0] <= now:
                heapq.heappop(waiting)
    return done
