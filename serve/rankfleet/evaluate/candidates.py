"""Judged queries with their candidates, and the tiers' scores of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from rankfleet.core.errors import RankfleetError
from rankfleet.retrieval.bm25 import Bm25Index, Hit
from rankfleet.retrieval.corpus import Judged, read_documents, read_judged

Candidates = Mapping[str, Sequence[Hit]]  # by query, in the retriever's order


class Scores(Protocol):
    """Anything that scores documents for a query, such as `engine.runtime.scorer.Reranker`."""

    def score(self, query: str, documents: Sequence[str]) -> np.ndarray: ...


@dataclass(frozen=True)
class ScoredCandidates:
    """One tier's scores of all candidates. logits: by query; times_ms: of each query, tokenizing included."""

    logits: Mapping[str, np.ndarray]
    times_ms: Sequence[float] = ()


@dataclass(frozen=True)
class Collection:
    """One data set. documents: how many were searched; scored: by tier, from small to large."""

    name: str
    documents: int
    judged: Judged
    candidates: Candidates
    scored: Mapping[str, ScoredCandidates] = field(default_factory=dict)

    @staticmethod
    def read(folder: Path, top_k: int, queries: int | None = None) -> "Collection":
        """A BEIR folder, with BM25's top_k candidates, not scored yet. queries: use only so many, from the first.

        Raises InvalidRequest that names the file.
        """
        judged = read_judged(folder)
        kept = list(judged.queries)[:queries]
        judged = Judged({q: judged.queries[q] for q in kept}, {q: judged.qrels[q] for q in kept})
        index = Bm25Index.build(read_documents(folder))
        return Collection(folder.resolve().name, len(index), judged, retrieve(index, judged, top_k))


def retrieve(index: Bm25Index, judged: Judged, top_k: int) -> dict[str, list[Hit]]:
    """Candidates of every judged query."""
    return {name: index.search(text, top_k) for name, text in judged.queries.items()}


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
