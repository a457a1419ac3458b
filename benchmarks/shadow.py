"""Whether a shadow arm costs those who wait for an answer anything.

    python -m benchmarks.shadow      writes benchmarks/results/shadow.json

The demo fleet under a Poisson load, in turn with a shadow arm for every request and without, by `rankfleet apply`. Two
loads: a fleet that has time left, and one at nearly all that it can do.
"""

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from benchmarks.paths import ROOT, result_file
from benchmarks.server_process import RANKFLEET, serving

from rankfleet.bench.results import measured, write_results
from rankfleet.bench.serve import token_counter, under_load
from rankfleet.bench.traffic import calls, closed_loop
from rankfleet.cluster.environment import free_port
from rankfleet.core.config import FleetConfig
from rankfleet.core.fleet_file import read_config
from rankfleet.experiments.store import open_store
from rankfleet.simulate.traces import from_process
from rankfleet.simulate.workload import Candidates, RequestClass, Requests, Workload, draw

LOADS = {"half": 0.5, "full": 0.9}  # of what eight clients without pause get through
ROUNDS, SECONDS, PROBED_S = 5, 12.0, 6.0
BUDGET_MS, DOCUMENTS, TOKENS = 100.0, 20, 64
STUDENT_95 = 2.776  # 97.5% quantile of Student's t with ROUNDS − 1 degrees of freedom
SHADOW = {"mode": "shadow", "unit": "query", "arms": {"large": {"weight": 1, "model": "large"}}}


def fleet_files(folder: Path) -> dict[bool, Path]:
    """The fleet without a shadow arm, and with one."""
    settings = yaml.safe_load((ROOT / "configs/demo.yaml").read_text(encoding="utf-8"))
    settings["groups"]["demo"]["replicas"] = {"min": 1, "max": 1}
    settings["events"] = {"folder": str(folder / "events")}
    files = {}
    for shadowed in (False, True):
        files[shadowed] = folder / f"{'with' if shadowed else 'without'}.yaml"
        changed = settings | ({"experiments": {"larger": SHADOW}} if shadowed else {})
        files[shadowed].write_text(yaml.safe_dump(changed, sort_keys=False), encoding="utf-8")
    return files


def workload(budget_ms: float) -> Workload:
    return Workload(
        classes={"any": RequestClass(slo_ms=budget_ms, share=1)},
        candidates=[Candidates(count=DOCUMENTS, share=1)],
        tokens=TOKENS,
    )


def capacity(url: str, fleet: FleetConfig) -> float:
    """Requests per second that eight clients get, with budgets."""
    many = Requests(np.zeros(64), np.zeros(64, int), np.full(64, DOCUMENTS))
    planned = calls(many, workload(BUDGET_MS), *token_counter(fleet), 1)
    asyncio.run(closed_loop(url, planned, 8, PROBED_S))  # a warm fleet
    return len(asyncio.run(closed_loop(url, planned, 8, PROBED_S))) / PROBED_S


def one_round(url: str, fleet: FleetConfig, rate: float, seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    kind = workload(BUDGET_MS)
    requests = draw(kind, from_process(f"poisson:rate={rate:g}", SECONDS, rng), rng)
    replies = under_load(url, fleet, kind, requests, seed)
    met = [reply.in_time for reply in replies]
    return {"requests": len(met), "met": float(np.mean(met)), "p50_ms": float(np.median([r.took_ms for r in replies]))}


def run() -> dict[str, Any]:
    port, found = free_port(), {}
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = fleet_files(folder)
        fleet = read_config(files[False])
        with serving([*RANKFLEET, "serve", "--config", str(files[False]), "--port", str(port)], folder):
            most = capacity(url, fleet)
            for load, share in LOADS.items():
                rounds: dict[bool, list[dict[str, float]]] = {False: [], True: []}
                before = compared(folder)
                for turn in range(ROUNDS):
                    for shadowed in (False, True) if turn % 2 == 0 else (True, False):
                        apply = [*RANKFLEET, "apply", str(files[shadowed]), "--port", str(port)]
                        subprocess.run(apply, check=True, capture_output=True)
                        rounds[shadowed].append(one_round(url, fleet, share * most, turn))
                        print(load, shadowed, rounds[shadowed][-1], file=sys.stderr, flush=True)
                time.sleep(2.0)  # until the last comparisons are written
                found[load] = summary(rounds, share * most, compared(folder) - before)
    settings = {"rounds": ROUNDS, "seconds": SECONDS, "budget_ms": BUDGET_MS, "documents": DOCUMENTS, "tokens": TOKENS}
    return {"settings": settings, "capacity_per_s": most, "loads": found}


def compared(folder: Path) -> int:
    """How many comparisons were written."""
    if not (folder / "events").exists():
        return 0
    (count,) = open_store(str(folder / "events")).execute("SELECT count(*) FROM shadows").fetchone() or (0,)
    return int(count)


def summary(rounds: dict[bool, list[dict[str, float]]], rate: float, compared: int) -> dict[str, Any]:
    """The difference of attainment between the rounds of one turn, which have the same requests, with its interval."""
    less = [after["met"] - before["met"] for before, after in zip(rounds[False], rounds[True], strict=True)]
    width = STUDENT_95 * statistics.stdev(less) / ROUNDS**0.5
    mean = statistics.mean(less)
    return {
        "requests_per_s": rate,
        "requests": sum(int(each["requests"]) for each in rounds[True]),
        "compared": compared,
        "met_without": statistics.mean(each["met"] for each in rounds[False]),
        "met_with": statistics.mean(each["met"] for each in rounds[True]),
        "difference": mean,
        "interval": [mean - width, mean + width],
        "p50_ms_without": statistics.median(each["p50_ms"] for each in rounds[False]),
        "p50_ms_with": statistics.median(each["p50_ms"] for each in rounds[True]),
        "by_round": {"without": rounds[False], "with": rounds[True]},
    }


if __name__ == "__main__":
    write_results(result_file("shadow"), run(), measured())
