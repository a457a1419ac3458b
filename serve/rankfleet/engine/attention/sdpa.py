"""Attention on any device, by PyTorch's SDPA on runs of pairs of equal length, so that no padding is computed.

`attention/packed.py` and `attention/varlen.py` have the kernels for CUDA.
"""

from functools import lru_cache

import torch
from torch.nn.functional import scaled_dot_product_attention

from rankfleet.engine.attention.packing import PackedBatch

BLOCK_QUERIES = 128  # queries of a block in windowed attention


@lru_cache(maxsize=64)
def band_mask(queries: int, keys: int, before: int, window: int, device: torch.device) -> torch.Tensor:
    """bool [queries, keys]: True where a query attends to a key, up to `window` away.

    `before`: how many keys precede the first query's own.
    """
    rows = torch.arange(queries, device=device)[:, None] + before
    return (rows - torch.arange(keys, device=device)).abs() <= window


def windowed(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int, shared: bool = False
) -> torch.Tensor:
    """Attention with a window, [pairs, heads, length, head dim]: each block of queries against the keys within reach.

    Time and memory grow with the length and not with its square. `shared`: keys have fewer heads than queries.
    """
    length, blocks = query.shape[2], []
    for first in range(0, length, BLOCK_QUERIES):
        last = min(first + BLOCK_QUERIES, length)
        low, high = max(0, first - window), min(length, last + window)
        mask = band_mask(last - first, high - low, first - low, window, query.device)
        q, k, v = query[:, :, first:last], key[:, :, low:high], value[:, :, low:high]
        blocks.append(scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=shared))
    return torch.cat(blocks, dim=2)


class RunAttention:
    """One SDPA call for each run of pairs of equal length, or each block of it. See `Attention`."""

    fixed_shapes = False

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
            keys = run.length if window is None else min(run.length, window + 1)
            k, v = (
                t[run.start : run.stop].view(run.count, run.length, t.shape[1], width)[:, :keys].transpose(1, 2)
                for t in (key, value)
            )
            q = query[done : done + run.count].view(run.count, 1, heads, width).transpose(1, 2)
            scored = scaled_dot_product_attention(q, k, v, enable_gqa=heads != key.shape[1])
            out[done : done + run.count] = scored.transpose(1, 2)
            done += run.count
        return out.view(pairs, heads * width)
