"""Measure how long the router takes to plan a request: six tiers, 1,000 candidates, on one core.

    python -m benchmarks.plan_time      writes benchmarks/results/plan_time.json

Three kinds of requests: calm (the best tier fits), bursts (requests come in bursts, and others wait) and infeasible (no
plan for all candidates fits, so that the planner also tries fewer tokens and candidates). Writing the reason is
included, tokenizing is not. Times are CPU time, so that other work on the machine does not count.
"""

import gc
import time

import numpy as np
from benchmarks.paths import ROOT, result_file

from rankfleet.bench.results import measured, write_results
from rankfleet.core.fleet_file import read_config
from rankfleet.estimates.lengths import Lengths
from rankfleet.estimates.profile import read_profile
from rankfleet.router.fleet import FleetView
from rankfleet.router.ledger import Ledger
from rankfleet.router.plan_options import PlanRequest
from rankfleet.router.planner import plan
from rankfleet.router.replica_record import Entry

# budget, ms; work already sent to each replica, s; time between requests, s
CASES = {"calm": (10_000.0, 0.0, 1.0), "bursts": (1_500.0, 0.1, 0.002), "infeasible": (30.0, 0.0, 0.002)}
DECISIONS = 5000


def measure(budget_ms: float, sent_s: float, gap_s: float) -> np.ndarray:
    """Microseconds of each decision. sent_s: work already sent to each replica; gap_s: between requests."""
    fleet = read_config(ROOT / "configs/sim-fleet.yaml")
    ledger = Ledger()
    view = FleetView(fleet, {"gpu": ledger})
    view.update_latency(read_profile(str(fleet.profile)))
    tokens = np.random.default_rng(1).integers(20, 300, 1000).astype(np.int32)
    for _ in range(40):
        ledger.open(Entry(sent_s * 4e3 / 40, deadline_s=0.0, sent_s=0.0), 0.0)
    took_us = np.empty(DECISIONS)
    gc.disable()
    for i in range(DECISIONS):
        now_s = i * gap_s
        started = time.thread_time_ns()
        lengths = dict.fromkeys(fleet.tiers, Lengths(tokens))
        work = {tier: each.work for tier, each in lengths.items()}
        view.request_arrived(budget_ms, int(tokens.sum()), now_s)
        plan(PlanRequest(work, now_s, budget_ms, lengths=lengths), view.snapshot(now_s), now_s)
        took_us[i] = (time.thread_time_ns() - started) / 1e3
    gc.enable()
    return took_us


def main() -> None:
    result = {}
    for name, case in CASES.items():
        took = measure(*case)
        result[name] = {f"p{q}_us": round(float(np.percentile(took, q)), 1) for q in (50, 99)}
        print(name, result[name])
    write_results(result_file("plan_time"), result, measured())


if __name__ == "__main__":
    main()
