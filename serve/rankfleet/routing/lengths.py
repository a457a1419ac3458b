"""Lengths of a request's pairs: how much work is left when something is left out."""

from functools import cached_property

import numpy as np

from rankfleet.core.messages import Work


class Lengths:
    """tokens: int [pairs], as given; frame: those of each pair that are no text, special tokens or a prompt. Tiers with
    one vocabulary and limit share one object, and so what it has worked out."""

    def __init__(self, tokens: np.ndarray, frame: int = 0) -> None:
        self._tokens = tokens.astype(np.int64)
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

    def first(self, count: int) -> Work:
        """The first pairs, whole."""
        if count <= 0:
            return Work(0, 0, 0)
        return Work(count, *self._sums[min(count, len(self._tokens)) - 1])

    @cached_property
    def _sums(self) -> list[tuple[int, int]]:
        tokens = np.cumsum(self._tokens).tolist()
        squares = np.cumsum(self._tokens * self._tokens).tolist()
        return list(zip(tokens, squares, strict=True))
