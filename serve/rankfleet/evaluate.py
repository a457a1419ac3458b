"""Which size is enough: ranking quality and latency of each tier on judged queries.

Measures come from ir_measures: nDCG@10 with the grade itself as the gain (as trec_eval has it), and the reciprocal
rank of the first relevant document among the first ten.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from rankfleet.core.errors import RankfleetError
from rankfleet.retrieval.bm25 import Bm25Index, Hit
from rankfleet.retrieval.corpus import Judged

Run = dict[str, dict[str, float]]  # query id → document id → score


class Scores(Protocol):
    """Anything that scores documents for a query: `engine.scorer.Reranker`, or a stand-in."""

    def score(self, query: str, documents: Sequence[str]) -> np.ndarray: ...


@dataclass(frozen=True)
class Quality:
    """Means over the judged queries."""

    ndcg_10: float
    mrr_10: float

    def to_json(self) -> dict[str, float]:
        return {"ndcg@10": round(self.ndcg_10, 4), "mrr@10": round(self.mrr_10, 4)}


def measure_run(run: Run, qrels: Mapping[str, Mapping[str, int]]) -> Quality:
    """Quality of a run over all queries of `qrels`; a query without results counts as 0."""
    try:
        import ir_measures
        from ir_measures import RR, nDCG
    except ImportError as error:
        raise RankfleetError("evaluating needs more packages:  pip install 'rankfleet[eval]'") from error
    ndcg, rr = nDCG @ 10, RR @ 10
    result = ir_measures.calc_aggregate([ndcg, rr], {q: dict(g) for q, g in qrels.items()}, run)
    return Quality(float(result[ndcg]), float(result[rr]))


def ranked_run(order: Mapping[str, Sequence[str]]) -> Run:
    """Document ids best first → scores that fall by one, so that ties cannot be broken otherwise than here."""
    return {query: {name: float(len(names) - i) for i, name in enumerate(names)} for query, names in order.items()}


def retrieve(index: Bm25Index, judged: Judged, top_k: int) -> dict[str, list[Hit]]:
    """Candidates of every judged query."""
    return {name: index.search(text, top_k) for name, text in judged.queries.items()}


def evaluate_tier(
    reranker: Scores,
    judged: Judged,
    candidates: Mapping[str, Sequence[Hit]],
    progress: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """{"ndcg@10", "mrr@10", "p50_ms", "p95_ms"} of one tier; the times are per query, tokenizing included.

    Raises RankfleetError when a score is not finite: such an order would mean nothing.
    """
    order, times = {}, []
    for name, hits in candidates.items():
        if hits:
            started = clock()
            logits = reranker.score(judged.queries[name], [hit.text for hit in hits])
            times.append((clock() - started) * 1e3)
            if not np.isfinite(logits).all():
                raise RankfleetError(f"query {name!r} got scores that are not finite; try the tier in float32")
            order[name] = [hits[i].id for i in np.argsort(-logits, kind="stable")]
        progress()
    quality = measure_run(ranked_run(order), judged.qrels)
    p50, p95 = np.quantile(times, [0.5, 0.95]) if times else (0.0, 0.0)
    return quality.to_json() | {"p50_ms": round(float(p50), 2), "p95_ms": round(float(p95), 2)}


def evaluate_retriever(judged: Judged, candidates: Mapping[str, Sequence[Hit]]) -> dict[str, Any]:
    """Quality of the order that the first stage gives by itself."""
    order = {name: [hit.id for hit in hits] for name, hits in candidates.items()}
    return {"name": "bm25", **measure_run(ranked_run(order), judged.qrels).to_json()}


def mean_of(collections: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean over collections of every figure, each collection counting the same."""

    def mean(parts: list[Mapping[str, Any]]) -> dict[str, Any]:
        return {
            key: value if isinstance(value, str) else round(float(np.mean([p[key] for p in parts])), 4)
            for key, value in parts[0].items()
        }

    return {
        "retriever": mean([c["retriever"] for c in collections]),
        "tiers": {name: mean([c["tiers"][name] for c in collections]) for name in collections[0]["tiers"]},
    }
