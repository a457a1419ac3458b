"""The picture of a training run: loss, and nDCG@10 on held-back queries, over the steps."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def draw(figures: dict[str, Any], path: Path) -> None:
    """Write a PNG of the figures of a run."""
    over, held_back = figures["over_steps"], figures["held_back"]
    figure = Figure(figsize=(9, 5 if held_back else 3), layout="constrained")
    loss, *others = figure.subplots(2 if held_back else 1, 1, sharex=True, squeeze=False)[:, 0]
    loss.plot(*zip(*over["loss"], strict=True), color="black", linewidth=1)
    loss.set_ylabel("loss (mean squared\nerror, logits²)")
    loss.set_ylim(bottom=0)
    loss.grid(axis="y", alpha=0.3)
    title = f"{figures['student']['name']} taught by {figures['teacher'] or 'the scores in the file'}"
    for ranking in others:
        ranking.plot(*zip(*over["ndcg@10"], strict=True), color="black", marker="o", markersize=3, linewidth=1)
        ranking.axvline(held_back["best_step"], color="#bcd", linewidth=4, zorder=0)
        ranking.axhline(held_back["start"], color="gray", linestyle=":", linewidth=1)
        ranking.set_title(
            f"{held_back['start']:.4f} before training (dotted), {held_back['best']:.4f} at step "
            f"{held_back['best_step']:,}, which was kept",
            loc="left",
            fontsize="medium",
        )
        ranking.set_ylabel(f"nDCG@10, {held_back['queries']}\nheld-back queries")
        ranking.grid(axis="y", alpha=0.3)
    (others or [loss])[-1].set_xlabel("steps")
    loss.set_title(title, loc="left")
    figure.savefig(path, dpi=110)
