"""Tokenized pairs: what travels from the router to a replica group."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TokenizedPairs:
    """Token ids of n pairs, end to end without padding.

    ids: int32 [total tokens]; lengths: int32 [n], tokens of each pair; seconds: int32 [n], where in its pair
    the document begins (BERT gives tokens from there on type 1).
    """

    ids: np.ndarray
    lengths: np.ndarray
    seconds: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        return len(self.ids)

    def take(self, rows: np.ndarray) -> "TokenizedPairs":
        """The pairs of these rows, in this order."""
        ends = np.cumsum(self.lengths)
        pieces = [self.ids[ends[row] - self.lengths[row] : ends[row]] for row in rows]
        ids = np.concatenate(pieces) if pieces else self.ids[:0]
        return TokenizedPairs(ids, self.lengths[rows], self.seconds[rows])

    @staticmethod
    def join(parts: list["TokenizedPairs"]) -> "TokenizedPairs":
        return TokenizedPairs(
            np.concatenate([p.ids for p in parts]),
            np.concatenate([p.lengths for p in parts]),
            np.concatenate([p.seconds for p in parts]),
        )


def split_rows(lengths: np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """Rows cut into runs of at most `max_tokens` tokens that are about equal in tokens, longest pairs spread
    over all of them. A single pair longer than `max_tokens` stands alone.

    Equal chunks let Serve's choice by count come close to a choice by work.
    """
    total = int(lengths.sum())
    count = max(1, -(-total // max_tokens))
    while True:
        chunks: list[list[int]] = [[] for _ in range(count)]
        loads = np.zeros(count, dtype=np.int64)
        for row in np.argsort(-lengths, kind="stable"):
            lightest = int(loads.argmin())
            chunks[lightest].append(int(row))
            loads[lightest] += lengths[row]
        if all(load <= max_tokens or len(c) == 1 for load, c in zip(loads, chunks, strict=True)):
            return [np.array(sorted(c), dtype=np.int64) for c in chunks if c]
        count += 1
