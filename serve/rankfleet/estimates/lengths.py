"""The token lengths of a request's pairs: how much work it is, whole, cut or in part.

A document that occurs twice among the candidates of a query is work once.
"""

from bisect import bisect_right
from functools import cached_property

import numpy as np

from rankfleet.core.work import Work


class Lengths:
    """Lengths of all pairs. Results are cached; tiers with one vocabulary and limit share one object."""

    def __init__(
        self,
        tokens: np.ndarray,
        template_tokens: int = 0,
        firsts: np.ndarray | None = None,
        ranks: np.ndarray | None = None,
        candidates: int | None = None,
    ) -> None:
        """
        tokens: int [pairs], length of each pair
        template_tokens: how many tokens of each pair are special tokens or a prompt, not query or document
        firsts: int [documents], index of each document's first pair; None if every document is one pair
        ranks: int [documents], the first place of each among the candidates of its query, from 0; None if there is one
            query, and no document occurs twice
        candidates: of the query that has the most; None if that is the number of documents
        """
        self.tokens = tokens.astype(np.int64)
        self.firsts = firsts
        self.template_tokens = template_tokens
        self.ranks = ranks
        self._candidates = candidates

    @cached_property
    def work(self) -> Work:
        """The work of all pairs, uncut."""
        return Work.of(self.tokens)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest pair."""
        return int(self.tokens.max(initial=0))

    def cut(self, max_tokens: int) -> Work:
        """The work of all pairs, each cut to `max_tokens`."""
        ordered, sums = self._by_length
        whole = bisect_right(ordered, max_tokens)
        longer = len(ordered) - whole
        tokens, squares = sums[whole]
        return Work(len(ordered), tokens + longer * max_tokens, squares + longer * max_tokens**2)

    @property
    def documents(self) -> int:
        """The number of documents to score."""
        return len(self.tokens if self.firsts is None else self.firsts)

    @property
    def candidates(self) -> int:
        """The number of candidates of the query that has the most."""
        return self.documents if self._candidates is None else self._candidates

    def share(self, count: int) -> float:
        """The largest share of the documents that `count` candidates of each query can be."""
        if self.ranks is None:
            return count / self.documents
        places = np.arange(len(self.ranks))
        begins = np.diff(self.ranks, prepend=0) <= 0  # ranks grow from one document of a query to the next
        numbers = places - np.maximum.accumulate(np.where(begins, places, 0))
        return float(np.mean(numbers < count))

    def first(self, count: int) -> Work:
        """The work of all pairs of the first `count` candidates of each query."""
        if count <= 0:
            return Work(0, 0, 0)
        if self.ranks is not None:
            kept = self.ranks < count
            if self.firsts is not None:
                kept = np.repeat(kept, np.diff(self.firsts, append=len(self.tokens)))
            return Work.of(self.tokens[kept])
        pairs = min(count, self.documents)
        if self.firsts is not None:
            pairs = int(self.firsts[count]) if count < self.documents else len(self.tokens)
        return Work(pairs, *self._sums[pairs])

    @cached_property
    def _sums(self) -> list[tuple[int, int]]:
        return running_sums(self.tokens)

    @cached_property
    def _by_length(self) -> tuple[list[int], list[tuple[int, int]]]:
        """All lengths, the shortest first, and their running sums."""
        ordered = np.sort(self.tokens)
        return ordered.tolist(), running_sums(ordered)


def running_sums(tokens: np.ndarray) -> list[tuple[int, int]]:
    """Sums of the tokens and of the squared lengths of the first n pairs, for each n from 0."""
    squares = np.cumsum(tokens * tokens).tolist()
    return list(zip([0, *np.cumsum(tokens).tolist()], [0, *squares], strict=True))
