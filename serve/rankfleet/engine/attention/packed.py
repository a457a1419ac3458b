"""Attention over a packed batch: what encoders ask for, and the way that runs anywhere, SDPA on runs of pairs
of equal length, so that no padding is computed. `engine/attention/varlen.py` has the kernels for CUDA."""

from functools import lru_cache
from typing import Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention

from rankfleet.engine.attention.packing import PackedBatch

QUERIES = 128  # of one block where tokens see a window only


class Attention(Protocol):
    """Attention within each pair of a packed batch. Keys and values may have fewer heads than queries: each of
    theirs then serves as many neighbouring query heads (grouped-query attention)."""

    def every_token(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        batch: PackedBatch,
        window: int | None = None,
        causal: bool = False,
    ) -> torch.Tensor:
        """query: [tokens, heads, head dim]; key, value: [tokens, key heads, head dim]. window: how far a token
        sees to each side, None for all; causal: it sees none behind itself. Not both.
        Returns [tokens, heads * head dim]."""

    def one_token(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        batch: PackedBatch,
        window: int | None = None,
    ) -> torch.Tensor:
        """Attention of one token of each pair, which is all that the last layer needs where the head reads one:
        its first, or under causal attention its last; both see the whole pair. With a window it is the first,
        which sees `window` tokens on.

        query: [pairs, heads, head dim]; key, value as above. Returns [pairs, heads * head dim]."""


@lru_cache(maxsize=64)
def band_mask(queries: int, keys: int, before: int, window: int, device: torch.device) -> torch.Tensor:
    """bool [queries, keys]: True where a query sees a key, `window` to each side. The first query stands `before`
    keys behind the first key."""
    rows = torch.arange(queries, device=device)[:, None] + before
    return (rows - torch.arange(keys, device=device)).abs() <= window


def windowed(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int, shared: bool = False
) -> torch.Tensor:
    """Attention of [pairs, heads, length, head dim] in blocks of queries against the keys they can see, so that time
    and memory grow with the length and not with its square."""
    length, blocks = query.shape[2], []
    for first in range(0, length, QUERIES):
        last = min(first + QUERIES, length)
        low, high = max(0, first - window), min(length, last + window)
        mask = band_mask(last - first, high - low, first - low, window, query.device)
        q, k, v = query[:, :, first:last], key[:, :, low:high], value[:, :, low:high]
        blocks.append(scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=shared))
    return torch.cat(blocks, dim=2)


class RunAttention:
    """One SDPA call per run of pairs of equal length, or per block of it: any device, any precision."""

    def every_token(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        batch: PackedBatch,
        window: int | None = None,
        causal: bool = False,
    ) -> torch.Tensor:
        tokens, heads, width = query.shape
        shared = heads != key.shape[1]
        out = torch.empty((tokens, heads, width), dtype=query.dtype, device=query.device)
        for run in batch.runs:
            q, k, v = (
                t[run.start : run.stop].view(run.count, run.length, t.shape[1], width).transpose(1, 2)
                for t in (query, key, value)
            )
            if window is not None and run.length > window + 1:
                scored = windowed(q, k, v, window, shared)
            else:
                scored = scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=shared)
            out[run.start : run.stop] = scored.transpose(1, 2).reshape(-1, heads, width)
        return out.view(tokens, heads * width)

    def one_token(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        batch: PackedBatch,
        window: int | None = None,
    ) -> torch.Tensor:
        pairs, heads, width = query.shape
        out = torch.empty((pairs, 1, heads, width), dtype=query.dtype, device=query.device)
        done = 0
        for run in batch.runs:
            seen = run.length if window is None else min(run.length, window + 1)
            k, v = (
                t[run.start : run.stop].view(run.count, run.length, t.shape[1], width)[:, :seen].transpose(1, 2)
                for t in (key, value)
            )
            q = query[done : done + run.count].view(run.count, 1, heads, width).transpose(1, 2)
            scored = scaled_dot_product_attention(q, k, v, enable_gqa=heads != key.shape[1])
            out[done : done + run.count] = scored.transpose(1, 2)
            done += run.count
        return out.view(pairs, heads * width)
