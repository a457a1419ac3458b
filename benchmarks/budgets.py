"""Draw what a budget buys on an idle fleet: the planner's choice for 100 candidates, by budget.

    python benchmarks/budgets.py [--config sim-fleet] [--profile FILE] [--out docs/budgets.png]

The profile is the fleet file's own where none is given; `rankfleet profile --json FILE` measures one.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from rankfleet.cli.options import load_config
from rankfleet.core.messages import Plan, Work
from rankfleet.estimates.profile import read_profile
from rankfleet.router.fleet import FleetView
from rankfleet.router.plan_options import PlanRequest
from rankfleet.router.planner import plan

ROOT = Path(__file__).parents[1]
PAIRS, TOKENS = 100, 154
CHOICE, TIER = "#2f5f9e", "#c8553d"


def draw(config: str, profile: str | None, out: Path) -> None:
    fleet = load_config(config)
    source = profile or fleet.profile
    if source is None:
        raise SystemExit(f"{config} names no profile; give one with --profile")
    models = read_profile(source)
    measured = json.loads(Path(source).read_text())["measured"]
    view = FleetView(fleet)
    view.update_latency(models)
    snapshot = view.snapshot(0.0)
    work = Work(PAIRS, PAIRS * TOKENS, PAIRS * TOKENS**2)
    took_ms = {tier: models[tier].p99_ms(work) + fleet.overhead_ms for tier in fleet.tiers}
    budgets = np.geomspace(min(took_ms.values()) / 1.6, max(took_ms.values()) * 1.6, 800)

    def bought(budget_ms: float) -> float:
        decision = plan(PlanRequest(dict.fromkeys(fleet.tiers, work), 0.0, budget_ms), snapshot, 0.0)
        return decision.quality if isinstance(decision, Plan) and decision.fits else np.nan

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(budgets, [bought(b) for b in budgets], color=CHOICE, lw=2.5, label="the router's choice on an idle fleet")
    for tier, ms in took_ms.items():
        quality = fleet.tiers[tier].quality
        axes.plot(ms, quality, "o", color=TIER, ms=7, zorder=3)
        axes.annotate(tier, (ms, quality), xytext=(6, -14), textcoords="offset points", color=TIER)
    axes.set_xscale("log")
    axes.margins(y=0.12)
    ticks = [t for t in (2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if budgets[0] <= t <= budgets[-1]]
    axes.set_xticks(ticks, labels=[str(t) for t in ticks])
    axes.minorticks_off()
    axes.set_xlabel(f"budget in ms, for {PAIRS} candidates of {TOKENS} tokens")
    axes.set_ylabel("nDCG@10")
    axes.set_title("What a budget buys", loc="left", fontsize=12, weight="bold")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower right")
    figure.text(0.99, -0.03, f"{measured['device']}, {measured['date']}", ha="right", fontsize=7, color="#666")
    figure.savefig(out, dpi=130, bbox_inches="tight")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="sim-fleet", help="fleet file or the name of a shipped one")
    parser.add_argument("--profile", help="latency profile of its tiers")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/budgets.png")
    asked = parser.parse_args()
    draw(asked.config, asked.profile, asked.out)
