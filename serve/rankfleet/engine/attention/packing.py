"""Packed batches: the tokens of many pairs end to end, sorted by length, without padding."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from rankfleet.core.pairs import TokenizedPairs
from rankfleet.engine.attention.upload import upload


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
    """Index tensors of one forward pass, built once and shared by all layers. All are int32.

    `token_ids`, `positions` (in the pair), `type_ids`: [tokens].
    `ends`: [tokens], index of the first token after the token's pair.
    `firsts`, `lasts`: [pairs], index of each pair's first and last token.
    `lengths`: [pairs].
    `bounds`: [pairs + 1], index of each pair's first token, and last the end of the batch.
    `max_length`: tokens of the longest pair, or more.
    `host_lengths`: `lengths` in host memory.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    type_ids: torch.Tensor
    ends: torch.Tensor
    firsts: torch.Tensor
    lasts: torch.Tensor
    lengths: torch.Tensor
    bounds: torch.Tensor
    max_length: int
    host_lengths: np.ndarray

    @cached_property
    def runs(self) -> list[Run]:
        """The batch as runs of pairs of equal length. Not for batches with empty pairs."""
        starts = np.flatnonzero(np.diff(self.host_lengths, prepend=-1))
        counts = np.diff(starts, append=len(self.host_lengths))
        runs, at = [], 0
        for length, count in zip(self.host_lengths[starts].tolist(), counts.tolist(), strict=True):
            runs.append(Run(at, count, length))
            at = runs[-1].stop
        return runs


def index_buffer(pairs: TokenizedPairs) -> np.ndarray:
    """All index arrays of a batch in one int32 array, so that one copy uploads them.

    In order: token ids, positions, types, ends [tokens each], firsts, lasts, lengths [pairs each], bounds [pairs + 1].
    """
    tokens, rows = pairs.tokens, len(pairs)
    buffer = np.empty(4 * tokens + 4 * rows + 1, dtype=np.int32)
    ids, positions, types, ends = buffer[: 4 * tokens].reshape(4, tokens)
    firsts, lasts, lengths = buffer[4 * tokens : 4 * tokens + 3 * rows].reshape(3, rows)
    bounds = buffer[4 * tokens + 3 * rows :]
    lengths[:] = pairs.lengths
    bounds[0] = 0
    np.cumsum(lengths, out=bounds[1:])
    # Empty pairs at the end of a padded batch would otherwise point past it.
    np.minimum(bounds[:-1], tokens - 1, out=firsts)
    np.maximum(bounds[1:] - 1, 0, out=lasts)
    ids[:] = pairs.ids
    np.subtract(np.arange(tokens, dtype=np.int32), np.repeat(bounds[:-1], lengths), out=positions)
    types[:] = positions >= np.repeat(pairs.document_offsets, lengths)
    ends[:] = np.repeat(bounds[1:], lengths)
    return buffer


def read_buffer(buffer: torch.Tensor, tokens: int, max_length: int, host_lengths: np.ndarray) -> PackedBatch:
    """The batch that `index_buffer` wrote into `buffer`, as views of it on its device."""
    rows = len(host_lengths)
    ids, positions, types, ends = buffer[: 4 * tokens].view(4, tokens)
    firsts, lasts, lengths = buffer[4 * tokens : 4 * tokens + 3 * rows].view(3, rows)
    bounds = buffer[4 * tokens + 3 * rows :]
    return PackedBatch(ids, positions, types, ends, firsts, lasts, lengths, bounds, max_length, host_lengths)


def pack(pairs: TokenizedPairs, device: torch.device) -> PackedBatch:
    """A batch of pairs that are sorted by length, on `device`."""
    buffer = upload(index_buffer(pairs), device)
    return read_buffer(buffer, pairs.tokens, int(pairs.lengths.max(initial=0)), pairs.lengths)


def batches(lengths: np.ndarray, max_tokens: int) -> Iterator[np.ndarray]:
    """Rows of each batch, sorted by length: at most `max_tokens` tokens, or one longer pair."""
    order = np.argsort(lengths, kind="stable")
    ends = np.cumsum(lengths[order], dtype=np.int64)
    start, before = 0, 0
    while start < len(order):
        stop = max(start + 1, int(np.searchsorted(ends, before + max_tokens, side="right")))
        yield order[start:stop]
        start, before = stop, int(ends[stop - 1])
