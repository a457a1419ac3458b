"""Packed batches: the tokens of many pairs end to end, sorted by length, with no padding anywhere."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from rankfleet.core.pairs import TokenizedPairs


@dataclass(frozen=True)
class Run:
    """Neighbouring pairs of equal length: tokens [start, start + count * length) of the batch."""

    start: int
    count: int
    length: int

    @property
    def stop(self) -> int:
        return self.start + self.count * self.length


@dataclass(frozen=True)
class PackedBatch:
    """Index tensors of one forward pass, built once and shared by all layers.

    All int32. token_ids, positions, type_ids: [tokens]; offsets: [pairs + 1], where each pair begins and the last
    one ends; lengths: [pairs]; runs: the same pairs grouped by length.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    type_ids: torch.Tensor
    offsets: torch.Tensor
    lengths: torch.Tensor
    runs: list[Run]

    @property
    def firsts(self) -> torch.Tensor:
        """int32 [pairs]: each pair's first token."""
        return self.offsets[:-1]


def pack(pairs: TokenizedPairs, device: torch.device) -> PackedBatch:
    """Pairs that are already sorted by length, as index tensors on `device`."""
    lengths = pairs.lengths
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    positions = np.arange(pairs.tokens) - np.repeat(offsets[:-1], lengths)
    type_ids = positions >= np.repeat(pairs.seconds, lengths)
    distinct, counts = np.unique(lengths, return_counts=True)
    runs, start = [], 0
    for length, count in zip(distinct.tolist(), counts.tolist(), strict=True):
        runs.append(Run(start, count, length))
        start = runs[-1].stop

    def upload(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int32)).to(device)

    return PackedBatch(upload(pairs.ids), upload(positions), upload(type_ids), upload(offsets), upload(lengths), runs)


def batches(lengths: np.ndarray, max_tokens: int) -> Iterator[np.ndarray]:
    """Rows in order of length, in batches of at most `max_tokens` tokens (one pair at least)."""
    order = np.argsort(lengths, kind="stable")
    start, tokens = 0, 0
    for at, row in enumerate(order):
        if at > start and tokens + lengths[row] > max_tokens:
            yield order[start:at]
            start, tokens = at, 0
        tokens += int(lengths[row])
    if start < len(order):
        yield order[start:]
