"""The pictures of README.md and docs/, drawn from result files.

Each PNG holds a digest of its data and of the code that drew it, so that a test can tell whether it is current.
"""

import hashlib
import inspect
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from benchmarks.figures.recommend import drawn
from benchmarks.figures.simulated import (
    CANDIDATES,
    ROUTING_GOALS,
    ROUTING_LOADS,
    SCALING_LOADS,
    SIM_FLEET,
    TOKENS,
    policies,
    seed_mean,
)
from benchmarks.figures.stored import stored
from benchmarks.paths import ROOT

from rankfleet.bench.results import read_results
from rankfleet.core.decisions import Plan
from rankfleet.core.fleet_file import read_config
from rankfleet.core.work import Work
from rankfleet.estimates.profile import read_profile
from rankfleet.recommend.picture import fill
from rankfleet.router.fleet import FleetView
from rankfleet.router.ledger import Ledger
from rankfleet.router.plan_options import PlanRequest
from rankfleet.router.planner import plan


class Picture(ABC):
    """One PNG in docs/."""

    name: ClassVar[str]
    size: ClassVar[tuple[float, float]]  # inches
    dpi: ClassVar[int] = 110

    @property
    def path(self) -> Path:
        return ROOT / "docs" / f"{self.name}.png"

    @abstractmethod
    def data(self) -> Any:
        """What is drawn, as JSON."""

    @abstractmethod
    def fill(self, figure: Any, data: Any) -> None:
        """Draw the data into a matplotlib figure."""

    def digest(self) -> str:
        drawn = json.dumps(self.data()) + inspect.getsource(type(self))
        return f"sha256 {hashlib.sha256(drawn.encode()).hexdigest()}"

    def is_current(self) -> bool:
        return self.path.exists() and self.digest().encode() in self.path.read_bytes()

    def draw(self) -> None:
        """Write the PNG. Needs matplotlib."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=self.size, layout="constrained")
        self.fill(figure, self.data())
        figure.savefig(self.path, dpi=self.dpi, metadata={"Software": None, "Description": self.digest()})


class Budgets(Picture):
    """The planner's choice on an idle fleet by budget, at the published rates."""

    name, size, dpi = "budgets", (8, 4), 130
    choice, tier = "#2f5f9e", "#c8553d"

    def data(self) -> Any:
        fleet = read_config(SIM_FLEET)
        models = read_profile(str(fleet.profile))
        view = FleetView(fleet, {name: Ledger() for name in fleet.groups})
        view.update_latency(models)
        snapshot = view.snapshot(0.0)
        work = Work(CANDIDATES, CANDIDATES * TOKENS, CANDIDATES * TOKENS**2)
        took_ms = {name: round(models[name].p99_ms(work) + fleet.network_ms, 3) for name in fleet.tiers}
        budgets = np.geomspace(min(took_ms.values()) / 1.6, max(took_ms.values()) * 1.6, 800).round(3).tolist()

        def quality(budget_ms: float) -> float | None:
            decision = plan(PlanRequest(dict.fromkeys(fleet.tiers, work), 0.0, budget_ms), snapshot, 0.0)
            return decision.quality if isinstance(decision, Plan) and decision.fits else None

        measured = read_results(Path(str(fleet.profile)))["measured"]
        return {
            "tiers": {name: [ms, fleet.tiers[name].quality] for name, ms in took_ms.items()},
            "budgets_ms": budgets,
            "quality": [quality(budget) for budget in budgets],
            "source": f"{measured['machine']}, {measured['date']}",
        }

    def fill(self, figure: Any, data: Any) -> None:
        axes, budgets = figure.subplots(), data["budgets_ms"]
        quality = [np.nan if each is None else each for each in data["quality"]]
        axes.plot(budgets, quality, color=self.choice, lw=2.5, label="the router's choice on an idle fleet")
        for name, point in data["tiers"].items():
            axes.plot(*point, "o", color=self.tier, ms=7, zorder=3)
            axes.annotate(name, point, xytext=(6, -14), textcoords="offset points", color=self.tier)
        axes.set_xscale("log")
        axes.margins(y=0.12)
        ticks = [t for t in (2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if budgets[0] <= t <= budgets[-1]]
        axes.set_xticks(ticks, labels=[str(t) for t in ticks])
        axes.minorticks_off()
        axes.set_xlabel(f"budget in ms, for {CANDIDATES} candidates of {TOKENS} tokens\n{data['source']}")
        axes.set_ylabel("nDCG@10")
        axes.set_title("What a budget buys", loc="left", fontsize=12, weight="bold")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, loc="lower right")


class Routing(Picture):
    """Attainment against mean quality of every policy, one panel for each load."""

    name, size = "routing", (10, 7.5)
    styles: ClassVar[dict[str, tuple[str, str]]] = {
        "static": ("s-", "#888"),
        "table": ("^-", "#c90"),
        "slackfit": ("D", "#39c"),
        "slo": ("o", "#c22"),
    }

    def data(self) -> Any:
        return {
            load: {"goal": ROUTING_GOALS[load]}
            | {
                policy: [seed_mean(load, policy, figure) for figure in ("attainment", "mean_quality")]
                for policy in policies()
                if policy != "oracle"
            }
            for load in ROUTING_LOADS
        }

    def fill(self, figure: Any, data: Any) -> None:
        for axes, (load, name) in zip(figure.subplots(2, 2).flat, ROUTING_LOADS.items(), strict=True):
            for family, (style, colour) in self.styles.items():
                points = {p: point for p, point in data[load].items() if p.partition(":")[0] == family}
                x, y = [at[0] * 100 for at in points.values()], [at[1] for at in points.values()]
                axes.plot(x, y, style, label=family, color=colour, ms=9 if family == "slo" else 5, linewidth=0.8)
                for policy, point in zip(points, zip(x, y, strict=True), strict=True):
                    axes.annotate(policy.partition(":")[2], point, (4, -9), textcoords="offset points", fontsize=7)
            attainment, quality = data[load]["goal"]
            axes.plot(attainment * 100, quality, "k+", markersize=12, label="goal")
            axes.set_title(name, loc="left")
            axes.set_xlabel("answered in time, %")
            axes.set_ylabel("mean nDCG@10 over all requests")
            axes.grid(alpha=0.25)
            axes.legend(fontsize=7, loc="best")


class Autoscaling(Picture):
    """Load and replicas over time, one column for each load."""

    name, size = "autoscaling", (12, 6)
    loads = ("conv", "code", "step")
    scalers: ClassVar[dict[str, str]] = {"need": "#c22", "ray:2": "#39c", "clairvoyant": "#888"}

    def data(self) -> Any:
        figures = stored("autoscaling")
        keys = ("gpu_hours", "attainment", "replicas")
        return {
            load: {
                "arrivals": figures["arrivals"][load],
                "scalers": {
                    name: {key: run[key] for key in keys}
                    for name, run in figures["runs"][load].items()
                    if name in self.scalers
                },
            }
            for load in self.loads
        }

    def fill(self, figure: Any, data: Any) -> None:
        panels = figure.subplots(2, len(self.loads), sharex="col").T
        for (above, below), load in zip(panels, self.loads, strict=True):
            arrivals = data[load]["arrivals"]
            minutes = np.arange(len(arrivals["requests_per_s"])) * arrivals["interval_s"] / 60
            above.fill_between(minutes, arrivals["requests_per_s"], step="post", color="#bcd")
            above.set_title(SCALING_LOADS[load], loc="left")
            above.set_ylabel(f"requests/s, means of {arrivals['interval_s']:g} s")
            for name, run in data[load]["scalers"].items():
                at = [t / 60 for t, *_ in run["replicas"]] + [minutes[-1]]
                ready = [count for *_, count in run["replicas"]]
                label = f"{name}: {run['gpu_hours']:.1f} h, {run['attainment']:.2%}"
                below.step(at, [*ready, ready[-1]], where="post", color=self.scalers[name], label=label, linewidth=1)
            below.set_ylabel("ready replicas")
            below.set_xlabel("minutes")
            peak = max(count for run in data[load]["scalers"].values() for *_, count in run["replicas"])
            below.set_ylim(0, 1.35 * peak)  # the legend stands above the lines
            below.legend(fontsize=7, loc="upper left")


class Quality(Picture):
    """nDCG@10 by tier, alone and fused, beside that of the retriever; one panel for each collection and their mean."""

    name, size = "quality", (12, 3.6)
    alone, fused = "#999", "#2f5f9e"

    def data(self) -> Any:
        measured = stored("demo_quality")
        by_name = {"mean": measured["mean"]} | {each["data"]: each for each in measured["collections"]}
        tiers = measured["weights"]
        return {
            name: {
                "retriever": figures["retriever"]["ndcg@10"],
                "tiers": {
                    tier: [figures["fused"][tier]["alone"], figures["fused"][tier]["order"]["ndcg@10"]]
                    for tier in tiers
                },
                "less_retriever": [figures["fused"][tier]["order"]["less_retriever"]["interval"] for tier in tiers],
            }
            for name, figures in by_name.items()
        }

    def fill(self, figure: Any, data: Any) -> None:
        for axes, (name, each) in zip(figure.subplots(1, len(data)), data.items(), strict=True):
            at, bm25 = range(len(each["tiers"])), each["retriever"]
            alone, fused = zip(*each["tiers"].values(), strict=True)
            axes.axhline(bm25, color="black", linewidth=1, linestyle="--", label="BM25's own order")
            for x, (low, high) in zip(at, each["less_retriever"], strict=True):
                axes.plot([x, x], [bm25 + low, bm25 + high], color=self.fused, linewidth=5, alpha=0.25)
            axes.plot(at, alone, "o", color=self.alone, label="tier alone")
            axes.plot(at, fused, "D", color=self.fused, label="fused with BM25's order")
            axes.set_xticks(at, labels=list(each["tiers"]))
            axes.set_xlim(-0.5, len(each["tiers"]) - 0.5)
            axes.set_title(name, loc="left")
            axes.grid(axis="y", alpha=0.25)
        figure.axes[0].set_ylabel("nDCG@10")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)


class Recommend(Picture):
    """What `rankfleet recommend` draws by the published figures."""

    name, size = "recommend", (8, 4.5)

    def data(self) -> Any:
        return drawn()

    def fill(self, figure: Any, data: Any) -> None:
        fill(figure, data["figures"])


PICTURES = (Budgets(), Routing(), Autoscaling(), Quality(), Recommend())
