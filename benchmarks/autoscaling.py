"""The autoscaler's goals, simulated: this policy, Ray Serve's default one, and a scaler that knows the future.

    python benchmarks/autoscaling.py run --traces FOLDER      results after each load; what is there is kept
    python benchmarks/autoscaling.py table                    the tables of docs/autoscaling.md
    python benchmarks/autoscaling.py plot                     docs/autoscaling.png

FOLDER holds azure_llm_conv_2023.csv and azure_llm_code_2023.csv, counts per second of the Azure LLM inference traces
2023 (CC BY 4.0; Patel et al., Splitwise, ISCA 2024; github.com/Azure/AzurePublicDataset).
"""

import argparse
import itertools
import json
import multiprocessing
import sys
from pathlib import Path
from typing import Any

import numpy as np

from rankfleet.core.config import FleetConfig, parse_config, read_config
from rankfleet.core.messages import Work
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.profile import read_profile
from rankfleet.router.fleet import FleetView
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

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/autoscaling.json"
LIVE = ROOT / "benchmarks/results/autoscaling_live.json"
PAGE, MARK = ROOT / "docs/autoscaling.md", "<!-- figures: benchmarks/autoscaling.py table -->"
RATE = 60.0  # requests/s, to which traces are scaled
START_S = 20.0  # until a new replica scores
MOST = 16
SEED = 1
STEP_S, STEADY_S = 300.0, 1800.0
LOADS = {
    "conv": "Azure conversation",
    "code": "Azure code",
    "step": "a step from 15 to 60 requests/s",
    "steady": "Poisson, 60 requests/s",
}
TARGETS = (1.0, 2.0, 4.0, 8.0)  # ongoing requests per replica; Ray's default is 2
WINDOWS_S = (320.0, 160.0, 80.0, 20.0, 5.0)
HALVINGS = 5  # of the utilisation, from 0.3 to 3
SAME_ATTAINMENT, SAME_QUALITY = 0.0005, 0.0003  # how close two runs are taken to be equal


def fleet(**autoscaling: Any) -> FleetConfig:
    """One group of all tiers, 1 to MOST replicas."""
    config = read_config(ROOT / "configs/sim-fleet.yaml").model_dump(mode="json")
    config["groups"]["gpu"]["replicas"] = {"min": 1, "max": MOST}
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


class Bench:
    """One load, any scaler."""

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
        """Seconds of work at preferred tiers that arrive in each tick."""
        view = FleetView(self.fleet)
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
        """With the highest utilisation that reaches the goal, by halving."""
        work_s, best = self.work_s(), None
        low, high = 0.3, 3.0
        for _ in range(HALVINGS):
            middle = (low * high) ** 0.5
            figures = self.run(ScheduleScaler("gpu", schedule(work_s, window_s, middle, START_S, 1, MOST)))
            if (
                figures["attainment"] >= goal["attainment"] - SAME_ATTAINMENT
                and figures["mean_quality"] >= goal["mean_quality"] - SAME_QUALITY
            ):
                low, best = middle, figures | {"window_s": window_s, "utilisation": round(middle, 3)}
            else:
                high = middle
        return best


def search_one(given: tuple[str, Path | None, float, dict[str, Any]]) -> tuple[float, dict[str, Any] | None]:
    """One window of the scaler that knows the future, in a process of its own."""
    load, traces, window_s, goal = given
    return window_s, Bench(load, traces).cheapest(window_s, goal)


def reversals(targets: list[int]) -> int:
    """How often growing turned into shrinking or the other way round."""
    steps = [b - a for a, b in itertools.pairwise(targets) if a != b]
    return sum(a * b < 0 for a, b in itertools.pairwise(steps))


def run(traces: Path | None, loads: list[str]) -> None:
    settings = {"autoscaling": fleet().autoscaling.model_dump(mode="json"), "rate": RATE, "start_s": START_S}
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    runs: dict[str, Any] = stored.get("runs", {}) if stored.get("settings") == settings else {}

    searched: dict[str, Any] = stored.get("searched", {}) if runs else {}

    def store() -> None:
        RESULTS.write_text(json.dumps({"settings": settings, "runs": runs, "searched": searched}) + "\n")

    def keep(load: str, name: str, figures: dict[str, Any]) -> dict[str, Any]:
        runs.setdefault(load, {})[name] = figures
        store()
        shown = {k: v for k, v in figures.items() if k not in ("replicas", "first_reasons")}
        print(load, name, shown, file=sys.stderr)
        return figures

    for load in loads:
        done = runs.get(load, {})
        bench = Bench(load, traces)
        goal = done.get("need") or keep(load, "need", bench.need())
        for target in TARGETS:
            if f"ray:{target:g}" not in done:
                keep(load, f"ray:{target:g}", bench.run(OngoingRequestsScaler({"gpu": (1, MOST)}, target)))
        if load in ("conv", "code") and "clairvoyant" not in done:
            tried = searched.setdefault(load, {})
            left = [(load, traces, window_s, goal) for window_s in WINDOWS_S if f"{window_s:g}" not in tried]
            with multiprocessing.Pool(2) as pool:
                for window_s, figures in pool.imap_unordered(search_one, left):
                    tried[f"{window_s:g}"] = figures
                    print(load, window_s, figures and figures["gpu_hours"], file=sys.stderr)
                    store()
            found = [figures for figures in tried.values() if figures is not None]
            keep(load, "clairvoyant", min(found, key=lambda figures: figures["gpu_hours"]))
            del searched[load]
            store()


def first_step(runs: dict[str, Any], scaler: str) -> str:
    """Seconds from the step to the first decision to grow."""
    replicas = runs["step"][scaler]["replicas"]
    before = max(target for at, target, _ in replicas if at <= STEP_S)
    at = next((at for at, target, _ in replicas if at > STEP_S and target > before), None)
    return "never" if at is None else f"{at - STEP_S:.1f} s"


def tables(runs: dict[str, Any]) -> str:
    """Markdown: every scaler on every load, then the goals."""
    lines = ["| load | scaler | GPU-hours | in time | mean nDCG@10 | reversals |", "|---|---|---|---|---|---|"]
    for load, name in LOADS.items():
        for scaler, figures in runs[load].items():
            cells = (
                name,
                f"`{scaler}`",
                f"{figures['gpu_hours']:.2f}",
                f"{figures['attainment']:.2%}",
                f"{figures['mean_quality']:.4f}",
                str(figures["reversals"]),
            )
            lines.append(f"| {' | '.join(cells)} |")
            name = ""
    ratios = [
        f"{runs[load]['need']['gpu_hours'] / runs[load]['clairvoyant']['gpu_hours']:.2f}× ({LOADS[load]})"
        for load in ("conv", "code")
        if "clairvoyant" in runs[load]
    ]
    lines += [
        "",
        f"GPU-hours beside those of the scaler that knows the arrivals, at equal attainment and quality: "
        f"{', '.join(ratios)}; the goal is 1.15×. First decision after the fourfold step: `need` "
        f"{first_step(runs, 'need')}, `ray:2` {first_step(runs, 'ray:2')}; the goal is 2 s. Reversals are growing that "
        "turned into shrinking or the other way round; the goal is none under steady Poisson load.",
    ]
    return "\n".join(lines)


def live_table() -> str:
    """Markdown: what benchmarks/autoscaling_live.py has seen."""
    live = json.loads(LIVE.read_text())
    before_s, loaded_s, _ = live["seconds"]
    lines = [
        "Live (`benchmarks/autoscaling_live.py`): demo tiers on a local cluster of two nodes with fake GPUs, "
        f"{live['cpu']}, Python {live['python']}, {live['date']}; 20 or 40 documents of about 64 tokens, "
        f"budgets of 200 and 1,000 ms; a quarter of the load for {before_s:.0f} s, then {loaded_s:.0f} s of about 1.3 "
        "times what one replica can do "
        "at preferred tiers; 1 to 2 replicas. All replicas, the router and the clients share the two "
        "cores, so what a second replica gains is less than on hardware of its own.",
        "",
        "| policy | requests/s | replicas, from | in time | mean nDCG@10 | p99 ms, first half | second half |",
        "|---|---|---|---|---|---|---|",
    ]
    for policy in ("need", "ray"):
        run = live[policy]
        seen = {int(n): at for at, n, _ in reversed(run["replicas"])}
        changes = ", ".join(f"{n} from {at - before_s:+.1f} s" for n, at in sorted(seen.items()) if n > 1) or "1"
        cells = (
            f"`{policy}`",
            f"{run['rate']:g}",
            changes,
            f"{run['attainment']:.2%}",
            f"{run['mean_quality']:.4f}",
            f"{run['first_half']['p99_ms']:.0f}",
            f"{run['second_half']['p99_ms']:.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write_tables() -> None:
    before, _, rest = PAGE.read_text().partition(MARK)
    _, _, after = rest.partition(MARK)
    runs = json.loads(RESULTS.read_text())["runs"]
    PAGE.write_text(f"{before}{MARK}\n\n{tables(runs)}\n\n{live_table()}\n\n{MARK}{after}")


def plot(traces: Path | None) -> None:
    """Load and replicas over time, one column a load."""
    from matplotlib.figure import Figure

    runs = json.loads(RESULTS.read_text())["runs"]
    shown = {"need": "#c22", "ray:2": "#39c", "clairvoyant": "#888"}
    figure = Figure(figsize=(12, 6), layout="constrained")
    for column, load in zip(figure.subplots(2, 3, sharex="col").T, ("conv", "code", "step"), strict=True):
        bench = Bench(load, traces)
        seconds = np.bincount(bench.requests.arrived_s.astype(int) // 5) / 5
        minutes = np.arange(len(seconds)) * 5 / 60
        column[0].fill_between(minutes, seconds, step="post", color="#bcd")
        column[0].set_title(LOADS[load], loc="left")
        column[0].set_ylabel("requests/s, means of 5 s")
        for scaler, colour in shown.items():
            if scaler in runs[load]:
                at = [t / 60 for t, *_ in runs[load][scaler]["replicas"]] + [minutes[-1]]
                count = [ready for *_, ready in runs[load][scaler]["replicas"]]
                figures = runs[load][scaler]
                label = f"{scaler}: {figures['gpu_hours']:.1f} h, {figures['attainment']:.1%}"
                column[1].step(at, [*count, count[-1]], where="post", color=colour, label=label, linewidth=1)
        column[1].set_ylabel("replicas that score")
        column[1].set_xlabel("minutes")
        column[1].set_ylim(bottom=0)
        column[1].legend(fontsize=7, loc="upper left")
    figure.savefig(ROOT / "docs/autoscaling.png", dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("run", "table", "plot"))
    parser.add_argument("--traces", type=Path, help="folder of the Azure traces")
    parser.add_argument("--loads", nargs="*", default=list(LOADS))
    asked = parser.parse_args()
    if asked.verb == "run":
        run(asked.traces, asked.loads)
    elif asked.verb == "table":
        write_tables()
    else:
        plot(asked.traces)
