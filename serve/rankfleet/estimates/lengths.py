"""The token lengths of a request's pairs: how much work it is, whole, cut or in part."""

from functools import cached_property

import numpy as np

from rankfleet.core.work import Work


class Lengths:
    """Lengths of all pairs. Results are cached; tiers with one vocabulary and limit share one object."""

    def __init__(self, tokens: np.ndarray, template_tokens: int = 0, firsts: np.ndarray | None = None) -> None:
        """
        tokens: int [pairs], length of each pair
        template_tokens: how many tokens of each pair are special tokens or a prompt, not query or document
        firsts: int [documents], index of each document's first pair; None if every document is one pair
        """
        self.tokens = tokens.astype(np.int64)
        self.firsts = firsts
        self.template_tokens = template_tokens
        self._cut: dict[int, Work] = {}

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
        if max_tokens not in self._cut:
            self._cut[max_tokens] = Work.of(np.minimum(self.tokens, max_tokens))
        return self._cut[max_tokens]

    @property
    def documents(self) -> int:
        """The number of documents."""
        return len(self.tokens if self.firsts is None else self.firsts)

    def first(self, count: int) -> Work:
        """The work of all pairs of the first `count` documents."""
        if count <= 0:
            return Work(0, 0, 0)
        pairs = min(count, self.documents)
        if self.firsts is not None:
            pairs = int(self.firsts[count]) if count < self.documents else len(self.tokens)
        return Work(pairs, *self._sums[pairs - 1])

    @cached_property
    def _sums(self) -> list[tuple[int, int]]:
        """Running sums of tokens and of squared lengths, by pair."""
        tokens = np.cumsum(self.tokens).tolist()
        squares = np.cumsum(self.tokens * self.tokens).tolist()
        return list(zip(tokens, squares, strict=True))
