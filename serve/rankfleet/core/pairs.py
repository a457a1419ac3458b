"""Tokenized pairs: what travels from the router to a replica group."""

import heapq
from dataclasses import dataclass

import numpy as np

MIN_CHUNK_TOKENS = 2048  # below this a second replica costs more in transfer than it saves in scoring


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


def split_rows(lengths: np.ndarray, max_tokens: int, parts: int = 1) -> list[np.ndarray]:
    """Rows cut into at least `parts` chunks (as far as there are rows) that are about equal in tokens, none of
    more than `max_tokens` unless a single pair is longer than that.

    Longest first, each to the lightest chunk: equal chunks let Serve's choice by count come close to a choice by
    work. Where the bound is passed, as many chunks as were too heavy are added.
    """
    count = min(max(1, len(lengths)), max(parts, -(-int(lengths.sum()) // max_tokens)))
    if count == 1:
        return [np.arange(len(lengths))]
    order = np.argsort(-lengths, kind="stable").tolist()
    while True:
        chunks: list[list[int]] = [[] for _ in range(count)]
        loads = [(0, chunk) for chunk in range(count)]  # a heap: the lightest first
        for row in order:
            load, chunk = loads[0]
            chunks[chunk].append(row)
            heapq.heapreplace(loads, (load + int(lengths[row]), chunk))
        over = sum(load > max_tokens and len(chunks[chunk]) > 1 for load, chunk in loads)
        if not over:
            return [np.array(sorted(chunk), dtype=np.int64) for chunk in chunks if chunk]
        count += over
