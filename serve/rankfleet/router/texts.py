"""The pairs of a request as tiers see them, whatever they were made from.

A text that occurs twice among the candidates of a query is one document: it is scored once, and each of its places has
that logit.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rankfleet.core.pairs import TokenizedPairs
from rankfleet.core.passages import PairLayout, PassageRule
from rankfleet.core.query_lists import QueryLists


@dataclass(frozen=True)
class Part:
    """Some of a request's candidates as one tier sees them.

    pairs: in the order of the layout. documents: int [candidates], the document of each in the layout; None where each
    candidate is a document of its own.
    """

    pairs: TokenizedPairs
    layout: PairLayout
    documents: np.ndarray | None = None

    def best(self, logits: np.ndarray) -> np.ndarray:
        """float [candidates]: the logit of each one's best passage. logits: float [pairs]."""
        return self._of_candidates(self.layout.best(logits))

    def best_pairs(self, logits: np.ndarray) -> np.ndarray:
        """int64 [candidates]: the pair of each that scored best. logits: float [pairs]."""
        return self._of_candidates(self.layout.best_pairs(logits))

    @property
    def passages(self) -> np.ndarray:
        """int64 [candidates]: pairs of each."""
        return self._of_candidates(self.layout.counts)

    @property
    def truncated(self) -> list[int]:
        """The candidates that are not read whole, as the layout says."""
        cut = self.layout.truncated
        return cut if self.documents is None else np.flatnonzero(np.isin(self.documents, cut)).tolist()

    def _of_candidates(self, of_documents: np.ndarray) -> np.ndarray:
        return of_documents if self.documents is None else of_documents[self.documents]


class RequestTexts(Protocol):
    """A request's texts as token ids: `tokenize.TokenizedTexts`, or stand-ins of the simulator.

    passages: how long documents are split; None if only their beginning is scored.
    cached: candidates whose ids were in the cache.
    lists: the candidates of each query.
    documents: int [candidates], the document of each; None where each candidate is a document of its own.
    """

    @property
    def passages(self) -> PassageRule | None: ...

    @property
    def cached(self) -> int: ...

    @property
    def lists(self) -> QueryLists: ...

    @property
    def documents(self) -> np.ndarray | None: ...

    def alike(self, tiers: tuple[str, ...], tier: str) -> tuple[str, ...]:
        """`tier`, then those of `tiers` that see the same pairs as it."""
        ...

    def document_lengths(self, tier: str) -> np.ndarray:
        """int [documents]: tokens of all pairs of each document."""
        ...

    async def part(self, tier: str, places: np.ndarray | None = None, max_tokens: int | None = None) -> Part:
        """The pairs of some candidates. places: of these; None for all. max_tokens: cut each pair to this length; the
        number of passages stays the same."""
        ...


def with_copies(places: np.ndarray, documents: np.ndarray | None) -> np.ndarray:
    """int [places]: these places, and behind them the others of the same documents, which cost nothing to score.

    documents: as in `RequestTexts`.
    """
    if documents is None:
        return places
    same = np.flatnonzero(np.isin(documents, documents[places]))
    return np.concatenate([places, np.setdiff1d(same, places)])
