"""The size of some pairs, which decides how long they take."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Work:
    """The size of some pairs, as the latency model needs it. squares: the sum of squared lengths in tokens."""

    pairs: int
    tokens: int
    squares: int

    @staticmethod
    def of(lengths: np.ndarray) -> "Work":
        """lengths: int [pairs], tokens of each pair."""
        wide = lengths.astype(np.int64)
        return Work(len(wide), int(wide.sum()), int(wide @ wide))

    @staticmethod
    def sum(works: Iterable["Work"]) -> "Work":
        each = list(works)
        return Work(sum(w.pairs for w in each), sum(w.tokens for w in each), sum(w.squares for w in each))

    def share(self, parts: int) -> "Work":
        """One of `parts` equal parts, rounded up."""
        return Work(-(-self.pairs // parts), -(-self.tokens // parts), -(-self.squares // parts))
