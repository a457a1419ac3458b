"""The traffic of the fault benches, in proportion to what the fleet can do on this machine, which is measured first.

Each of eight clients that send one request after the other waits 8 ÷ capacity. Budgets are multiples of that wait, and
rates are shares of the capacity, so that a scenario means the same on a slow machine and on a fast one.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from rankfleet.bench.serve import AMPLE_MS, for_tier, token_counter
from rankfleet.bench.traffic import Call, Reply, calls, closed_loop, open_loop
from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import RankfleetError
from rankfleet.simulate.traces import from_process
from rankfleet.simulate.workload import Candidates, RequestClass, Requests, Workload, draw

CLIENTS = 8  # of the closed loop that measures the capacity
WARM_S, PROBE_S = 2.0, 8.0
PLANNED_PER_S = 20.0  # different requests made for each second of that, and sent in turn


@dataclass(frozen=True)
class RequestMix:
    """Kinds of requests.

    candidates, tokens: as in `Workload`. budgets: name of a class → (its budget in waits of a client, None for none;
    its share of the requests).
    """

    candidates: tuple[Candidates, ...]
    tokens: int
    budgets: Mapping[str, tuple[float | None, float]]

    def workload(self, capacity_per_s: float) -> Workload:
        """With the budgets of a fleet that can score so many requests per second."""
        wait_ms = CLIENTS / capacity_per_s * 1e3
        return self._of(
            {name: (waits and round(waits * wait_ms), share) for name, (waits, share) in self.budgets.items()}
        )

    @property
    def ample(self) -> Workload:
        """With time enough for each."""
        return self._of({"ample": (AMPLE_MS, 1)})

    def _of(self, budgets_ms: Mapping[str, tuple[float | None, float]]) -> Workload:
        classes = {name: RequestClass(slo_ms=ms, share=share) for name, (ms, share) in budgets_ms.items()}
        return Workload(classes=classes, candidates=list(self.candidates), tokens=self.tokens)


# Short budgets, long ones and none: faults affect each of them differently.
MIXED = RequestMix(
    (Candidates(count=20, share=8), Candidates(count=200, share=2)),
    32,
    {"standard": (8.0, 5), "relaxed": (40.0, 3), "batch": (None, 2)},
)
# Large enough that the engines are the bottleneck, not the load generator. The budget is half as long again as a client
# of the closed loop waits.
HEAVY = RequestMix((Candidates(count=100, share=1),), 128, {"tight": (1.5, 1)})


class NothingScored(RankfleetError, code="nothing_scored"):
    """The fleet has scored no request while its capacity was measured."""


@dataclass(frozen=True)
class BenchLoad:
    """Random arrivals of mixed requests.

    capacity_per_s: requests per second that the fleet can score. share: of that, which is sent. seconds: how long.
    """

    capacity_per_s: float
    share: float
    seconds: float
    seed: int = 1

    @property
    def rate_per_s(self) -> float:
        return self.capacity_per_s * self.share

    @property
    def workload(self) -> Workload:
        return MIXED.workload(self.capacity_per_s)

    @property
    def proportions(self) -> dict[str, Any]:
        return proportions(self.workload, self.capacity_per_s, self.rate_per_s)


def proportions(workload: Workload, capacity_per_s: float, rate_per_s: float) -> dict[str, Any]:
    """Capacity, load and budgets, for a result."""
    budgets_ms = {name: each.slo_ms for name, each in workload.classes.items()}
    return {"capacity_per_s": round(capacity_per_s, 2), "rate_per_s": round(rate_per_s, 2), "budgets_ms": budgets_ms}


class FaultTraffic:
    """Makes calls for one fleet, and measures what it can do."""

    def __init__(self, url: str, config: FleetConfig) -> None:
        self.url = url
        self._counter = token_counter(config)

    def planned(
        self,
        workload: Workload,
        rate_per_s: float,
        seconds: float,
        seed: int,
        fields: Mapping[str, Any] = MappingProxyType({}),
    ) -> list[Call]:
        """Calls with random arrivals, classes and sizes, the same for the same seed. fields: as in `calls`."""
        rng = np.random.default_rng(seed)
        arrived_s = from_process(f"poisson:rate={rate_per_s:g}", seconds, rng)
        requests: Requests = draw(workload, arrived_s, rng)
        return calls(requests, workload, *self._counter, seed, fields)

    def send(self, planned: Sequence[Call]) -> list[Reply]:
        """Send every call when it is due; returns the replies in the same order."""
        return asyncio.run(open_loop(self.url, planned))

    def capacity_per_s(self, mix: RequestMix, tier: str | None = None) -> float:
        """Requests per second that the fleet scores for CLIENTS clients: by this tier, or by those that it chooses with
        time enough. Raises NothingScored."""
        sent = self.planned(mix.ample, PLANNED_PER_S, PROBE_S, seed=1)
        if tier is not None:
            sent = [for_tier(call, tier) for call in sent]
        asyncio.run(closed_loop(self.url, sent, CLIENTS, WARM_S))
        started_s = time.perf_counter()
        scored = sum(reply.scored for reply in asyncio.run(closed_loop(self.url, sent, CLIENTS, PROBE_S)))
        if scored == 0:
            raise NothingScored(f"the fleet has scored no request in {PROBE_S:g} s; see the logs of its replicas")
        return scored / (time.perf_counter() - started_s)
