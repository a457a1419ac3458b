"""Simulate every routing policy on every load, with five seeds, or those of `--seeds`.

    python -m benchmarks.routing_goals --traces FOLDER

Writes benchmarks/results/routing_goals.json after each run and keeps the runs that are there. FOLDER holds
azure_llm_conv_2023.csv and azure_llm_code_2023.csv, counts per second of the Azure LLM inference traces 2023 (CC BY
4.0; Patel et al., Splitwise, ISCA 2024; github.com/Azure/AzurePublicDataset).
"""

import argparse
import itertools
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.paths import ROOT, result_file

from rankfleet.bench.results import measured, read_results, write_results
from rankfleet.core.config import FleetConfig
from rankfleet.core.fleet_file import read_config
from rankfleet.estimates.profile import read_profile
from rankfleet.simulate.oracle import upper_bound
from rankfleet.simulate.policies import policy_of
from rankfleet.simulate.results import results
from rankfleet.simulate.run import Simulation
from rankfleet.simulate.traces import from_process, from_trace, read_counts
from rankfleet.simulate.workload import Requests, Workload, draw, read_workload

RESULTS = result_file("routing_goals")
RATE = 60.0  # requests/s, to which traces are scaled
SEEDS = (1, 2, 3, 4, 5)
LOADS = ("cv4", "cv8", "conv", "code")  # gamma arrivals with a coefficient of variation of 4 and 8; two Azure traces
STATICS = tuple(f"static:{tier}" for tier in ("17m", "32m", "68m", "150m", "400m", "1b"))
TABLES = tuple(f"table:{share}" for share in ("0.125", "0.25", "0.5"))
POLICIES = ("slo", *STATICS, *TABLES, "slackfit", "oracle")
KEPT = ("requests", "attainment", "mean_quality", "gpu_seconds", "refused", "given_up", "late", "tiers")


def requests_of(load: str, workload: Workload, traces: Path, seed: int) -> Requests:
    rng = np.random.default_rng(seed)
    if load.startswith("cv"):
        arrived_s = from_process(f"gamma:rate={RATE:g},cv={load[2:]}", workload.seconds, rng)
    else:
        path = traces / f"azure_llm_{load}_2023.csv"
        arrived_s = from_trace(path, RATE / float(read_counts(path).mean()), rng)
    return draw(workload, arrived_s, rng)


def run(traces: Path, policies: list[str], seeds: list[int]) -> None:
    """Every run that the results do not hold yet, as many at a time as there are cores. Results of other settings are
    dropped."""
    fleet = read_config(ROOT / "configs/sim-fleet.yaml")
    settings = {"routing": fleet.routing.model_dump(), "fleet": "configs/sim-fleet.yaml", "rate": RATE}
    stored = read_results(RESULTS) if RESULTS.exists() else {}
    runs: dict[str, Any] = stored.get("runs", {}) if stored.get("settings") == settings else {}
    with ProcessPoolExecutor() as pool:
        waiting = {
            pool.submit(run_one, fleet, policy, load, traces, seed): f"{load} {policy} {seed}"
            for policy, load, seed in itertools.product(policies, LOADS, seeds)
            if f"{load} {policy} {seed}" not in runs
        }
        for done in as_completed(waiting):
            figures, key = done.result(), waiting[done]
            about = measured()
            runs[key] = {name: figures[name] for name in KEPT if name in figures} | {"date": about["date"]}
            write_results(RESULTS, {"settings": settings, "runs": runs}, about)
            print(f"{key}: {figures['attainment']:.2%} {figures['mean_quality']:.4f}", file=sys.stderr)


def run_one(fleet: FleetConfig, policy: str, load: str, traces: Path, seed: int) -> dict[str, Any]:
    """Figures of one simulation; `oracle` is the bound."""
    models, workload = read_profile(str(fleet.profile)), read_workload(ROOT / "configs/workloads/mixed.yaml")
    requests = requests_of(load, workload, traces, seed)
    if policy == "oracle":
        return upper_bound(fleet, models, workload, requests)
    simulation = Simulation(fleet, models, workload, policy_of(policy, fleet, models), seed)
    return results(simulation.run(requests), requests, fleet, workload)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, required=True, help="folder of the Azure traces")
    parser.add_argument("--policies", nargs="*", default=list(POLICIES))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    options = parser.parse_args()
    run(options.traces, options.policies, options.seeds)
