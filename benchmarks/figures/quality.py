"""How the demo tiers rank: alone, fused with BM25's order, and in cascades."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from benchmarks.figures.stored import conditions, stored, versions

from rankfleet.bench.tables import markdown
from rankfleet.evaluate.comparison import difference

WAYS = {"alone": "alone", "order": "fused"}  # of scores that are calibrated
NAMES = {"medline": "Medline", "cranfield": "Cranfield", "cisi": "CISI", "dbpedia-sample": "DBpedia-Entity"}
DEMO_TIERS = {"small": "2 slim layers", "medium": "3 layers", "large": "6 layers"}


def demo_quality() -> str:
    """Means over the collections that the demo tiers are tested on."""
    mean = stored("demo_quality")["mean"]
    rows = [["BM25's own order", f"{mean['retriever']['ndcg@10']:.3f}", ""]]
    for tier, layers in DEMO_TIERS.items():
        fused = mean["fused"][tier]
        rows.append([f"{tier} ({layers})", f"{fused['alone']:.3f}", f"{fused['order']['ndcg@10']:.3f}"])
    return markdown(["nDCG@10, mean of four collections", "alone", "fused with BM25's order"], rows)


def tiers_compared() -> str:
    """Each tier against the next smaller one, with a paired interval."""
    collections, rows = stored("demo_quality")["collections"], []
    for small, large in itertools.pairwise(DEMO_TIERS):
        gains = []
        for how in ("alone", "order"):
            ours, theirs = ([np.array(each["by_query"][how][tier]) for each in collections] for tier in (large, small))
            gains.append(gain(difference(ours, theirs)))
        rows.append([f"{large} less {small}", *gains])
    return markdown(["nDCG@10, mean of four collections", "alone", "fused"], rows)


def gain(difference: dict[str, Any]) -> str:
    low, high = difference["interval"]
    return f"{difference['mean']:+.3f} ({low:+.3f} to {high:+.3f})"


def fused() -> str:
    """Every plan on the mean of the collections, fused with the order, and with scores."""
    mean = stored("demo_quality")["mean"]
    rows = [["BM25's own order", f"{mean['retriever']['ndcg@10']:.3f}"]]
    for plan, row in mean["fused"].items():
        order, scores = row["order"], row["scores"]
        cells = (f"{row['alone']:.3f}", f"{order['ndcg@10']:.3f}", gain(order["less_retriever"]))
        more = (gain(order["less_alone"]), f"{order['other_collections']:.3f}", gain(scores["less_order"]))
        rows.append([named(plan), *cells, *more])
    rows[0] += [""] * 5
    header = ["nDCG@10, mean of four collections", "alone", "fused", "less BM25", "less alone"]
    header += ["weights of the other collections", "with scores: less order"]
    return f"{markdown(header, rows)}\n\n{caption()}"


def fused_by_collection() -> str:
    rows = []
    for figures in stored("demo_quality")["collections"]:
        name, bm25 = f"{figures['data']} ({figures['queries']})", f"{figures['retriever']['ndcg@10']:.3f}"
        for plan, row in figures["fused"].items():
            order = row["order"]
            cells = (f"{row['alone']:.3f}", f"{order['ndcg@10']:.3f}")
            rows.append([name, named(plan), bm25, *cells, gain(order["less_retriever"]), gain(order["less_alone"])])
    header = ["collection (queries)", "plan", "BM25", "alone", "fused", "less BM25", "less alone"]
    return markdown(header, rows, left=2)


def weights() -> str:
    rows = [[tier, f"{weight:.2f}"] for tier, weight in stored("demo_quality")["weights"].items()]
    return markdown(["tier", "weight"], rows)


def calibration() -> str:
    """How reliable each tier's probabilities are, beside those of the plain sigmoid."""
    figures, rows = stored("calibration"), []
    for way, title in WAYS.items():
        for tier, own in figures[way]["tiers"].items():
            cells = [f"{own[name]:.3f} ({own['plain'][name]:.3f})" for name in ("brier", "log_loss", "ece")]
            rows.append([tier, title, *cells])
    header = ["tier", "scores", "Brier score (plain)", "log-loss (plain)", "calibration error (plain)"]
    how = (f"{figures['queries']} queries", f"BM25's top {figures['top_k']}", f"tiers in {figures['dtype']}")
    return f"{markdown(header, rows, left=2)}\n\n{conditions(figures['measured'], *how)}."


def calibration_thresholds() -> str:
    """The share of documents that each tier and each cascade passes."""
    figures, rows = stored("calibration"), []
    for way, title in WAYS.items():
        for percent, each in figures[way]["thresholds"].items():
            passed = [f"{share:.1f}%" for share in each["passed"].values()]
            alone = figures[way]["each for itself"]["thresholds"][percent]["points"]
            rows.append([title, f"{each['threshold']:.3f}", *passed, f"{each['points']:.1f}", f"{alone:.1f}"])
    plans = [named(plan) for plan in figures["alone"]["thresholds"]["10"]["passed"]]
    return markdown(["scores", "threshold", *plans, "points between tiers", "not levelled"], rows)


def calibration_in_float32() -> str:
    thresholds = [stored("calibration")[way]["float32"]["thresholds"].values() for way in WAYS]
    return f"{max(each['points'] for own in thresholds for each in own):.1f} points"


def calibration_priors() -> str:
    shares = [each["relevant"] for each in stored("calibration")["alone"]["collections"].values()]
    return f"{100 * min(shares):.0f} to {100 * max(shares):.0f}%"


def calibration_by_collection() -> str:
    ways = [stored("calibration")[way]["collections"].values() for way in WAYS]
    return f"{max(error for own in ways for each in own for error in each['ece'].values()):.2f}"


def distilled() -> str:
    """What a student of Medline's documents ranks otherwise than before, there and elsewhere."""
    figures, rows = stored("distill_medline"), []
    for name, each in figures["collections"].items():
        change = gain({"mean": each["gain"], "interval": each["interval"]})
        after = f"{float(np.mean(each['after'])):.3f}"
        rows.append([NAMES[name], f"{each['queries']}", f"{each['before']:.3f}", after, change])
    table = markdown(["nDCG@10", "queries", "before", "after", "difference"], rows)
    seeds = len(figures["seeds"])
    how = "one seed" if seeds == 1 else f"mean of {seeds} seeds"
    return f"{table}\n\n{conditions(figures['measured'], how)}. In brackets: 95% intervals over queries."


def named(plan: str) -> str:
    """`small>large 20` in words."""
    small, _, second = plan.partition(">")
    return f"{small}, then {second.replace(' ', ' on ')}" if second else small


def caption() -> str:
    figures = stored("demo_quality")
    first, measured = figures["collections"][0], figures["measured"]
    queries = sum(collection["queries"] for collection in figures["collections"])
    how = (f"{queries} queries", f"BM25's top {first['top_k']}", f"tiers in {first['dtype']}")
    return f"{conditions(measured, *how)}, {versions(measured)}. In brackets: 95% intervals."


FIGURES: dict[str, Callable[[], str]] = {
    "demo-quality": demo_quality,
    "fused": fused,
    "tiers-compared": tiers_compared,
    "fused-by-collection": fused_by_collection,
    "fusion-weights": weights,
    "calibration": calibration,
    "calibration-thresholds": calibration_thresholds,
    "calibration-float32": calibration_in_float32,
    "calibration-priors": calibration_priors,
    "calibration-by-collection": calibration_by_collection,
    "distilled": distilled,
}
