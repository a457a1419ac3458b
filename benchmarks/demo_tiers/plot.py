"""Draw what a budget buys: the planner's choice for 100 candidates on an idle fleet, as a function of the budget.

rankfleet profile --config demo --json benchmarks/results/demo_profile.json
python benchmarks/demo_tiers/plot.py
"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from rankfleet.core.messages import Plan, Work
from rankfleet.routing.candidates import Ask, FleetSnapshot, GroupState, TierState
from rankfleet.routing.planner import plan
from rankfleet.routing.profile import read_profile

ROOT = Path(__file__).parents[2]
PAIRS, TOKENS = 100, 154


def main() -> None:
    results = ROOT / "benchmarks/results"
    quality = json.loads((results / "demo_quality.json").read_text())["mean"]
    profile = json.loads((results / "demo_profile.json").read_text())["measured"]
    models = read_profile(results / "demo_profile.json")
    work = Work(PAIRS, PAIRS * TOKENS, PAIRS * TOKENS**2)
    tiers = tuple(
        TierState(name, figures["ndcg@10"], "demo", models[name]) for name, figures in quality["tiers"].items()
    )
    fleet = FleetSnapshot(tiers, {"demo": GroupState(1, 0.0)}, overhead_ms=3.0)
    retriever = quality["retriever"]["ndcg@10"]
    slowest = max(tier.latency.p99_ms(work) for tier in tiers if tier.latency)
    budgets = np.geomspace(min(t.latency.p99_ms(work) for t in tiers if t.latency) / 2, slowest * 2, 600)

    def bought(budget: float) -> float:
        decision = plan(Ask({tier.name: work for tier in tiers}, 0.0, budget), fleet, 0.0)
        return decision.quality if isinstance(decision, Plan) and decision.fits else np.nan

    plt.rcParams.update({"font.size": 11, "svg.hashsalt": "rankfleet"})
    figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    axes.plot(budgets, [bought(b) for b in budgets], color="#3b6fb6", lw=2.5, label="the router's choice for a budget")
    for tier in tiers:
        assert tier.latency is not None
        at = tier.latency.p99_ms(work) + fleet.overhead_ms
        axes.plot(at, tier.quality, "o", color="#c8553d", ms=8, zorder=3)
        axes.annotate(tier.name, (at, tier.quality), xytext=(8, -14), textcoords="offset points", color="#c8553d")
    axes.axhline(retriever, color="#888", lw=1.2, ls="--", label="BM25's own order")
    axes.set_xscale("log")
    axes.set_xlabel(f"budget, ms ({PAIRS} candidates of {TOKENS} tokens, 1 thread)")
    axes.set_ylabel("nDCG@10, mean of four collections")
    axes.set_title("What a budget buys on the demo fleet", loc="left", fontsize=12, weight="bold")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower right")
    axes.text(
        1.0,
        -0.17,
        f"{profile['device']}, {profile['date']}",
        transform=axes.transAxes,
        ha="right",
        va="top",
        fontsize=8,
        color="#666",
    )
    figure.savefig(ROOT / "docs/tiers.png", dpi=140)


if __name__ == "__main__":
    main()
