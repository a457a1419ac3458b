"""The router's goals: every policy on every load, mean of five seeds.

    python benchmarks/routing_goals.py run --traces FOLDER      results after each run; what is there is kept
    python benchmarks/routing_goals.py table                    the tables of docs/routing.md
    python benchmarks/routing_goals.py plot                     docs/routing.png

FOLDER holds azure_llm_conv_2023.csv and azure_llm_code_2023.csv, counts per second of the Azure LLM inference traces
2023 (CC BY 4.0; Patel et al., Splitwise, ISCA 2024; github.com/Azure/AzurePublicDataset).
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from rankfleet.core.config import FleetConfig, read_config
from rankfleet.estimates.profile import read_profile
from rankfleet.simulate.oracle import upper_bound
from rankfleet.simulate.policies import policy_of
from rankfleet.simulate.results import results
from rankfleet.simulate.run import Simulation
from rankfleet.simulate.traces import from_process, from_trace, read_counts
from rankfleet.simulate.workload import Requests, Workload, draw, read_workload

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/routing_goals.json"
PAGE, MARK = ROOT / "docs/routing.md", "<!-- figures: benchmarks/routing_goals.py table -->"
RATE = 60.0  # requests/s, to which traces are scaled
SEEDS = (1, 2, 3, 4, 5)
LOADS = {
    "cv4": "gamma arrivals, CV 4",
    "cv8": "gamma arrivals, CV 8",
    "conv": "Azure conversation",
    "code": "Azure code",
}
GOALS = {"cv4": (0.985, 0.588), "cv8": (0.935, 0.567), "conv": (0.999, 0.605), "code": (0.895, 0.573)}
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
    """Every run that the results do not hold yet. Results of other settings are thrown away."""
    fleet, workload = read_config(ROOT / "configs/sim-fleet.yaml"), read_workload(ROOT / "configs/workloads/mixed.yaml")
    settings = {"routing": fleet.routing.model_dump(), "fleet": "configs/sim-fleet.yaml", "rate": RATE}
    stored = read_results() if RESULTS.exists() else {}
    runs: dict[str, Any] = stored.get("runs", {}) if stored.get("settings") == settings else {}
    for policy in policies:
        for load in LOADS:
            for seed in seeds:
                key = f"{load} {policy} {seed}"
                if key not in runs:
                    figures = one(fleet, workload, policy, requests_of(load, workload, traces, seed), seed)
                    runs[key] = {name: figures[name] for name in KEPT if name in figures}
                    RESULTS.write_text(json.dumps({"settings": settings, "runs": runs}, indent=1) + "\n")
                    print(f"{key}: {figures['attainment']:.2%} {figures['mean_quality']:.4f}", file=sys.stderr)


def one(fleet: FleetConfig, workload: Workload, policy: str, requests: Requests, seed: int) -> dict[str, Any]:
    models = read_profile(str(fleet.profile))
    if policy == "oracle":
        return upper_bound(fleet, models, workload, requests)
    simulation = Simulation(fleet, models, workload, policy_of(policy, fleet, models), seed)
    return results(simulation.run(requests), requests, fleet, workload)


def read_results() -> dict[str, Any]:
    stored: dict[str, Any] = json.loads(RESULTS.read_text())
    return stored


def mean(runs: dict[str, Any], load: str, policy: str, figure: str) -> float:
    return float(np.mean([runs[f"{load} {policy} {seed}"][figure] for seed in SEEDS]))


def both(runs: dict[str, Any], load: str, policy: str) -> str:
    return f"{mean(runs, load, policy, 'attainment') * 100:.2f} / {mean(runs, load, policy, 'mean_quality'):.4f}"


def tables(runs: dict[str, Any]) -> str:
    """Markdown: the goals, and every policy."""
    lines = ["| load | goal | `slo` | best of static and table, by quality | bound |", "|---|---|---|---|---|"]
    for load, name in LOADS.items():
        best = max(STATICS + TABLES, key=lambda policy: mean(runs, load, policy, "mean_quality"))
        goal = f"{GOALS[load][0] * 100:.1f} / {GOALS[load][1]:.3f}"
        cells = (name, goal, both(runs, load, "slo"), f"{best} {both(runs, load, best)}", both(runs, load, "oracle"))
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"| policy | {' | '.join(LOADS.values())} |", "|---" * (len(LOADS) + 1) + "|"]
    for policy in POLICIES:
        lines.append(f"| `{policy}` | {' | '.join(both(runs, load, policy) for load in LOADS)} |")
    share = [mean(runs, load, "slo", "attainment") / mean(runs, load, "oracle", "attainment") for load in LOADS]
    lines += ["", f"In time, as a share of the bound's: {', '.join(f'{s:.1%}' for s in share)}."]
    return "\n".join(lines)


def write_tables() -> None:
    before, _, rest = PAGE.read_text().partition(MARK)
    _, _, after = rest.partition(MARK)
    PAGE.write_text(f"{before}{MARK}\n\n{tables(read_results()['runs'])}\n\n{MARK}{after}")


def plot() -> None:
    """Attainment against mean quality, one panel a load."""
    from matplotlib.figure import Figure

    runs = read_results()["runs"]
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    for axes, (load, name) in zip(figure.subplots(2, 2).flat, LOADS.items(), strict=True):
        for family, style in ((STATICS, "s-"), (TABLES, "^-"), (("slackfit",), "D"), (("slo",), "o")):
            x = [mean(runs, load, policy, "attainment") * 100 for policy in family]
            y = [mean(runs, load, policy, "mean_quality") for policy in family]
            label = family[0].partition(":")[0]
            colour = {"static": "#888", "table": "#c90", "slackfit": "#39c", "slo": "#c22"}[label]
            axes.plot(x, y, style, label=label, color=colour, markersize=9 if label == "slo" else 5, linewidth=0.8)
            for policy, at in zip(family, zip(x, y, strict=True), strict=True):
                if ":" in policy:
                    axes.annotate(policy.partition(":")[2], at, (4, -9), textcoords="offset points", fontsize=7)
        axes.plot(GOALS[load][0] * 100, GOALS[load][1], "k+", markersize=12, label="goal")
        axes.set_title(name, loc="left")
        axes.set_xlabel("answered in time, %")
        axes.set_ylabel("mean nDCG@10 over all requests")
        axes.grid(alpha=0.25)
        axes.legend(fontsize=7, loc="best")
    figure.savefig(ROOT / "docs/routing.png", dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("run", "table", "plot"))
    parser.add_argument("--traces", type=Path, help="folder of the Azure traces")
    parser.add_argument("--policies", nargs="*", default=list(POLICIES))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    asked = parser.parse_args()
    if asked.verb == "run":
        if asked.traces is None:
            parser.error("run needs --traces FOLDER")
        run(asked.traces, asked.policies, asked.seeds)
    elif asked.verb == "table":
        write_tables()
    else:
        plot()
