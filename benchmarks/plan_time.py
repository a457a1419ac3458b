"""How long the router takes to decide: six tiers, 1,000 candidates, on one core.

    python benchmarks/plan_time.py      writes benchmarks/results/plan_time.json

Three kinds of requests: calm (the best tier fits), crowded (arrivals in bursts, others wait) and hopeless (nothing
whole fits, so that cuts of tokens and candidates are looked at as well). The words of the explanation are included;
tokenizing is not. CPU time, so that others on the machine do not count.
"""

import datetime
import gc
import json
import platform
import time
from pathlib import Path

import numpy as np

from rankfleet.bench.machine import cpu_name
from rankfleet.core.config import read_config
from rankfleet.estimates.lengths import Lengths
from rankfleet.estimates.profile import read_profile
from rankfleet.router.fleet import FleetView
from rankfleet.router.plan_options import PlanRequest
from rankfleet.router.planner import plan

ROOT = Path(__file__).parents[1]
CASES = {"calm": (10_000.0, 0.0, 1.0), "crowded": (1_500.0, 0.1, 0.002), "hopeless": (30.0, 0.0, 0.002)}
DECISIONS = 5000


def measure(budget_ms: float, out_s: float, gap_s: float) -> np.ndarray:
    """Microseconds of each decision. out_s: work already out at each replica; gap_s: between requests."""
    fleet = read_config(ROOT / "configs/sim-fleet.yaml")
    view = FleetView(fleet)
    view.update_latency(read_profile(str(fleet.profile)))
    tokens = np.random.default_rng(1).integers(20, 300, 1000).astype(np.int32)
    for _ in range(40):
        view.chunk_sent("gpu", out_s * 4e3 / 40, 0.0, 0.0)
    took_us = np.empty(DECISIONS)
    gc.disable()
    for i in range(DECISIONS):
        now_s = i * gap_s
        started = time.thread_time_ns()
        lengths = dict.fromkeys(fleet.tiers, Lengths(tokens))
        work = {tier: each.work for tier, each in lengths.items()}
        view.request_arrived(budget_ms, now_s)
        plan(
            PlanRequest(work, now_s, budget_ms, lengths=lengths),
            view.snapshot(now_s, now_s + budget_ms / 1e3, 1.0),
            now_s,
        )
        took_us[i] = (time.thread_time_ns() - started) / 1e3
    gc.enable()
    return took_us


def main() -> None:
    result: dict[str, object] = {
        "cpu": cpu_name(),
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
    }
    for name, case in CASES.items():
        took = measure(*case)
        result[name] = {f"p{q}_us": round(float(np.percentile(took, q)), 1) for q in (50, 99)}
        print(name, result[name])
    path = ROOT / "benchmarks/results/plan_time.json"
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
