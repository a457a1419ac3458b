"""nDCG@10, MRR@10 and recall@10 of rankings of judged queries.

Reported figures come from ir_measures: nDCG@10 with the grade itself as the gain (as in trec_eval), MRR@10, the
reciprocal rank of the first relevant document among the first ten, and recall@10, the share of all relevant documents
that are among them. `Gains` has the same nDCG@10 for the thousands of
orders that a fit compares.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rankfleet.core.errors import RankfleetError
from rankfleet.evaluate.candidates import Candidates
from rankfleet.retrieval.corpus import Judged

Run = dict[str, dict[str, float]]  # query id → document id → score
DEPTH = 10
MEASURES = ("ndcg@10", "mrr@10", "recall@10")
NAMES = dict(zip(MEASURES, ("nDCG@10", "RR@10", "R@10"), strict=True))  # as ir_measures calls them
DISCOUNTS = 1 / np.log2(np.arange(2, DEPTH + 2))


@dataclass(frozen=True)
class MeanQuality:
    """nDCG@10, MRR@10 and recall@10, as means over the judged queries."""

    ndcg_10: float
    mrr_10: float
    recall_10: float

    def to_json(self) -> dict[str, float]:
        named = zip(MEASURES, (self.ndcg_10, self.mrr_10, self.recall_10), strict=True)
        return {name: round(value, 4) for name, value in named}


def check_installed() -> None:
    """Raises RankfleetError that names the extra where its packages are missing."""
    try:
        import bm25s  # noqa: F401
        import ir_measures  # noqa: F401
        import sklearn  # noqa: F401
    except ImportError as error:
        raise RankfleetError("evaluating needs more packages:  pip install 'rankfleet[eval]'") from error


def measure_run(run: Run, qrels: Mapping[str, Mapping[str, int]]) -> MeanQuality:
    """Quality of a run over all queries of `qrels`; a query without results counts as 0."""
    return MeanQuality(*(float(values.mean()) for values in by_query_of(run, qrels, MEASURES)))


def ndcg_by_query(run: Run, qrels: Mapping[str, Mapping[str, int]]) -> np.ndarray:
    """float64 [queries], in the order of `qrels`: nDCG@10 of each query, 0 for one without results."""
    return by_query_of(run, qrels, MEASURES[:1])[0]


def by_query_of(run: Run, qrels: Mapping[str, Mapping[str, int]], measures: Sequence[str]) -> list[np.ndarray]:
    """By measure, float64 [queries] in the order of `qrels`; 0 for a query without results."""
    import ir_measures

    found = [ir_measures.parse_measure(NAMES[name]) for name in measures]
    values: dict[Any, dict[str, float]] = {measure: {} for measure in found}
    for each in ir_measures.iter_calc(found, {q: dict(g) for q, g in qrels.items()}, run):
        values[each.measure][each.query_id] = each.value
    return [np.array([values[name][query] for query in qrels]) for name in found]


def recall_of(candidates: Candidates, qrels: Mapping[str, Mapping[str, int]]) -> float:
    """Mean share of a query's relevant documents that are among its candidates: no order of them finds more."""
    shares = []
    for query, grades in qrels.items():
        relevant = {name for name, grade in grades.items() if grade > 0}
        shares.append(len(relevant & {hit.id for hit in candidates[query]}) / len(relevant))
    return float(np.mean(shares))


def ranked_run(order: Mapping[str, Sequence[str]]) -> Run:
    """A run with this order: scores fall by one, so that there are no ties to break."""
    return {query: {name: float(len(names) - i) for i, name in enumerate(names)} for query, names in order.items()}


def run_of(orders: Mapping[str, np.ndarray], candidates: Candidates) -> Run:
    """A run from indices of each query's candidates, best first."""
    return ranked_run({name: [candidates[name][i].id for i in order] for name, order in orders.items()})


@dataclass(frozen=True)
class Gains:
    """What each candidate adds to a query's nDCG@10 at rank 1.

    shares: float64 [queries, candidates], in the order of the judged queries: grade ÷ DCG@10 of the best order of all
    judged documents; 0 for a candidate without a grade, and where a query has fewer candidates than others.
    """

    shares: np.ndarray

    @staticmethod
    def of(judged: Judged, candidates: Candidates) -> "Gains":
        rows = []
        for query, grades in judged.qrels.items():
            best = sorted((max(grade, 0) for grade in grades.values()), reverse=True)[:DEPTH]
            own = np.array([max(grades.get(hit.id, 0), 0) for hit in candidates[query]], np.float64)
            rows.append(own / (DISCOUNTS[: len(best)] @ np.array(best)))
        return Gains(padded(rows, 0.0))

    def ndcg(self, scores: np.ndarray) -> np.ndarray:
        """float64 [queries]: nDCG@10 of the candidates sorted by score, ties in the given order.

        scores: float [queries, candidates]; −inf where there is no candidate.
        """
        best = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
        found: np.ndarray = np.take_along_axis(self.shares, best, axis=1) @ DISCOUNTS[: best.shape[1]]
        return found


def padded(rows: Sequence[np.ndarray], fill: float) -> np.ndarray:
    """float64 [rows, longest]: rows of different lengths, filled up."""
    whole = np.full((len(rows), max(map(len, rows))), fill)
    for i, row in enumerate(rows):
        whole[i, : len(row)] = row
    return whole
