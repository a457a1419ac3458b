"""Attention over a packed batch, written for it in Triton: the default on CUDA.

Variable-length kernels made for training cut every pair into blocks of its own. Pairs of a reranker are short, one or
two blocks long, so that much of what is computed there is padding. Here a block is 64 neighbouring tokens of the batch,
whichever pairs they belong to: each row sees the keys of its own pair, and the block goes over the keys from the first
that any of its rows sees to the last. The number of blocks depends on the number of tokens alone, so that calls can be
captured in a CUDA graph.

Softmax is computed while keys go by, as in FlashAttention (Dao et al. 2022).
"""

import numpy as np
import torch
import triton
import triton.language as tl

from rankfleet.core.pairs import TokenizedPairs
from rankfleet.engine.attention.packing import PackedBatch, pack

QUERIES, KEYS = 64, 64  # of a block, and of one step over the keys it sees
WARPS, STAGES = 4, 3
KEYS_OF_ONE = 64  # of one step for a single query
LOG2_E = 1.4426950408889634  # exp2 is one instruction, exp two


@triton.jit(do_not_specialize=["positions", "ends", "tokens"])
def every_token_kernel(
    query,
    key,
    value,
    out,
    positions,
    ends,
    tokens,
    query_stride,
    key_stride,
    value_stride,
    scale,
    SHARE: tl.constexpr,
    WIDTH: tl.constexpr,
    WINDOW: tl.constexpr,
    CAUSAL: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """One block of queries of one head. WINDOW: tokens seen on each side, negative for the whole pair; scale: of the
    products, with log2(e) in it; SHARE: query heads that share a key head; strides: from one token to the next."""
    head = tl.program_id(1)
    rows = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    exists = rows < tokens
    low = rows - tl.load(positions + rows, mask=exists, other=0)  # the first key that a row sees
    high = tl.load(ends + rows, mask=exists, other=0)  # the first after them that it does not
    if CAUSAL:
        high = tl.minimum(high, rows + 1)
    if WINDOW >= 0:
        low = tl.maximum(low, rows - WINDOW)
        high = tl.minimum(high, rows + WINDOW + 1)
    first, stop = tl.min(low), tl.max(high)

    across = tl.arange(0, WIDTH)
    at = rows[:, None].to(tl.int64)
    q = tl.load(query + at * query_stride + head * WIDTH + across[None, :], mask=exists[:, None], other=0.0)
    key += first.to(tl.int64) * key_stride + (head // SHARE) * WIDTH
    value += first.to(tl.int64) * value_stride + (head // SHARE) * WIDTH
    highest = tl.full([QUERIES], -1e30, tl.float32)  # finite: a step may have no key that a row sees
    total = tl.zeros([QUERIES], tl.float32)
    sums = tl.zeros([QUERIES, WIDTH], tl.float32)
    for done in range(0, stop - first, KEYS):
        step = done + tl.arange(0, KEYS)
        inside = step < stop - first
        k = tl.load(key + step[None, :] * key_stride + across[:, None], mask=inside[None, :], other=0.0)
        v = tl.load(value + step[:, None] * value_stride + across[None, :], mask=inside[:, None], other=0.0)
        keys = first + step
        seen = (keys[None, :] >= low[:, None]) & (keys[None, :] < high[:, None])
        products = tl.where(seen, tl.dot(q, k) * scale, -float("inf"))
        before, highest = highest, tl.maximum(highest, tl.max(products, 1))
        weights = tl.exp2(products - highest[:, None])
        shrink = tl.exp2(before - highest)
        total = total * shrink + tl.sum(weights, 1)
        sums = tl.dot(weights.to(v.dtype), v, sums * shrink[:, None])
    result = sums / tl.maximum(total, 1e-30)[:, None]
    width = tl.num_programs(1) * WIDTH
    tl.store(out + at * width + head * WIDTH + across[None, :], result.to(out.dtype.element_ty), mask=exists[:, None])


@triton.jit(do_not_specialize=["bounds"])
def one_token_kernel(
    query,
    key,
    value,
    out,
    bounds,
    query_stride,
    key_stride,
    value_stride,
    scale,
    SHARE: tl.constexpr,
    WIDTH: tl.constexpr,
    WINDOW: tl.constexpr,
    KEYS: tl.constexpr,
):
    """One pair's query of one head. Arguments as above; WINDOW: tokens seen after the first."""
    pair, head = tl.program_id(0), tl.program_id(1)
    first, stop = tl.load(bounds + pair), tl.load(bounds + pair + 1)
    if WINDOW >= 0:
        stop = tl.minimum(stop, first + WINDOW + 1)
    across = tl.arange(0, WIDTH)
    at = pair.to(tl.int64)
    q = tl.load(query + at * query_stride + head * WIDTH + across).to(tl.float32)
    key += first.to(tl.int64) * key_stride + (head // SHARE) * WIDTH
    value += first.to(tl.int64) * value_stride + (head // SHARE) * WIDTH
    highest = -1e30
    total = 0.0
    sums = tl.zeros([WIDTH], tl.float32)
    for done in range(0, stop - first, KEYS):
        step = done + tl.arange(0, KEYS)
        inside = step < stop - first
        k = tl.load(key + step[:, None] * key_stride + across[None, :], mask=inside[:, None], other=0.0).to(tl.float32)
        v = tl.load(value + step[:, None] * value_stride + across[None, :], mask=inside[:, None], other=0.0)
        products = tl.where(inside, tl.sum(q[None, :] * k, 1) * scale, -float("inf"))
        before, highest = highest, tl.maximum(highest, tl.max(products, 0))
        weights = tl.exp2(products - highest)
        shrink = tl.exp2(before - highest)
        total = total * shrink + tl.sum(weights, 0)
        sums = sums * shrink + tl.sum(weights[:, None] * v.to(tl.float32), 0)
    result = sums / tl.maximum(total, 1e-30)  # an empty pair has no keys; its row is not read
    width = tl.num_programs(1) * WIDTH
    tl.store(out + at * width + head * WIDTH + across, result.to(out.dtype.element_ty))


class PackedAttention:
    """Attention in blocks of the packed batch. See `Attention`.

    Heads have a power of two dimensions, from 16 on, and lie one after the other in memory; tokens may be apart.
    """

    fixed_shapes = True

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
        out = torch.empty((tokens, heads * width), dtype=query.dtype, device=query.device)
        with torch.cuda.device_of(query):  # Triton launches on the current device
            every_token_kernel[(triton.cdiv(tokens, QUERIES), heads)](
                query,
                key,
                value,
                out,
                batch.positions,
                batch.ends,
                tokens,
                query.stride(0),
                key.stride(0),
                value.stride(0),
                width**-0.5 * LOG2_E,
                SHARE=heads // key.shape[1],
                WIDTH=width,
                WINDOW=-1 if window is None else window,
                CAUSAL=causal,
                QUERIES=QUERIES,
                KEYS=KEYS,
                num_warps=WARPS,
                num_stages=STAGES,
            )
        return out

    def one_token(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        batch: PackedBatch,
        window: int | None = None,
    ) -> torch.Tensor:
        pairs, heads, width = query.shape
        out = torch.empty((pairs, heads * width), dtype=query.dtype, device=query.device)
        with torch.cuda.device_of(query):  # Triton launches on the current device
            one_token_kernel[(pairs, heads)](
                query,
                key,
                value,
                out,
                batch.bounds,
                query.stride(0),
                key.stride(0),
                value.stride(0),
                width**-0.5 * LOG2_E,
                SHARE=heads // key.shape[1],
                WIDTH=width,
                WINDOW=-1 if window is None else window,
                KEYS=KEYS_OF_ONE,
            )
        return out


def check(device: torch.device, width: int) -> None:
    """Run each kernel that a model with heads of this width needs. Raises what Triton raises where it cannot."""
    length = np.full(1, 8, dtype=np.int32)
    batch = pack(TokenizedPairs(np.zeros(8, dtype=np.int32), length, length), device)
    head = torch.zeros((8, 1, width), dtype=torch.bfloat16, device=device)
    attention = PackedAttention()
    for window, causal in ((None, False), (4, False), (None, True)):
        attention.every_token(head, head, head, batch, window, causal)
    attention.one_token(head[:1], head, head, batch)
    torch.cuda.synchronize(device)
