"""Which tokens of a query and its documents go into which pair: pure arithmetic on lengths.

A document that does not fit beside the query is cut (`truncate`), or split into passages that are scored separately;
the document's score is then that of its best passage (`max_passages`).
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from rankfleet.core.text_options import Side

LongDocuments = Literal["truncate", "max_passage"]


@dataclass(frozen=True)
class PassageRule:
    """overlap_tokens: shared by neighbouring passages. max_passages: of one document; the rest of it is cut."""

    overlap_tokens: int
    max_passages: int


@dataclass(frozen=True)
class PairLayout:
    """The pairs of one request: documents in the order given, the passages of each side by side.

    owners: int64 [pairs], place of the document.
    query: int64 [pairs], how many tokens of the query are kept: the first, or the last where `cut_side` is left.
    starts, stops: int64 [pairs], the range of the document's tokens.
    firsts: int64 [documents], each document's first pair.
    truncated: places of documents that are not read whole, or only beside a cut query.
    cut_side: which side of texts that are too long is left out.
    """

    owners: np.ndarray
    query: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    firsts: np.ndarray
    truncated: list[int]
    cut_side: Side = "right"

    def __len__(self) -> int:
        return len(self.owners)

    @property
    def tokens(self) -> np.ndarray:
        """int64 [pairs]: tokens of query and document, without special tokens."""
        return self.query + self.stops - self.starts

    @property
    def counts(self) -> np.ndarray:
        """int64 [documents]: pairs of each."""
        return np.diff(self.firsts, append=len(self))

    def cut(self, limit: int) -> "PairLayout":
        """The same pairs, each cut to at most `limit` tokens of text on its own, so that the number of passages stays
        the same."""
        query, texts = longest_first(self.query, self.stops - self.starts, limit)
        cut = self.owners[(query < self.query) | (texts < self.stops - self.starts)]
        left = self.cut_side == "left"
        starts, stops = (self.stops - texts, self.stops) if left else (self.starts, self.starts + texts)
        return replace(self, query=query, starts=starts, stops=stops).marked(cut)

    def marked(self, cut: np.ndarray) -> "PairLayout":
        """The same pairs, with these documents among those truncated. cut: int [n], their places."""
        return replace(self, truncated=sorted({*self.truncated, *cut.tolist()}))

    def best_pairs(self, logits: np.ndarray) -> np.ndarray:
        """int64 [documents]: the pair of each that scored best, the first of equals. logits: float [pairs]."""
        order = np.lexsort((-logits, self.owners))
        return order[self.firsts]

    def best(self, logits: np.ndarray) -> np.ndarray:
        """float [documents]: the score of each document's best pair. logits: float [pairs]."""
        return logits if len(self.firsts) == len(self) else np.maximum.reduceat(logits, self.firsts)


def longest_first(first: int | np.ndarray, second: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """How many tokens of each of two texts are kept if together they may have `limit`.

    The longer text is cut until both are equal, then both are (`truncation="longest_first"` of Transformers).
    first: tokens, one number or int64 [n]; second: int64 [n].
    """
    fits = first + second <= limit
    if fits.all():
        return np.full_like(second, first), second
    short = np.minimum(first, second)
    long = np.maximum(short, limit - short)
    both_give = short + long > limit
    short = np.where(both_give, limit // 2, short)
    long = np.where(both_give, limit - limit // 2, long)
    kept_first = np.where(fits, first, np.where(first <= second, short, long))
    kept_second = np.where(fits, second, np.where(first <= second, long, short))
    return kept_first, kept_second


def truncate(query: int | np.ndarray, documents: np.ndarray, limit: int, cut_side: Side = "right") -> PairLayout:
    """One pair per document. query: its tokens, one number or int64 [n]. documents: int64 [n], tokens of each. limit:
    tokens of a pair."""
    kept, texts = longest_first(query, documents, limit)
    rows = np.arange(len(documents))
    cut = np.flatnonzero((kept < query) | (texts < documents))
    starts = documents - texts if cut_side == "left" else np.zeros_like(rows)
    return PairLayout(rows, kept, starts, starts + texts, rows, cut.tolist(), cut_side)


def max_passages(
    query: int | np.ndarray, documents: np.ndarray, limit: int, rule: PassageRule, cut_side: Side = "right"
) -> PairLayout:
    """As many passages as each document needs, of about equal length so that the last is not a short remainder.

    With d tokens to place, room r beside the query and overlap v, n = ⌈(d − v) / (r − v)⌉ passages of
    ⌈(d + (n − 1)·v) / n⌉ tokens. The overlap is at most half of the room.
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
    skipped = (documents - covered)[owners] if cut_side == "left" else 0
    return PairLayout(owners, kept[owners], starts + skipped, stops + skipped, firsts, cut.tolist(), cut_side)
