"""Figures of tiers and of all plans: the rows that are printed, and the table that a planner reads.

The format of the table is that of `quality.table` in a fleet file (`estimates/quality.py`).
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rankfleet.estimates.quality import parse_table
from rankfleet.evaluate.against import Price
from rankfleet.evaluate.candidates import Candidates, Collection, ScoredCandidates
from rankfleet.evaluate.fusion import FusionFit
from rankfleet.evaluate.measures import measure_run, ranked_run, recall_of, run_of
from rankfleet.evaluate.orders import best_first, cascade, first_scored
from rankfleet.retrieval.corpus import Judged

QUANTILES = (50, 95, 99)
FREE = Price()
STEPS = (5, 10, 20, 30, 40, 50)  # numbers of candidates that a tier scores, besides all


def figures_of(
    scored: ScoredCandidates, judged: Judged, candidates: Candidates, price: Price = FREE
) -> dict[str, float]:
    """Quality, latency of one query at a time, and rate: {"ndcg@10", "mrr@10", "recall@10", "p50_ms", "p95_ms",
    "p99_ms", "pairs_per_s"}, and `usd_per_1000` queries if there is a price."""
    orders = {name: best_first(logits) for name, logits in scored.logits.items()}
    figures = measure_run(run_of(orders, candidates), judged.qrels).to_json()
    times_ms = np.quantile(scored.times_ms or [0.0], [quantile / 100 for quantile in QUANTILES])
    figures |= {f"p{q}_ms": round(float(ms), 2) for q, ms in zip(QUANTILES, times_ms, strict=True)}
    figures["pairs_per_s"] = round(scored.pairs / scored.seconds, 2) if scored.seconds else 0.0
    queries = max(1, len(scored.logits))
    by_query = (total / queries for total in (scored.searches, scored.tokens, scored.seconds))
    usd = price.per_1000(*by_query)
    return figures if usd is None else figures | {"usd_per_1000": float(f"{usd:.4g}")}


def evaluate_retriever(judged: Judged, candidates: Candidates, name: str = "bm25") -> dict[str, Any]:
    """Quality of the retriever's own order, and `recall` of all candidates. name: of the retriever."""
    order = {query: [hit.id for hit in hits] for query, hits in candidates.items()}
    quality = measure_run(ranked_run(order), judged.qrels).to_json()
    return {"name": name, **quality, "recall": round(recall_of(candidates, judged.qrels), 4)}


def mean_of(collections: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of every figure over the collections, all with equal weight."""

    def mean(parts: list[Mapping[str, Any]]) -> dict[str, Any]:
        return {
            key: value if isinstance(value, str) else round(float(np.mean([p[key] for p in parts])), 4)
            for key, value in parts[0].items()
        }

    def means(kind: str) -> dict[str, Any]:
        return {name: mean([c[kind][name] for c in collections]) for name in collections[0].get(kind, ())}

    return {
        "retriever": mean([c["retriever"] for c in collections]),
        "tiers": means("tiers"),
        "against": means("against"),
    }


def data_sets(collections: Sequence[Collection], fit: FusionFit | None) -> dict[str, Any]:
    """The table's `data_sets`: every collection, and before them the mean if there are several.

    fit: adds `fused`, with the figures of held-back folds for candidates whose order alone is known, and the weights
    that are fitted on all folds.
    """
    tables = [quality_steps(c.scored, c.judged, c.candidates, STEPS) for c in collections]
    found = dict(zip((c.name for c in collections), tables, strict=True))
    if len(collections) > 1:
        found = {"mean": mean_of_steps(tables), **found}
    if fit is None:
        return found
    held_back = [quality_steps(fit.held_back(c, "order"), c.judged, c.candidates, STEPS, False) for c in collections]
    fused = [mean_of_steps(held_back), *held_back] if len(collections) > 1 else held_back
    return {
        name: table | {"fused": {"weights": fit.weights(), "tiers": own["tiers"], "cascades": own["cascades"]}}
        for (name, table), own in zip(found.items(), fused, strict=True)
    }


def quality_steps(
    scored: Mapping[str, ScoredCandidates],
    judged: Judged,
    candidates: Candidates,
    steps: Sequence[int],
    retrieved: bool = True,
) -> dict[str, Any]:
    """nDCG@10 of every tier by the number of candidates it scores, and of every cascade by that of its second tier.

    scored: by tier, from small to large; steps: the numbers; retrieved: False for fused scores, as in `cascade`.
    """

    def ndcg(order: Callable[[str], np.ndarray]) -> float:
        orders = {name: order(name) for name, hits in candidates.items() if hits}
        return round(measure_run(run_of(orders, candidates), judged.qrels).ndcg_10, 5)

    max_candidates = max(map(len, candidates.values()))
    within = [step for step in steps if step < max_candidates]
    tiers: dict[str, Any] = {}
    for tier, result in scored.items():
        depths = {str(k): ndcg(lambda q, r=result, k=k: first_scored(r.logits[q], k)) for k in within}  # type: ignore[misc]
        tiers[tier] = depths | {str(max_candidates): ndcg(lambda q, r=result: best_first(r.logits[q]))}  # type: ignore[misc]
    return {
        "retriever": ndcg(lambda q: np.arange(len(candidates[q]))),
        "tiers": tiers,
        "cascades": {
            f"{small}>{large}": {
                str(k): ndcg(
                    lambda q, s=scored[small], g=scored[large], k=k: cascade(s.logits[q], g.logits[q], k, retrieved)  # type: ignore[misc]
                )
                for k in within
            }
            for small, large in itertools.combinations(scored, 2)
        },
    }


def mean_of_steps(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean over data sets of the tables that `quality_steps` gave with the same `steps`, all with equal weight.

    The mean has every step that any table has. The last step of a data set is its number of candidates. Beyond it, a
    tier counts with its figure there, and a cascade with that of its large tier, since scoring more candidates than
    there are is scoring all of them. Between two steps of a data set, the planner's interpolation counts.
    """
    first, read = tables[0], [parse_table(table, dict.fromkeys(table["tiers"], 0.0), 0.0) for table in tables]

    def mean(figures: Iterable[float]) -> float:
        return round(float(np.mean(list(figures))), 5)

    tiers = {}
    for tier in first["tiers"]:
        depths = sorted(set().union(*(table.depths[tier] for table in read)))
        # k of k + 1 candidates, so that the figure comes from the depths and not from the tier's own
        tiers[tier] = {str(k): mean(table.at_depth(tier, k, k + 1) for table in read) for k in depths}
    cascades = {}
    for pair in first["cascades"]:
        small, large = pair.split(">")
        known = [(table.cascades[small, large], table.tiers[large]) for table in read]
        depths = sorted(set().union(*(steps for steps, _ in known)))
        cascades[pair] = {str(k): mean(steps.get(k, whole) for steps, whole in known) for k in depths}
    return {"retriever": mean(table.retriever for table in read), "tiers": tiers, "cascades": cascades}
