"""Time a large request on one replica and on two equal ones, in turn, over HTTP.

    python -m benchmarks.spread      writes benchmarks/results/spread.json

The fleet has two groups that host the same tiers: one has one replica, the other two, each with one thread. Times are
the client's, from sending to the whole reply. Then the same is measured with Serve's own choice of replicas.
"""

import statistics
import time
from typing import Any

import httpx
import numpy as np
from benchmarks.paths import result_file

from rankfleet.bench.results import measured, write_results
from rankfleet.bench.serve import token_counter
from rankfleet.bench.traffic import calls
from rankfleet.cluster import deploy, launch
from rankfleet.cluster.serve_config import serve_config
from rankfleet.core.config import FleetConfig
from rankfleet.core.fleet_file import parse_config
from rankfleet.simulate.workload import Candidates, RequestClass, Requests, Workload

PORTS = {"placed by work": 8641, "placed by Serve": 8642}
SERVES_OWN = "ray.serve._private.request_router:PowerOfTwoChoicesRequestRouter"
DOCUMENTS = 1000
ROUNDS = 7
TIERS = ("small", "large")
TOKENS = (32, 128)


def fleet() -> FleetConfig:
    return parse_config(
        {
            "tiers": {f"{tier}-{n}": {"model": f"demo/{tier}", "quality": 0.4} for n in (1, 2) for tier in TIERS},
            "groups": {
                f"of{n}": {
                    "tiers": [f"{tier}-{n}" for tier in TIERS],
                    "replicas": {"min": n, "max": n},
                    "cpus": 0.4,
                    "threads": 1,
                }
                for n in (1, 2)
            },
            "router_cpus": 0.4,
        }
    )


def body(config: FleetConfig, tokens: int) -> bytes:
    """A request with 1,000 documents of `tokens` tokens and no budget."""
    workload = Workload(
        classes={"any": RequestClass(slo_ms=None, share=1)},
        candidates=[Candidates(count=DOCUMENTS, share=1)],
        tokens=tokens,
    )
    one = Requests(np.zeros(1), np.zeros(1, dtype=np.int64), np.array([DOCUMENTS]))
    return calls(one, workload, *token_counter(config), seed=1)[0].body


def measure(http: httpx.Client, text: bytes, tier: str) -> dict[str, Any]:
    """Times with one and with two replicas, one request of each per round."""
    took: dict[int, list[float]] = {1: [], 2: []}
    infer: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(ROUNDS + 1):
        for n in (1, 2):
            request = text[:-1] + f',"model":"{tier}-{n}"}}'.encode()
            started = time.perf_counter()
            reply = http.post("/v1/rerank", content=request, headers={"content-type": "application/json"})
            elapsed = time.perf_counter() - started
            reply.raise_for_status()
            if turn:  # the first round fills caches
                took[n].append(elapsed)
                infer[n].append(reply.json()["rankfleet"]["timing_ms"]["infer"])
    one, two = (statistics.median(took[n]) for n in (1, 2))
    return {
        "one_ms": round(one * 1e3, 1),
        "two_ms": round(two * 1e3, 1),
        "ratio": round(two / one, 3),
        "ratio_by_round": [round(b / a, 3) for a, b in zip(took[1], took[2], strict=True)],
        "slowest_chunk_ms": {n: round(statistics.median(infer[n]), 1) for n in (1, 2)},
    }


def measure_fleet(config: FleetConfig, port: int) -> dict[str, Any]:
    """Start a fleet, measure every tier and length, and end it."""
    running = launch.start(config, "127.0.0.1", port, lambda text: None)
    try:
        with httpx.Client(base_url=running.address, timeout=120, trust_env=False) as http:
            return {
                f"{tier}, {tokens}": measure(http, text, tier)
                for tokens in TOKENS
                for text in [body(config, tokens)]
                for tier in TIERS
            }
    finally:
        launch.stop()


def placed_by_serve(config: FleetConfig) -> dict[str, Any]:
    """The Serve config of the fleet, with Serve's own request router."""
    whole = serve_config(config)
    own = {"request_router_class": SERVES_OWN}
    whole["applications"][0]["deployments"] += [{"name": name, "request_router_config": own} for name in config.groups]
    return whole


def run() -> None:
    figures: dict[str, Any] = {"documents": DOCUMENTS, "rounds": ROUNDS}
    for name, port in PORTS.items():
        if name == "placed by Serve":
            deploy.serve_config = placed_by_serve  # type: ignore[assignment]
        figures[name] = measure_fleet(fleet(), port)
        print(name, figures[name], flush=True)
    write_results(result_file("spread"), figures, measured())


if __name__ == "__main__":
    run()
