"""Tables of docs/performance.md and docs/routing.md, written from the files in benchmarks/results.

    python benchmarks/tables.py

Each table stands between `<!-- NAME -->` and `<!-- end -->`; a test fails where it is not what the files say.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "docs/performance.md", ROOT / "docs/routing.md")
RESULTS = ROOT / "benchmarks/results"
SHAPES = ("17m", "32m")
PEER_NAMES = ("sentence-transformers", "onnxruntime", "openvino")  # each repeats its best precision


def read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def rows(*lines: list[str]) -> str:
    header, *rest = lines
    ruler = ["---" if i == 0 else "---:" for i in range(len(header))]
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ruler, *rest])


def engine(shape: str) -> str:
    """One run of the contest."""
    figures = read(f"engine_{shape}")
    peers = {name: entry for name, entry in figures["peers"].items() if name not in PEER_NAMES}
    ours = {f"**Rankfleet** {dtype}": entry for dtype, entry in figures["by_dtype"].items()}
    lines = [["", "pairs/s", "batch size", "of the bound", "less what is skipped", "largest difference"]]
    for name, entry in (ours | peers).items():
        if "pairs_per_s" not in entry:
            lines.append([name, "not run", "", "", "", ""])
            continue
        keys = ("bound_fraction", "first_token_bound_fraction")
        bounds = [f"{entry[key]:.0%}" if name in ours else "" for key in keys]
        batch = str(entry.get("batch_size", "packed"))
        lines.append([name, f"{entry['pairs_per_s']:.0f}", batch, *bounds, f"{entry['max_abs_difference']:.4f}"])
    work, machine = figures["work"], figures["machine"]
    rates = ", ".join(f"{rate:.0f} in {dtype}" for dtype, rate in machine["matmul_gflop_per_s"].items())
    return (
        rows(*lines) + f"\n\n{figures['date']}, {figures['device']}, {figures['threads']} threads, "
        f"{work['pairs']} pairs with a mean of {work['mean_tokens']:.0f} tokens and at most {work['longest_tokens']}, "
        f"median of {figures['rounds']} rounds; matrix products alone in GFLOP/s: {rates}; "
        f"{'undisturbed' if machine['undisturbed'] else 'disturbed by other work'}. "
        + ", ".join(f"{name} {number}" for name, number in figures["versions"].items())
        + "."
    )


def ratios() -> str:
    """Rankfleet ÷ each peer at its best, by precision."""
    lines = [["", *SHAPES]]
    runs = [read(f"engine_{shape}") for shape in SHAPES]
    peers = ("sentence-transformers-fp32", "sentence-transformers-bf16", "onnxruntime", "openvino")
    for dtype in runs[0]["ratio_by_dtype"]:
        for peer in peers:
            found = [run["ratio_by_dtype"][dtype].get(peer) for run in runs]
            lines.append([f"{dtype} ÷ {peer}", *("not run" if r is None else f"{r:.1f}×" for r in found)])
    return rows(*lines)


def precision() -> str:
    figures = read("precision")
    lines = [["demo tier", "precision", "nDCG@10", "difference", "mean τ", "worst τ"]]
    for tier, by_dtype in figures["tiers"].items():
        for dtype, entry in by_dtype.items():
            lines.append(
                [
                    tier,
                    dtype,
                    f"{entry['mean']:.4f}",
                    f"{entry['difference']:+.4f}",
                    f"{entry['tau']:.4f}",
                    f"{entry['worst_tau']:.4f}",
                ]
            )
    measured = figures["measured"]
    return rows(*lines) + (
        f"\n\n{measured['date']}, {measured['device']}, {measured['queries']} queries of four collections, "
        f"BM25's top {measured['top_k']} reranked."
    )


def tokenizing() -> str:
    figures = read("tokenizing")
    ms = figures["median_ms"]
    lines = [["ms, median", "cold", "cached"]]
    lines += [[name, f"{ms[f'{name} cold']:.2f}", f"{ms[f'{name} cached']:.2f}"] for name in ("tiktoken", "tokenizers")]
    return rows(*lines) + (
        f"\n\n{figures['date']}, one thread of {figures['processor']}, {figures['documents']} documents with a mean of "
        f"{figures['mean_tokens']:.0f} tokens, ModernBERT's vocabulary."
    )


def cascades() -> str:
    figures = read("cascades")
    measured, plans = figures["measured"], figures["plans"]
    lines = [["", "nDCG@10", "against large on all", "pairs by large", "times less device time"]]
    for name, plan in plans.items():
        less = "" if plan["times_less"] is None else f"{plan['times_less']:.2f}"
        by_large = f"{plan['by_large']:.0f}"
        lines.append([name, f"{plan['mean']:.4f}", f"{plan['difference']:+.4f}", by_large, less])
    small, large = measured["small"], measured["large"]
    return rows(*lines) + (
        f"\n\n{measured['date']}, {small} and {large} in {measured['dtype']} on one thread of {measured['device']}; "
        f"mean of four collections, {measured['queries']} queries, BM25's top {measured['top_k']}."
    )


TABLES: dict[str, Callable[[], str]] = {
    **{f"engine {shape}": lambda shape=shape: engine(shape) for shape in SHAPES},  # type: ignore[misc]
    "ratios": ratios,
    "precision": precision,
    "tokenizing": tokenizing,
    "cascades": cascades,
}


def filled(page: str) -> str:
    """The page with every table made anew."""

    def table(match: re.Match[str]) -> str:
        return f"<!-- {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- ([\w ]+) -->\n.*?<!-- end -->", table, page, flags=re.DOTALL)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
