"""A large request on two equal replicas and on one, in turn, over HTTP.

    python benchmarks/spread.py            benchmarks/results/spread.json

A fleet with two groups that host the same tiers: one has a single replica, the other two, each with one thread. The
time is the client's, from sending to the whole reply.
"""

import json
import statistics
import time
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from rankfleet.app import launch
from rankfleet.bench.machine import cpu_name
from rankfleet.bench.serve import counter
from rankfleet.bench.traffic import calls
from rankfleet.core.config import FleetConfig, parse_config
from rankfleet.simulate.workload import Candidates, RequestClass, Requests, Workload

OUT = Path(__file__).parent / "results/spread.json"
PORT = 8641
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
    """1,000 documents, without a budget."""
    workload = Workload(
        classes={"any": RequestClass(slo_ms=None, share=1)},
        candidates=[Candidates(count=DOCUMENTS, share=1)],
        tokens=tokens,
    )
    one = Requests(np.zeros(1), np.zeros(1, dtype=np.int64), np.array([DOCUMENTS]))
    return calls(one, workload, *counter(config), seed=1)[0].body


def measure(http: httpx.Client, text: bytes, tier: str) -> dict[str, Any]:
    """Seconds by number of replicas, each round one of both."""
    took: dict[int, list[float]] = {1: [], 2: []}
    infer: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(ROUNDS + 1):
        for n in (1, 2):
            asked = text[:-1] + f',"model":"{tier}-{n}"}}'.encode()
            started = time.perf_counter()
            reply = http.post("/v1/rerank", content=asked, headers={"content-type": "application/json"})
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


def main() -> None:
    config = fleet()
    running = launch.start(config, "127.0.0.1", PORT, lambda text: None)
    try:
        with httpx.Client(base_url=running.address, timeout=120) as http:
            found = {
                f"{tier}, {tokens} tokens a pair": measure(http, text, tier)
                for tokens in TOKENS
                for text in [body(config, tokens)]
                for tier in TIERS
            }
    finally:
        launch.stop()
    figures = {"documents": DOCUMENTS, "rounds": ROUNDS, "processor": cpu_name(), "cores": 2} | found
    figures["date"] = date.today().isoformat()
    OUT.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
