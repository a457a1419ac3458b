"""The picture of a recommendation: nDCG@10 of every option over its device time."""

from pathlib import Path
from typing import Any

from rankfleet.core.errors import ConfigError

CHOSEN, OTHER = "#2f5f9e", "#999"


def draw(figures: dict[str, Any], path: Path) -> None:
    """Write a PNG of what `Recommendation.to_json` gives. Raises ConfigError if matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("drawing needs matplotlib: pip install 'rankfleet[eval]'") from error
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    fill(figure, figures)
    figure.savefig(path, dpi=110)


def fill(figure: Any, figures: dict[str, Any]) -> None:
    """Draw into a matplotlib figure: a point for each option with a time, the interval of its loss below the best, the
    band of what may be lost, and the order in which the candidates come."""
    axes, goal, timed = figure.subplots(), figures["goal"], [row for row in figures["options"] if row["ms"] is not None]
    best = max(row["ndcg@10"] for row in figures["options"])
    level = best if goal["target"] is None else goal["target"]
    allowed = f"at most {goal['max_loss']:g} lost" if goal["target"] is None else f"at least {level:g}"
    lowest = level - goal["max_loss"] if goal["target"] is None else level
    axes.axhspan(lowest, max(best, level), color="#bcd", alpha=0.5, linewidth=0, label=allowed)
    axes.axhline(figures["given_order"], color="black", linewidth=1, linestyle="--", label="the candidates' own order")
    for place, row in enumerate(sorted(timed, key=lambda row: row["ndcg@10"])):
        colour = CHOSEN if row["option"] == figures["recommended"] else OTHER
        axes.plot(row["ms"], row["ndcg@10"], "D" if colour == CHOSEN else "o", color=colour, zorder=3)
        if row["interval"] is not None:
            low, high = row["interval"]
            axes.plot([row["ms"]] * 2, [level - high, level - low], color=colour, linewidth=5, alpha=0.25)
        side, offset = ("right", -7) if place % 2 else ("left", 7)  # in turn, so that neighbours' names stay apart
        axes.annotate(
            row["option"],
            (row["ms"], row["ndcg@10"]),
            xytext=(offset, -3),
            textcoords="offset points",
            ha=side,
            color=colour,
            fontsize="small",
        )
    axes.set_xscale("log")
    axes.margins(x=0.2)
    axes.set_xlabel("device time of a request, ms")
    axes.set_ylabel("nDCG@10")
    axes.grid(axis="y", alpha=0.25)
    measured = f"{figures['queries']:,} queries" if figures["queries"] else "published figures"
    axes.set_title(f"{figures['recommended'] or 'nothing'} recommended, by {measured}", loc="left")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")
