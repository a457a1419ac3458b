"""Measure what a logged decision takes: bytes of its line, and CPU time to make and write it.

    python -m benchmarks.decision_log      writes benchmarks/results/decision_log.json

Six tiers, 20 chunks in flight. Times are CPU time of one thread, so that other work on the machine does not count.
"""

import tempfile
import time

import numpy as np
from benchmarks.paths import ROOT, result_file

from rankfleet.bench.results import measured, write_results
from rankfleet.cluster.decision_file import DecisionFile
from rankfleet.core.fleet_file import read_config
from rankfleet.core.sections import DecisionLog
from rankfleet.estimates.lengths import Lengths
from rankfleet.estimates.profile import read_profile
from rankfleet.router.decision_log import line_of
from rankfleet.router.fleet import FleetView
from rankfleet.router.ledger import Ledger
from rankfleet.router.plan_options import PlanRequest
from rankfleet.router.planner import plan
from rankfleet.router.replica_record import Entry

CANDIDATES = (100, 1000)
CHUNKS = 20
REQUEST_ID = "0123456789abcdef0123456789abcdef"
DECISIONS = 2000


def measure(candidates: int, folder: str) -> dict[str, float]:
    """Bytes of a line, and microseconds that it takes."""
    fleet = read_config(ROOT / "configs/sim-fleet.yaml")
    ledgers = {name: Ledger() for name in fleet.groups}
    view = FleetView(fleet, ledgers)
    view.update_latency(read_profile(str(fleet.profile)))
    for ledger in ledgers.values():
        for i in range(CHUNKS):
            ledger.open(Entry(12.3456789 * i, deadline_s=0.1 * i, sent_s=0.0), 0.0)
    tokens = np.random.default_rng(1).integers(20, 300, candidates)
    lengths = dict.fromkeys(fleet.tiers, Lengths(tokens))
    request = PlanRequest({tier: each.work for tier, each in lengths.items()}, 0.0, 500.0, lengths=lengths)
    snapshot = view.snapshot(0.001)
    decision = (request, snapshot, 0.001, plan(request, snapshot, 0.001))
    file = DecisionFile(f"decisions-{candidates}")
    file.adjust(DecisionLog(folder=folder, share=1.0))
    took_us = np.empty(DECISIONS)
    for i in range(DECISIONS):
        started = time.thread_time_ns()
        file.write(REQUEST_ID, *decision)
        took_us[i] = (time.thread_time_ns() - started) / 1e3
    file.adjust(DecisionLog())
    return {
        "line_bytes": len(line_of(REQUEST_ID, *decision)) + 1,
        **{f"p{q}_us": round(float(np.percentile(took_us, q)), 1) for q in (50, 99)},
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        result = {str(candidates): measure(candidates, folder) for candidates in CANDIDATES}
    print(result)
    write_results(result_file("decision_log"), result, measured())


if __name__ == "__main__":
    main()
