"""Ranking quality and latency of each tier on judged queries.

Measures come from ir_measures: nDCG@10 with the grade itself as the gain (as in trec_eval), and MRR@10, the reciprocal
rank of the first relevant document among the first ten.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from rankfleet.core.errors import RankfleetError
from rankfleet.core.messages import Stage
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.quality import parse_table
from rankfleet.retrieval.bm25 import Bm25Index, Hit
from rankfleet.retrieval.corpus import Judged
from rankfleet.router.cascade import ranked, second_stage

Run = dict[str, dict[str, float]]  # query id → document id → score
Candidates = Mapping[str, Sequence[Hit]]  # by query, in the retriever's order
INSTANT = LatencyModel(0.0, 0.0, 0.0)  # a tier that takes no time, so that no second stage is shortened


class Scores(Protocol):
    """Anything that scores documents for a query, such as `engine.runtime.scorer.Reranker`."""

    def score(self, query: str, documents: Sequence[str]) -> np.ndarray: ...


@dataclass(frozen=True)
class MeanQuality:
    """nDCG@10 and MRR@10, as means over the judged queries."""

    ndcg_10: float
    mrr_10: float

    def to_json(self) -> dict[str, float]:
        return {"ndcg@10": round(self.ndcg_10, 4), "mrr@10": round(self.mrr_10, 4)}


def check_installed() -> None:
    """Raises RankfleetError that names the extra where its packages are missing."""
    try:
        import bm25s  # noqa: F401
        import ir_measures  # noqa: F401
    except ImportError as error:
        raise RankfleetError("evaluating needs more packages:  pip install 'rankfleet[eval]'") from error


def measure_run(run: Run, qrels: Mapping[str, Mapping[str, int]]) -> MeanQuality:
    """Quality of a run over all queries of `qrels`; a query without results counts as 0."""
    import ir_measures
    from ir_measures import RR, nDCG

    ndcg, rr = nDCG @ 10, RR @ 10
    result = ir_measures.calc_aggregate([ndcg, rr], {q: dict(g) for q, g in qrels.items()}, run)
    return MeanQuality(float(result[ndcg]), float(result[rr]))


def ranked_run(order: Mapping[str, Sequence[str]]) -> Run:
    """A run with this order: scores fall by one, so that there are no ties to break."""
    return {query: {name: float(len(names) - i) for i, name in enumerate(names)} for query, names in order.items()}


def retrieve(index: Bm25Index, judged: Judged, top_k: int) -> dict[str, list[Hit]]:
    """Candidates of every judged query."""
    return {name: index.search(text, top_k) for name, text in judged.queries.items()}


@dataclass(frozen=True)
class ScoredCandidates:
    """One tier's scores of all candidates. logits: by query; times_ms: of each query, tokenizing included."""

    logits: Mapping[str, np.ndarray]
    times_ms: Sequence[float]


def score_candidates(
    reranker: Scores,
    judged: Judged,
    candidates: Candidates,
    progress: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> ScoredCandidates:
    """Score the candidates of every judged query, and time each query. Raises RankfleetError for a score that is not
    finite."""
    scored, times = {}, []
    for name, hits in candidates.items():
        if hits:
            started = clock()
            logits = reranker.score(judged.queries[name], [hit.text for hit in hits])
            times.append((clock() - started) * 1e3)
            if not np.isfinite(logits).all():
                raise RankfleetError(f"query {name!r} got scores that are not finite; try the tier in float32")
            scored[name] = logits
        progress()
    return ScoredCandidates(scored, times)


def figures_of(scored: ScoredCandidates, judged: Judged, candidates: Candidates) -> dict[str, float]:
    """{"ndcg@10", "mrr@10", "p50_ms", "p95_ms"} of one tier."""
    orders = {name: best_first(logits) for name, logits in scored.logits.items()}
    quality = measure_run(run_of(orders, candidates), judged.qrels)
    p50, p95 = np.quantile(scored.times_ms, [0.5, 0.95]) if scored.times_ms else (0.0, 0.0)
    return quality.to_json() | {"p50_ms": round(float(p50), 2), "p95_ms": round(float(p95), 2)}


def best_first(logits: np.ndarray) -> np.ndarray:
    """Indices of the candidates, best first; ties in the given order."""
    return np.argsort(-logits, kind="stable")


def first_scored(logits: np.ndarray, depth: int) -> np.ndarray:
    """The order when only the first `depth` candidates are scored: those by score, then the others in the given
    order."""
    return np.concatenate([best_first(logits[:depth]), np.arange(len(logits))[depth:]])


def cascade(small: np.ndarray, large: np.ndarray, keep: int) -> np.ndarray:
    """The order that the service gives when `small` scores all candidates and `large` the `keep` most promising.

    small, large: logits, float [candidates], in the retriever's order.
    """
    lengths = np.zeros(len(small), dtype=np.int64)
    kept = second_stage(Stage.of("large", keep), small, lengths, INSTANT, math.inf, retrieved=True)
    order, _ = ranked(small, kept, large[kept], retrieved=True)
    return order


def quality_steps(
    scored: Mapping[str, ScoredCandidates], judged: Judged, candidates: Candidates, steps: Sequence[int]
) -> dict[str, Any]:
    """nDCG@10 of every tier by the number of candidates it scores, and of every cascade by that of its second tier.

    The format is that of `quality.table` in a fleet file. scored: by tier, from small to large; steps: the numbers.
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
                str(k): ndcg(lambda q, s=scored[small], g=scored[large], k=k: cascade(s.logits[q], g.logits[q], k))  # type: ignore[misc]
                for k in within
            }
            for small, large in itertools.combinations(scored, 2)
        },
    }


def run_of(orders: Mapping[str, np.ndarray], candidates: Candidates) -> Run:
    """A run from indices of each query's candidates, best first."""
    return ranked_run({name: [candidates[name][i].id for i in order] for name, order in orders.items()})


def evaluate_retriever(judged: Judged, candidates: Candidates) -> dict[str, Any]:
    """Quality of the retriever's own order."""
    order = {name: [hit.id for hit in hits] for name, hits in candidates.items()}
    return {"name": "bm25", **measure_run(ranked_run(order), judged.qrels).to_json()}


def mean_of(collections: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of every figure over the collections, all with equal weight."""

    def mean(parts: list[Mapping[str, Any]]) -> dict[str, Any]:
        return {
            key: value if isinstance(value, str) else round(float(np.mean([p[key] for p in parts])), 4)
            for key, value in parts[0].items()
        }

    return {
        "retriever": mean([c["retriever"] for c in collections]),
        "tiers": {name: mean([c["tiers"][name] for c in collections]) for name in collections[0]["tiers"]},
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
