"""Simulate the autoscaler: this policy, Ray Serve's default one, and a scaler that knows the arrivals.

    python -m benchmarks.autoscaling --traces FOLDER

Writes benchmarks/results/autoscaling.json after each run and keeps the runs that are there. FOLDER holds
azure_llm_conv_2023.csv and azure_llm_code_2023.csv, counts per second of the Azure LLM inference traces 2023 (CC BY
4.0; Patel et al., Splitwise, ISCA 2024; github.com/Azure/AzurePublicDataset).
"""

import argparse
import itertools
import multiprocessing
import sys
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.paths import ROOT, result_file

from rankfleet.bench.results import measured, read_results, write_results
from rankfleet.core.config import FleetConfig
from rankfleet.core.fleet_file import parse_config, read_config
from rankfleet.core.work import Work
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.profile import read_profile
from rankfleet.router.fleet import FleetView
from rankfleet.router.ledger import Ledger
from rankfleet.router.plan_options import PlanRequest
from rankfleet.router.planner import choose
from rankfleet.router.unloaded import unloaded_plan
from rankfleet.simulate.clairvoyant import schedule
from rankfleet.simulate.policies import policy_of
from rankfleet.simulate.results import results
from rankfleet.simulate.run import Simulation
from rankfleet.simulate.scaling import TICK_S, NeedScaler, OngoingRequestsScaler, Scaler, ScheduleScaler
from rankfleet.simulate.traces import from_process, from_trace, read_counts
from rankfleet.simulate.workload import Requests, Workload, draw, read_workload

RESULTS = result_file("autoscaling")
RATE = 60.0  # requests/s, to which traces are scaled
START_S = 20.0  # until a new replica scores
MAX_REPLICAS = 16
INTERVAL_S = 5.0  # of the means by which arrivals are stored, for the picture
SEED = 1
STEP_S, STEADY_S = 300.0, 1800.0
LOADS = ("conv", "code", "step", "steady")  # two Azure traces, a fourfold step, a steady Poisson process
TARGETS = (1.0, 2.0, 4.0, 8.0)  # ongoing requests per replica; Ray's default is 2
WINDOWS_S = (320.0, 80.0, 5.0)
BISECTIONS = 5  # of the utilisation, from 0.3 to 3
SAME_ATTAINMENT, SAME_QUALITY = 0.0005, 0.0003  # runs that differ by less count as equal


def fleet(**autoscaling: Any) -> FleetConfig:
    """One group of all tiers, 1 to MAX_REPLICAS replicas."""
    config = read_config(ROOT / "configs/sim-fleet.yaml").model_dump(mode="json")
    config["groups"]["gpu"]["replicas"] = {"min": 1, "max": MAX_REPLICAS}
    return parse_config(config | {"autoscaling": autoscaling})


def requests_of(load: str, workload: Workload, traces: Path | None) -> Requests:
    rng = np.random.default_rng(SEED)
    if load == "steady":
        arrived_s = from_process(f"poisson:rate={RATE:g}", STEADY_S, rng)
    elif load == "step":
        before = from_process(f"poisson:rate={RATE / 4:g}", STEP_S, rng)
        arrived_s = np.concatenate([before, STEP_S + from_process(f"poisson:rate={RATE:g}", STEP_S, rng)])
    else:
        assert traces is not None, "traces need --traces FOLDER"
        path = traces / f"azure_llm_{load}_2023.csv"
        arrived_s = from_trace(path, RATE / float(read_counts(path).mean()), rng)
    return draw(workload, arrived_s, rng)


class ScalingBench:
    """One load, which any scaler may serve."""

    def __init__(self, load: str, traces: Path | None) -> None:
        self.workload = read_workload(ROOT / "configs/workloads/mixed.yaml")
        self.requests = requests_of(load, self.workload, traces)
        self.fleet = fleet()
        self.models: dict[str, LatencyModel] = read_profile(str(self.fleet.profile))
        self.budgets_ms = [each.slo_ms for each in self.workload.classes.values() if each.slo_ms is not None]

    def run(self, scaler: Scaler) -> dict[str, Any]:
        policy = policy_of("slo", self.fleet, self.models)
        simulation = Simulation(self.fleet, self.models, self.workload, policy, SEED, scaler, START_S)
        outcome = simulation.run(self.requests)
        figures = results(outcome, self.requests, self.fleet, self.workload)
        kept = {name: figures[name] for name in ("requests", "attainment", "mean_quality", "p99_ms")}
        kept["gpu_hours"] = round(figures["replica_seconds"] / 3600, 3)
        targets = [target for _, target, _ in outcome.replicas]
        kept["reversals"] = reversals(targets)
        kept["replicas"] = [[round(t, 1), target, ready] for t, target, ready in outcome.replicas]
        return kept

    def need(self) -> dict[str, Any]:
        scaler = NeedScaler(self.fleet, self.models, self.budgets_ms)
        figures = self.run(scaler)
        figures["decisions"] = len(scaler.decisions)
        figures["first_reasons"] = [
            f"{at:.1f} s: {decision.reason}" for at, all_of in scaler.decisions[:6] for decision in all_of.values()
        ]
        return figures

    def work_s(self) -> np.ndarray:
        """Seconds of work, at the tiers of an unloaded plan, that arrive in each tick."""
        view = FleetView(self.fleet, {name: Ledger() for name in self.fleet.groups})
        view.update_latency(self.models)
        snapshot = view.snapshot(0.0)
        classes = list(self.workload.classes.values())
        cost: dict[tuple[int, int], float] = {}
        for kind, pairs in itertools.product(range(len(classes)), {int(n) for n in np.unique(self.requests.pairs)}):
            tokens = pairs * self.workload.tokens
            work = dict.fromkeys(self.fleet.tiers, Work(pairs, tokens, tokens * self.workload.tokens))
            ask = PlanRequest(work, 0.0, classes[kind].slo_ms, when_none_fits="refuse")
            ideal = unloaded_plan(choose(ask, snapshot, 0.0).found, ask, snapshot, 0.0)
            cost[kind, pairs] = sum(ms for _, ms in ideal.work_ms) / 1e3 if ideal else 0.0
        each = [cost[k, n] for k, n in zip(self.requests.kind.tolist(), self.requests.pairs.tolist(), strict=True)]
        ticks = (self.requests.arrived_s / TICK_S).astype(int)
        return np.bincount(ticks, weights=each, minlength=int(ticks[-1]) + 2)

    def cheapest(self, window_s: float, goal: dict[str, Any]) -> dict[str, Any] | None:
        """The run with the highest utilisation that reaches the goal's attainment and quality, by bisection."""
        work_s, best = self.work_s(), None
        low, high = 0.3, 3.0
        for _ in range(BISECTIONS):
            middle = (low * high) ** 0.5
            figures = self.run(ScheduleScaler("gpu", schedule(work_s, window_s, middle, START_S, 1, MAX_REPLICAS)))
            if (
                figures["attainment"] >= goal["attainment"] - SAME_ATTAINMENT
                and figures["mean_quality"] >= goal["mean_quality"] - SAME_QUALITY
            ):
                low, best = middle, figures | {"window_s": window_s, "utilisation": round(middle, 3)}
            else:
                high = middle
        return best


def search_one(given: tuple[str, Path | None, float, dict[str, Any]]) -> tuple[float, dict[str, Any] | None]:
    """Search one window of the scaler that knows the arrivals, in a process of its own."""
    load, traces, window_s, goal = given
    return window_s, ScalingBench(load, traces).cheapest(window_s, goal)


def arrival_rates(requests: Requests) -> dict[str, Any]:
    """Requests per second over time, as the picture shows them."""
    counts = np.bincount((requests.arrived_s // INTERVAL_S).astype(int))
    return {"interval_s": INTERVAL_S, "requests_per_s": (counts / INTERVAL_S).round(1).tolist()}


def reversals(targets: list[int]) -> int:
    """How often growth was followed by shrinking, or the other way round."""
    steps = [b - a for a, b in itertools.pairwise(targets) if a != b]
    return sum(a * b < 0 for a, b in itertools.pairwise(steps))


def run(traces: Path | None, loads: list[str]) -> None:
    """Every run that the results do not hold yet. Results of other settings are dropped."""
    settings = {"autoscaling": fleet().autoscaling.model_dump(mode="json"), "rate": RATE, "start_s": START_S}
    stored = read_results(RESULTS) if RESULTS.exists() else {}
    runs: dict[str, Any] = stored.get("runs", {}) if stored.get("settings") == settings else {}
    arrivals: dict[str, Any] = stored.get("arrivals", {}) if runs else {}
    searched: dict[str, Any] = stored.get("searched", {}) if runs else {}

    def store() -> None:
        figures = {"settings": settings, "runs": runs, "arrivals": arrivals}
        write_results(RESULTS, figures | ({"searched": searched} if searched else {}), measured())

    def keep(load: str, name: str, figures: dict[str, Any]) -> dict[str, Any]:
        runs.setdefault(load, {})[name] = figures
        store()
        shown = {k: v for k, v in figures.items() if k not in ("replicas", "first_reasons")}
        print(load, name, shown, file=sys.stderr)
        return figures

    for load in loads:
        done = runs.get(load, {})
        bench = ScalingBench(load, traces)
        arrivals[load] = arrival_rates(bench.requests)
        goal = done.get("need") or keep(load, "need", bench.need())
        for target in TARGETS:
            if f"ray:{target:g}" not in done:
                keep(load, f"ray:{target:g}", bench.run(OngoingRequestsScaler({"gpu": (1, MAX_REPLICAS)}, target)))
        if load in ("conv", "code") and "clairvoyant" not in done:
            tried = searched.setdefault(load, {})
            left = [(load, traces, window_s, goal) for window_s in WINDOWS_S if f"{window_s:g}" not in tried]
            with multiprocessing.Pool(2) as pool:
                for window_s, figures in pool.imap_unordered(search_one, left):
                    tried[f"{window_s:g}"] = figures
                    print(load, window_s, figures and figures["gpu_hours"], file=sys.stderr)
                    store()
            found = [figures for figures in tried.values() if figures is not None]
            del searched[load]
            keep(load, "clairvoyant", min(found, key=lambda figures: figures["gpu_hours"]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, help="folder of the Azure traces")
    parser.add_argument("--loads", nargs="*", default=list(LOADS))
    options = parser.parse_args()
    run(options.traces, options.loads)
