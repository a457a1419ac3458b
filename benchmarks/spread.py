"""A large request on two equal replicas and on one, in turn, over HTTP.

    python benchmarks/spread.py run      benchmarks/results/spread.json
    python benchmarks/spread.py table    the table of docs/batching.md

A fleet with two groups that host the same tiers: one has a single replica, the other two, each with one thread. The
time is the client's, from sending to the whole reply. Then the same with the choice of replicas that Serve makes by
itself.
"""

import argparse
import json
import statistics
import time
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from rankfleet.bench.machine import cpu_name
from rankfleet.bench.serve import counter
from rankfleet.bench.traffic import calls
from rankfleet.cluster import deploy, launch
from rankfleet.cluster.serve_config import serve_config
from rankfleet.core.config import FleetConfig, parse_config
from rankfleet.simulate.workload import Candidates, RequestClass, Requests, Workload

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/spread.json"
PAGE, MARK = ROOT / "docs/batching.md", "<!-- figures: benchmarks/spread.py table -->"
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


def found(config: FleetConfig, port: int) -> dict[str, Any]:
    """Start a fleet, measure, end it."""
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
    """The fleet with Serve's own request router."""
    whole = serve_config(config)
    own = {"request_router_class": SERVES_OWN}
    whole["applications"][0]["deployments"] += [{"name": name, "request_router_config": own} for name in config.groups]
    return whole


def run() -> None:
    figures: dict[str, Any] = {"documents": DOCUMENTS, "rounds": ROUNDS, "processor": cpu_name()}
    for name, port in PORTS.items():
        if name == "placed by Serve":
            deploy.serve_config = placed_by_serve  # type: ignore[assignment]
        figures[name] = found(fleet(), port)
        print(json.dumps(figures[name]), flush=True)
    RESULTS.write_text(json.dumps(figures | {"date": date.today().isoformat()}, indent=1) + "\n")


def table() -> str:
    figures = json.loads(RESULTS.read_text())
    lines = [
        "| tier, tokens a pair | one replica, ms | two, ms | ratio | ratio with Serve's own choice |",
        "|---|---|---|---|---|",
    ]
    for case, row in figures["placed by work"].items():
        own = figures["placed by Serve"][case]["ratio"]
        lines.append(f"| {case} | {row['one_ms']:.0f} | {row['two_ms']:.0f} | {row['ratio']:.2f} | {own:.2f} |")
    return "\n".join(lines)


def write_table() -> None:
    before, _, rest = PAGE.read_text().partition(MARK)
    _, _, after = rest.partition(MARK)
    PAGE.write_text(f"{before}{MARK}\n\n{table()}\n\n{MARK}{after}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("run", "table"))
    run() if parser.parse_args().verb == "run" else write_table()
