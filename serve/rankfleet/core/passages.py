"""Which tokens of a query and of its documents go into which pair: pure arithmetic over lengths.

A document that does not fit beside the query is cut (`truncate`), or becomes several passages that are scored
apart and folded back by their maximum (`max_passages`).
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

LongDocuments = Literal["truncate", "max_passage"]


@dataclass(frozen=True)
class PassageRule:
    """overlap_tokens: shared by neighbouring passages; most: passages of one document, the rest of it is cut."""

    overlap_tokens: int
    max_passages: int


@dataclass(frozen=True)
class PairLayout:
    """The pairs of one request, all of a document's side by side, documents in the order given.

    owners: int64 [pairs], the document; query: int64 [pairs], tokens of the query kept; starts, stops: int64
    [pairs], the tokens of the document; firsts: int64 [documents], each document's first pair; truncated:
    documents of which something is in no pair, or beside a query that was cut.
    """

    owners: np.ndarray
    query: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    firsts: np.ndarray
    truncated: list[int]

    def __len__(self) -> int:
        return len(self.owners)

    @property
    def tokens(self) -> np.ndarray:
        """int64 [pairs], without special tokens."""
        return self.query + self.stops - self.starts

    @property
    def counts(self) -> np.ndarray:
        """int64 [documents], pairs of each."""
        if len(self.firsts) == len(self):
            return np.ones(len(self), dtype=np.int64)
        return np.diff(self.firsts, append=len(self))

    def cut(self, limit: int) -> "PairLayout":
        """The same pairs, none with more than `limit` tokens of text: each keeps its beginning, so a passage that is
        cut stays one passage."""
        query, texts = longest_first(self.query, self.stops - self.starts, limit)
        stops = self.starts + texts
        cut = self.owners[(query < self.query) | (stops < self.stops)]
        truncated = sorted({*self.truncated, *cut.tolist()})
        return replace(self, query=query, stops=stops, truncated=truncated)

    def best(self, logits: np.ndarray) -> np.ndarray:
        """The scores of documents, [documents]: the largest of each one's pairs."""
        return logits if len(self.firsts) == len(self) else np.maximum.reduceat(logits, self.firsts)


def longest_first(first: int | np.ndarray, second: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """How many tokens of a text and of each of others stay when two together may have `limit`: the longer text
    gives way until both are equal, then both do (`truncation="longest_first"` of Transformers)."""
    short = np.minimum(first, second)
    long = np.maximum(short, limit - short)
    both_give = short + long > limit
    short = np.where(both_give, limit // 2, short)
    long = np.where(both_give, limit - limit // 2, long)
    fits = first + second <= limit
    kept_first = np.where(fits, first, np.where(first <= second, short, long))
    kept_second = np.where(fits, second, np.where(first <= second, long, short))
    return kept_first, kept_second


def truncate(query: int, documents: np.ndarray, limit: int) -> PairLayout:
    """One pair a document. query: tokens; documents: int64 [n], tokens of each; limit: tokens of a pair."""
    kept, stops = longest_first(query, documents, limit)
    rows = np.arange(len(documents))
    cut = np.flatnonzero((kept < query) | (stops < documents))
    return PairLayout(rows, kept, np.zeros_like(rows), stops, rows, cut.tolist())


def max_passages(query: int, documents: np.ndarray, limit: int, rule: PassageRule) -> PairLayout:
    """As many passages as each document needs, of about equal length so that none is a mere tail.

    With d tokens to place, room r beside the query and overlap v, n = ⌈(d − v) / (r − v)⌉ passages of
    ⌈(d + (n − 1)·v) / n⌉ tokens. Where the room is small, the overlap is at most half of it.
    """
    kept, room = longest_first(query, documents, limit)
    split = room < documents
    overlap = np.minimum(rule.overlap_tokens, room // 2)
    needed = -((overlap - documents) // np.maximum(room - overlap, 1))
    counts = np.where(split, np.clip(needed, 1, rule.max_passages), 1)
    covered = np.minimum(documents, counts * room - (counts - 1) * overlap)
    sizes = -(-(covered + (counts - 1) * overlap) // counts)

    firsts = np.cumsum(counts) - counts
    owners = np.repeat(np.arange(len(documents)), counts)
    place = np.arange(len(owners)) - firsts[owners]
    starts = place * (sizes - overlap)[owners]
    stops = np.minimum(starts + sizes[owners], covered[owners])
    cut = np.flatnonzero((kept < query) | (covered < documents))
    return PairLayout(owners, kept[owners], starts, stops, firsts, cut.tolist())
