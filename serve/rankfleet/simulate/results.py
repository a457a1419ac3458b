"""The figures of a simulation, as the JSON object that `rankfleet simulate` writes."""

from typing import Any

import numpy as np

from rankfleet.core.config import FleetConfig
from rankfleet.estimates.quality import own_table
from rankfleet.simulate.run import GIVEN_UP, IN_TIME, LATE, REFUSED, Outcome
from rankfleet.simulate.workload import Requests, Workload

INTERVALS = 60  # into which the simulated time is divided


def results(outcome: Outcome, requests: Requests, fleet: FleetConfig, workload: Workload) -> dict[str, Any]:
    """Figures of all requests, by class, by tier, and over time.

    attainment: requests answered in time ÷ all requests
    mean_quality: nDCG@10, mean over all requests; one that was not answered in time counts with the retriever's
    """
    in_time = outcome.state == IN_TIME
    quality = np.where(in_time, outcome.quality, own_table(fleet).retriever)
    n = len(requests)

    def figures(rows: np.ndarray) -> dict[str, Any]:
        count = int(rows.sum())
        took = outcome.took_ms[rows & in_time]
        return {
            "requests": count,
            "attainment": round(float(in_time[rows].mean()), 5) if count else None,
            "mean_quality": round(float(quality[rows].mean()), 5) if count else None,
            "refused": int((outcome.state[rows] == REFUSED).sum()),
            "given_up": int((outcome.state[rows] == GIVEN_UP).sum()),
            "late": int((outcome.state[rows] == LATE).sum()),
            "p50_ms": round(float(np.quantile(took, 0.5)), 2) if len(took) else None,
            "p99_ms": round(float(np.quantile(took, 0.99)), 2) if len(took) else None,
        }

    return {
        **figures(np.ones(n, dtype=bool)),
        "gpu_seconds": round(outcome.gpu_s, 2),
        "replica_seconds": round(outcome.replica_s, 1),
        "batches": outcome.batches,
        "classes": {name: figures(requests.kind == i) for i, name in enumerate(workload.classes)},
        "tiers": {t: round(float((in_time & (outcome.tier == i)).mean()), 5) for i, t in enumerate(fleet.tiers)},
        "over_time": over_time(outcome, requests, fleet, quality),
    }


def over_time(outcome: Outcome, requests: Requests, fleet: FleetConfig, quality: np.ndarray) -> dict[str, Any]:
    """Figures of INTERVALS equal intervals of time; null for an interval without requests."""
    in_time = outcome.state == IN_TIME
    edges = np.linspace(0.0, float(requests.arrived_s[-1]) if len(requests) else 1.0, INTERVALS + 1)
    interval = np.clip(np.searchsorted(edges, requests.arrived_s, side="right") - 1, 0, INTERVALS - 1)
    count = np.bincount(interval, minlength=INTERVALS)

    def mean(values: np.ndarray) -> list[float | None]:
        sums = np.bincount(interval, weights=values, minlength=INTERVALS)
        return [round(float(s / c), 5) if c else None for s, c in zip(sums, count, strict=True)]

    return {
        "until_s": [round(float(edge), 2) for edge in edges[1:]],
        "requests": count.tolist(),
        "attainment": mean(in_time.astype(float)),
        "mean_quality": mean(quality),
        "tiers": {t: mean((in_time & (outcome.tier == i)).astype(float)) for i, t in enumerate(fleet.tiers)},
    }
