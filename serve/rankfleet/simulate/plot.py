"""Plots a simulation: load, tiers and attainment over time."""

import itertools
from pathlib import Path
from typing import Any

from rankfleet.core.errors import ConfigError


def draw(figures: dict[str, Any], path: Path) -> None:
    """Write a PNG of the figures. Raises ConfigError if matplotlib is missing or they have no `over_time`."""
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("drawing needs matplotlib: pip install 'rankfleet[eval]'") from error
    if "over_time" not in figures:
        raise ConfigError(f"policy {figures['policy']} is a bound without figures over time; plot another policy")
    over = figures["over_time"]
    edges = [0.0, *over["until_s"]]
    minutes = [(start + end) / 120 for start, end in itertools.pairwise(edges)]
    rates = [n / (end - start) for n, start, end in zip(over["requests"], edges, edges[1:], strict=False)]
    figure = Figure(figsize=(9, 7), layout="constrained")
    load, tiers, attainment = figure.subplots(3, 1, sharex=True)
    load.fill_between(minutes, rates, step="mid", color="#bcd")
    load.set_ylabel("requests/s")
    load.set_ylim(bottom=0)
    widths = [(end - start) / 60 for start, end in itertools.pairwise(edges)]
    bottoms = [0.0] * len(minutes)
    for i, (name, values) in enumerate(over["tiers"].items()):
        shares = [share or 0.0 for share in values]
        colour = colormaps["viridis"](i / max(1, len(over["tiers"]) - 1))
        tiers.bar(minutes, shares, widths, bottoms, label=name, color=colour)
        bottoms = [bottom + share for bottom, share in zip(bottoms, shares, strict=True)]
    tiers.set_ylabel("share of requests\nin time, by tier")
    tiers.set_ylim(0, 1)
    tiers.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(over["tiers"]), fontsize="small", frameon=False)
    attainment.plot(minutes, over["attainment"], color="black", drawstyle="steps-mid")
    attainment.set_ylabel("attainment")
    attainment.set_ylim(top=1.005)
    attainment.grid(axis="y", alpha=0.3)
    attainment.set_xlabel("minutes")
    load.set_title(
        f"{figures['policy']}: {figures['attainment']:.2%} in time, mean nDCG@10 {figures['mean_quality']:.4f}",
        loc="left",
    )
    figure.savefig(path, dpi=110)
