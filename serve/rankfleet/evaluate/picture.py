"""The picture of an evaluation: nDCG@10 of every plan over its time, and over its cost where prices are known."""

from pathlib import Path
from typing import Any

from rankfleet.core.errors import RankfleetError
from rankfleet.evaluate.pareto import front

SIGNS = {
    "tier": ("o", "#2f5f9e"),
    "cascade": ("s", "#7a9cc6"),
    "fused": ("^", "#c77f1f"),
    "compared with": ("D", "#a33"),
}
AXES = {"ms": "one query, ms (median)", "usd_per_1000": "1,000 queries, US dollars"}


def draw(title: str, figures: dict[str, Any], path: Path) -> None:
    """Write a PNG. figures: `plans`, from `plans_of`, and `retriever`. Raises RankfleetError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RankfleetError("drawing needs matplotlib:  pip install 'rankfleet[eval]'") from error
    costs = [cost for cost in AXES if any(plan.get(cost) for plan in figures["plans"])]
    figure = Figure(figsize=(7.5 * max(1, len(costs)), 4.8), layout="constrained")
    for axes, cost in zip(figure.subplots(1, max(1, len(costs)), squeeze=False)[0], costs, strict=False):
        fill(axes, figures, cost)
    figure.suptitle(title, x=0.02, ha="left")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def fill(axes: Any, figures: dict[str, Any], cost: str) -> None:
    """A point for each plan with its interval, a line through those that nothing beats, and the retriever's order."""
    plans, retriever = [plan for plan in figures["plans"] if plan.get(cost)], figures["retriever"]
    own_order = f"{retriever['name']}'s own order"
    axes.axhline(retriever["ndcg@10"], color="black", linewidth=1, linestyle="--", label=own_order)
    best = front(plans, cost)
    axes.step(
        [plan[cost] for plan in best],
        [plan["ndcg@10"] for plan in best],
        where="post",
        color="#bbb",
        zorder=1,
        label="nothing is both cheaper and better",
    )
    for kind, (sign, colour) in SIGNS.items():
        own = [plan for plan in plans if plan["kind"] == kind]
        if own:
            axes.plot([p[cost] for p in own], [p["ndcg@10"] for p in own], sign, color=colour, label=kind, zorder=3)
        for plan in own:
            axes.plot([plan[cost]] * 2, plan["interval"], color=colour, linewidth=4, alpha=0.2)
    for plan in plans:
        if plan["kind"] in ("tier", "compared with") or plan in best:
            at, beside = (plan[cost], plan["ndcg@10"]), {"xytext": (6, -3), "textcoords": "offset points"}
            axes.annotate(plan["plan"], at, fontsize="small", **beside)
    axes.set_xscale("log", subs=[2, 5])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.margins(x=0.15)
    axes.set_xlabel(AXES[cost])
    axes.set_ylabel("nDCG@10")
    axes.grid(axis="y", alpha=0.25)
