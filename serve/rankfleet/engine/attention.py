"""Attention over a packed batch: one call per run of pairs of equal length, so no padding is computed."""

from functools import lru_cache

import torch
from torch.nn.functional import scaled_dot_product_attention

from rankfleet.engine.packing import PackedBatch


@lru_cache(maxsize=64)
def band_mask(length: int, window: int, device: torch.device) -> torch.Tensor:
    """bool [length, length]: True where |i - j| <= window."""
    at = torch.arange(length, device=device)
    return (at[:, None] - at[None, :]).abs() <= window


def packed_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, batch: PackedBatch, window: int | None
) -> torch.Tensor:
    """Bidirectional attention within each pair.

    query, key, value: [tokens, heads, head dim]; window: how far a token sees to each side, None for all.
    Returns [tokens, heads * head dim].
    """
    tokens, heads, width = query.shape
    out = torch.empty((tokens, heads, width), dtype=query.dtype, device=query.device)
    for run in batch.runs:
        q, k, v = (
            t[run.start : run.stop].view(run.count, run.length, heads, width).transpose(1, 2)
            for t in (query, key, value)
        )
        mask = None
        if window is not None and run.length > window + 1:
            mask = band_mask(run.length, window, query.device)
        scored = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out[run.start : run.stop] = scored.transpose(1, 2).reshape(-1, heads, width)
    return out.view(tokens, heads * width)


def first_token_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, batch: PackedBatch, window: int | None
) -> torch.Tensor:
    """Attention of each pair's first token alone, which is all that a CLS-pooled last layer needs.

    query: [pairs, heads, head dim]; key, value: [tokens, heads, head dim]. Returns [pairs, heads * head dim].
    """
    pairs, heads, width = query.shape
    out = torch.empty((pairs, 1, heads, width), dtype=query.dtype, device=query.device)
    done = 0
    for run in batch.runs:
        seen = run.length if window is None else min(run.length, window + 1)
        k, v = (
            t[run.start : run.stop].view(run.count, run.length, heads, width)[:, :seen].transpose(1, 2)
            for t in (key, value)
        )
        q = query[done : done + run.count].view(run.count, 1, heads, width).transpose(1, 2)
        out[done : done + run.count] = scaled_dot_product_attention(q, k, v).transpose(1, 2)
        done += run.count
    return out.view(pairs, heads * width)
