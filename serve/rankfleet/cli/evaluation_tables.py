"""The tables that `rankfleet evaluate` prints."""

from typing import Any

from rankfleet.bench.tables import Column, figures_table, terminal
from rankfleet.cli import out

TIMES = (
    Column("p50_ms", ".1f"),
    Column("p95_ms", ".1f"),
    Column("p99_ms", ".1f"),
    Column("pairs_per_s", ".1f", "pairs/s"),
    Column("usd_per_1000", ".4g", "$ per 1,000 queries"),
)


def show(title: str, figures: dict[str, Any]) -> None:
    """Print quality, then times: one row for the retriever's order, one for each tier and one for each of whom they are
    compared with, with the differences from the retriever, the best, and the latter."""

    def told(row: str) -> dict[str, str]:
        found = figures["compared"][row].items()
        return {key: f"{less['mean']:+.4f}, p {less['p']:.3f}" for key, less in found if key != "interval"}

    name, rows = figures["retriever"]["name"], figures["tiers"] | figures["against"]
    measures = [Column("ndcg@10", ".4f", "nDCG@10"), Column("mrr@10", ".4f", "MRR@10"), Column("recall@10", ".4f")]
    bases = {"retriever": name, "best": "the best", **{other: other for other in figures["against"]}}
    less = [Column(f"less_{base}", title=f"less {title}") for base, title in bases.items()]
    quality = {name: figures["retriever"]} | {row: own | told(row) for row, own in rows.items()}
    out.print(figures_table(quality, [*measures, *less], title=title))
    out.print(figures_table(rows, TIMES, title=f"{title}: one query at a time, and pairs per second of a replica"))


def show_fusion(title: str, retriever: dict[str, Any], fused: dict[str, Any]) -> None:
    """Print one row for the retriever's order and one for each plan: alone, fused, and by how much that is better."""

    def gain(difference: dict[str, Any]) -> str:
        low, high = difference["interval"]
        return f"{difference['mean']:+.4f} ({low:+.3f} to {high:+.3f})"

    rows = [[retriever["name"], f"{retriever['ndcg@10']:.4f}"]]
    for plan, each in fused.items():
        order, scores = each["order"], each["scores"]
        gains = (order["less_retriever"], order["less_alone"], scores["less_order"])
        rows.append([plan, f"{each['alone']:.4f}", f"{order['ndcg@10']:.4f}", *map(gain, gains)])
    header = ["nDCG@10", "alone", "fused", f"less {retriever['name']}", "less alone", "more with scores"]
    out.print(terminal(header, rows, title=f"{title}: fused with the candidates' order, held-back queries"))


def show_calibration(reliability: dict[str, dict[str, Any]]) -> None:
    """Print how reliable each tier's `relevance_score` is, alone and fused, with the plain sigmoid's in brackets."""
    rows = [
        [
            tier if way == "alone" else f"{tier}, fused",
            *(f"{own[name]:.4f} ({own['plain'][name]:.4f})" for name in ("brier", "log_loss", "ece")),
        ]
        for way, by_tier in reliability.items()
        for tier, own in by_tier.items()
    ]
    if rows:
        header = ["relevance_score", "Brier score", "log-loss", "calibration error"]
        out.print(terminal(header, rows, title="calibrated (plain sigmoid), held-back queries"))
