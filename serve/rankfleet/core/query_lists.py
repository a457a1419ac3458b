"""Which candidates of a request are whose: those of several queries stand in one row, one query's after the other's."""

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np


@dataclass(frozen=True)
class QueryLists:
    """counts: how many candidates each query has."""

    counts: tuple[int, ...]

    @property
    def longest(self) -> int:
        """Candidates of the query that has the most."""
        return max(self.counts)

    @cached_property
    def slices(self) -> list[slice]:
        """The candidates of each query."""
        return [slice(stop - count, stop) for count, stop in zip(self.counts, self._stops, strict=True)]

    @cached_property
    def _stops(self) -> list[int]:
        return [*accumulate(self.counts)]

    def locate(self, place: int) -> tuple[int, int]:
        """The query of a candidate, and its place among those of its query."""
        query = bisect_right(self._stops, place)
        return query, place - self._stops[query] + self.counts[query]

    @property
    def queries(self) -> np.ndarray:
        """int64 [candidates]: the query of each."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @property
    def ranks(self) -> np.ndarray:
        """int64 [candidates]: the place of each among those of its query, from 0."""
        starts = np.cumsum(self.counts) - self.counts
        return np.arange(sum(self.counts)) - np.repeat(starts, self.counts)

    def best_first(self, scores: np.ndarray) -> np.ndarray:
        """int64 [candidates]: their places, query by query, by falling score, ties in the order given.

        scores: float [candidates].
        """
        if len(self.counts) == 1:
            return np.argsort(-scores, kind="stable")
        return np.lexsort((-scores, self.queries))
