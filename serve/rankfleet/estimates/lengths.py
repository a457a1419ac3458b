"""Lengths of a request's pairs: how much work is left when something is left out."""

from functools import cached_property

import numpy as np

from rankfleet.core.messages import Work


class Lengths:
    """tokens: int [pairs], as given; frame: those of each pair that are no text, special tokens or a prompt; firsts:
    int [documents], each document's first pair, by default one pair a document. Tiers with one vocabulary and limit
    share one object, and so what it has worked out."""

    def __init__(self, tokens: np.ndarray, frame: int = 0, firsts: np.ndarray | None = None) -> None:
        self._tokens = tokens.astype(np.int64)
        self._firsts = firsts
        self.frame = frame
        self._cut: dict[int, Work] = {}

    @cached_property
    def work(self) -> Work:
        """All pairs, whole."""
        return Work.of(self._tokens)

    @cached_property
    def longest(self) -> int:
        return int(self._tokens.max(initial=0))

    def cut(self, max_tokens: int) -> Work:
        """All pairs, none longer than `max_tokens`."""
        if max_tokens not in self._cut:
            self._cut[max_tokens] = Work.of(np.minimum(self._tokens, max_tokens))
        return self._cut[max_tokens]

    @property
    def documents(self) -> int:
        return len(self._tokens if self._firsts is None else self._firsts)

    def first(self, count: int) -> Work:
        """The first `count` documents, with all of their pairs."""
        if count <= 0:
            return Work(0, 0, 0)
        pairs = min(count, self.documents)
        if self._firsts is not None:
            pairs = int(self._firsts[count]) if count < self.documents else len(self._tokens)
        return Work(pairs, *self._sums[pairs - 1])

    @cached_property
    def _sums(self) -> list[tuple[int, int]]:
        tokens = np.cumsum(self._tokens).tolist()
        squares = np.cumsum(self._tokens * self._tokens).tolist()
        return list(zip(tokens, squares, strict=True))
