"""The picture of a report: each difference with its interval and what is acceptable."""

import math
from pathlib import Path
from typing import Any

from rankfleet.core.errors import ConfigError
from rankfleet.experiments.report import Comparison, Report
from rankfleet.experiments.words import verdicts

COLOURS = {"better": "#2e7d32", "not worse": "#2f5f9e", "worse": "#b3261e", "open": "#888"}


def draw(report: Report, path: Path) -> None:
    """Write a PNG. Raises ConfigError if matplotlib is missing, or nothing can be compared yet."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("drawing needs matplotlib: pip install 'rankfleet[eval]'") from error
    shown = [each for each in report.comparisons if math.isfinite(each.difference.low)]
    if not shown:
        raise ConfigError("there is nothing to draw yet: no difference is known")
    figure = Figure(figsize=(8, 1.6 + 0.75 * len(shown)), layout="constrained")
    panels = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
    for axes, each in zip(panels, shown, strict=True):
        fill(axes, each)
    figure.suptitle("\n".join(verdict.text for verdict in verdicts(report)), fontsize="small", wrap=True)
    figure.supxlabel(f"difference from {report.control}; better is to the right", fontsize="small")
    figure.savefig(path, dpi=110)


def fill(axes: Any, each: Comparison) -> None:
    """One difference, with better to the right. Shaded: acceptable."""
    sign, factor = each.measure.sign, 100 if each.measure.shown(0.0).endswith("%") else 1
    low, high = sorted((sign * factor * each.difference.low, sign * factor * each.difference.high))
    value, margin = sign * factor * each.difference.value, factor * (each.margin or 0.0)
    reach = 1.15 * max(abs(low), abs(high), margin)
    axes.set_xlim(-reach, reach)
    axes.axvspan(-margin if each.margin is not None else -reach, reach, color="#cfe3cf", alpha=0.5, linewidth=0)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.plot([low, high], [0, 0], color=COLOURS[each.finding], linewidth=4, alpha=0.6, solid_capstyle="butt")
    axes.plot(value, 0, "o", color=COLOURS[each.finding])
    axes.set_yticks([0], [f"{each.arm}: {each.measure.title}"])
    axes.xaxis.set_major_formatter(lambda x, _: each.measure.shown(sign * x / factor, signed=True))
    axes.tick_params(axis="x", labelsize="small")
    axes.spines[["top", "right", "left"]].set_visible(False)
