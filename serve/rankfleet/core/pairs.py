"""Tokenized pairs: what travels from the router to a replica group."""

import heapq
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rankfleet.core.work import Work

MIN_CHUNK_TOKENS = 2048  # below this a second replica costs more in transfer than it saves in scoring


@dataclass(frozen=True)
class TokenizedPairs:
    """Token ids of n pairs, concatenated without padding.

    `ids`: int32 [total tokens].
    `lengths`: int32 [n], tokens of each pair.
    `document_offsets`: int32 [n], index within each pair of the first token of segment 1 (BERT's token type 1): the
    document's first token, or the pair's length where the model has one segment.
    """

    ids: np.ndarray
    lengths: np.ndarray
    document_offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        return len(self.ids)

    @cached_property
    def work(self) -> Work:
        """Their size. Computed once: a copy that is sent to another process takes it along."""
        return Work.of(self.lengths)

    def take(self, rows: np.ndarray) -> "TokenizedPairs":
        """The pairs at these rows, in this order."""
        stops = np.cumsum(self.lengths)
        ranges = zip((stops - self.lengths)[rows].tolist(), stops[rows].tolist(), strict=True)
        ids = np.concatenate([self.ids[:0], *(self.ids[start:stop] for start, stop in ranges)])
        return TokenizedPairs(ids, self.lengths[rows], self.document_offsets[rows])

    @staticmethod
    def join(parts: list["TokenizedPairs"]) -> "TokenizedPairs":
        """All pairs of these parts, in order."""
        return TokenizedPairs(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.lengths for part in parts]),
            np.concatenate([part.document_offsets for part in parts]),
        )


def split_rows(lengths: np.ndarray, max_tokens: int, parts: int = 1) -> list[np.ndarray]:
    """Rows of each chunk: at least `parts` chunks (fewer only if there are fewer rows), about equal in tokens.

    No chunk exceeds `max_tokens`, except one that holds a single longer pair.

    Greedy: the longest pair first, each to the chunk with the fewest tokens. Equal chunks make a balancer that counts
    requests, such as Serve's, come close to one that counts work. If chunks exceed the bound, the split is repeated
    with as many more chunks as exceeded it.
    """
    count = min(max(1, len(lengths)), max(parts, -(-int(lengths.sum()) // max_tokens)))
    if count == 1:
        return [np.arange(len(lengths))]
    order = np.argsort(-lengths, kind="stable").tolist()
    while True:
        chunks: list[list[int]] = [[] for _ in range(count)]
        loads = [(0, chunk) for chunk in range(count)]  # a heap of (tokens, chunk)
        for row in order:
            load, chunk = loads[0]
            chunks[chunk].append(row)
            heapq.heapreplace(loads, (load + int(lengths[row]), chunk))
        over = sum(load > max_tokens and len(chunks[chunk]) > 1 for load, chunk in loads)
        if not over:
            return [np.array(sorted(chunk), dtype=np.int64) for chunk in chunks if chunk]
        count += over
