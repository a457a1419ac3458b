"""Compare a live fleet with the simulator: the same requests, one replica of the demo tiers, two cores.

    python -m benchmarks.live_simulated run      writes benchmarks/results/live_simulated.json

Clients, proxy, router and the rest of Ray share core 0, and the replica has core 1. `rankfleet profile` measures the
device and the cost of requests right before. Each process of arrivals sends requests in several runs with seeds of
their own. The intervals of the differences are those of a bootstrap over blocks of time (`rankfleet.bench.intervals`),
of what became of each request live minus what became of it in the simulation.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from benchmarks.paths import ROOT, result_file

from rankfleet.bench.intervals import block_interval
from rankfleet.bench.local_cluster import running_replicas
from rankfleet.bench.results import measured, read_results, write_results
from rankfleet.bench.serve import cost_at, load_summary, simulated, under_load
from rankfleet.bench.traffic import Reply
from rankfleet.cluster import launch
from rankfleet.cluster.environment import free_port
from rankfleet.cluster.serve_config import ROUTER
from rankfleet.core.config import FleetConfig
from rankfleet.core.fleet_file import parse_config
from rankfleet.estimates.profile import read_profile
from rankfleet.simulate.inputs import requests_for, workload_named
from rankfleet.simulate.results import results
from rankfleet.simulate.run import IN_TIME, Outcome
from rankfleet.simulate.workload import Requests, Workload

CONFIG = ROOT / "benchmarks/one_replica.yaml"
WORKLOAD = "demo"
PROCESSES = {"poisson": "poisson:rate=10", "gamma": "gamma:rate=10,cv=2"}
SEEDS = (1, 2, 3)
SECONDS = 110.0  # of each run, so that a process has at least 3,000 requests
WARM_UP_S, WARM_UP_SEED = 20.0, 9
BLOCK_S = 10.0
ROUTER_CORE, REPLICA_CORE = 0, 1


def profiled(folder: Path) -> FleetConfig:
    """The fleet, with a profile that is measured now, on the replica's core."""
    path = folder / "profile.json"
    command = [str(Path(sys.executable).with_name("rankfleet")), "profile", "--config", str(CONFIG)]
    pin = partial(os.sched_setaffinity, 0, {REPLICA_CORE})
    subprocess.run([*command, "--json", str(path)], check=True, preexec_fn=pin)
    return parse_config(yaml.safe_load(CONFIG.read_text(encoding="utf-8")) | {"profile": str(path)})


def pin_replicas() -> None:
    """Move all threads of the groups' replicas to their core; everything else has been started on the router's."""
    for replica in running_replicas():
        if replica.deployment != ROUTER:
            for thread in Path(f"/proc/{replica.pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {REPLICA_CORE})


def in_both(
    replies: Sequence[Reply], outcome: Outcome, requests: Requests, retriever: float
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Per request, live and simulated: whether it was answered in time, and the quality that it counts with."""
    met = np.array([reply.in_time for reply in replies]), outcome.state == IN_TIME
    quality = np.array([reply.quality for reply in replies]), outcome.quality
    counted = tuple(np.where(was_met, got, retriever) for was_met, got in zip(met, quality, strict=True))
    return {"attainment": (met[0].astype(float), met[1].astype(float)), "mean_quality": (counted[0], counted[1])}


def compared(runs: Sequence[dict[str, tuple[np.ndarray, np.ndarray]]], blocks: Sequence[np.ndarray]) -> dict[str, Any]:
    """Means of all runs, live and simulated, and the interval of the difference. blocks: of each run's requests."""
    numbered = np.concatenate([number * 1_000_000 + each for number, each in enumerate(blocks)])
    figures: dict[str, Any] = {"requests": len(numbered), "blocks": len(np.unique(numbered))}
    for key in runs[0]:
        live, simulation = (np.concatenate([run[key][side] for run in runs]) for side in (0, 1))
        interval = block_interval(live - simulation, numbered)
        figures[key] = {
            "live": round(float(live.mean()), 5),
            "simulated": round(float(simulation.mean()), 5),
            "difference": round(float((live - simulation).mean()), 5),
            "interval": [round(end, 5) for end in interval],
        }
    return figures


def run_process(url: str, fleet: FleetConfig, workload: Workload, arrivals: str, seconds: float) -> dict[str, Any]:
    """One process of arrivals: every run live, then simulated."""
    profile, retriever = Path(str(fleet.profile)), fleet.quality.retriever
    under_load(url, fleet, workload, requests_for(workload, None, 1.0, arrivals, WARM_UP_S, WARM_UP_SEED), WARM_UP_SEED)
    cost = cost_at(url, fleet, profile, WARM_UP_SEED)
    runs, blocks, each = [], [], []
    for seed in SEEDS:
        requests = requests_for(workload, None, 1.0, arrivals, seconds, seed)
        replies = under_load(url, fleet, workload, requests, seed)
        outcome = simulated(fleet, read_profile(profile), cost, workload, requests, seed)
        runs.append(in_both(replies, outcome, requests, retriever))
        blocks.append((requests.arrived_s // BLOCK_S).astype(np.int64))
        simulation = results(outcome, requests, fleet, workload)
        del simulation["over_time"]
        live = load_summary(replies, list(workload.classes), retriever)
        each.append({"seed": seed, "live": live, "simulated": simulation})
    measured_before = {key: read_results(profile)[key] for key in ("request", "tiers")} | {"hop_ms": cost.hop_ms}
    return {"arrivals": arrivals, "profile": measured_before, **compared(runs, blocks), "runs": each}


def run(processes: Sequence[str], seconds: float, path: Path) -> None:
    os.sched_setaffinity(0, {ROUTER_CORE, REPLICA_CORE})
    with tempfile.TemporaryDirectory() as folder:
        fleet, workload = profiled(Path(folder)), workload_named(WORKLOAD)
        os.sched_setaffinity(0, {ROUTER_CORE})
        try:
            url = launch.start(fleet, "127.0.0.1", free_port(), lambda text: None).address
            pin_replicas()
            settings = {"seconds": seconds, "seeds": list(SEEDS), "block_s": BLOCK_S, "workload": WORKLOAD}
            for name in processes:
                figures = run_process(url, fleet, workload, PROCESSES[name], seconds)
                print(name, {key: value for key, value in figures.items() if key != "runs"}, flush=True)
                write_results(path, settings | {name: figures}, measured(packages=("aiohttp",)), merge=True)
        finally:
            launch.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("run",))
    parser.add_argument("--process", choices=tuple(PROCESSES), help="one alone; the results of the other stay")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each run")
    parser.add_argument("--json", type=Path, default=result_file("live_simulated"))
    options = parser.parse_args()
    run([options.process] if options.process else list(PROCESSES), options.seconds, options.json)
