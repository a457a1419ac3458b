"""Stand-ins for variable-length attention kernels, which compute one sequence at a time what those promise."""

from itertools import pairwise
from typing import Any

import torch


def reference_varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_bounds: torch.Tensor,
    key_bounds: torch.Tensor,
    longest_query: int,
    longest_key: int,
    left: int,
    right: int,
) -> torch.Tensor:
    """Query i of n attends to keys i + m - n - left to i + m - n + right of m. A row without keys is zero, as in
    FlashAttention. Asserts that a kernel would read nothing out of bounds."""
    for bounds, rows in ((query_bounds, len(query)), (key_bounds, len(key))):
        assert bounds.dtype == torch.int32
        assert bounds[0] == 0
        assert bounds[-1] == rows
        assert (bounds.diff() >= 0).all()
    assert len(query_bounds) == len(key_bounds)
    assert longest_query >= query_bounds.diff().max()
    assert longest_key >= key_bounds.diff().max()
    assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
    queries_per_key = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(queries_per_key, 1), value.repeat_interleave(queries_per_key, 1)
    out = torch.zeros_like(query)
    for (q0, q1), (k0, k1) in zip(pairwise(query_bounds.tolist()), pairwise(key_bounds.tolist()), strict=True):
        n, m = q1 - q0, k1 - k0
        at = torch.arange(n)[:, None] + (m - n)
        keys = torch.arange(m)[None]
        mask = torch.ones(n, m, dtype=torch.bool)
        if left >= 0:
            mask &= keys >= at - left
        if right >= 0:
            mask &= keys <= at + right
        weights = torch.einsum("qhd,khd->hqk", query[q0:q1].double(), key[k0:k1].double()) / query.shape[2] ** 0.5
        weights = weights.masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num(0.0)
        out[q0:q1] = torch.einsum("hqk,khd->qhd", weights, value[k0:k1].double()).to(query.dtype)
    return out


def fake_flash_attn_varlen_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    **_: Any,
) -> torch.Tensor:
    """With the signature of flash-attn 2.8; `causal` bounds the right side, as in its C++ code."""
    assert dropout_p == 0.0
    assert softmax_scale is None
    left, right = window_size
    return reference_varlen(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, left, 0 if causal else right
    )


def fake_varlen_attn(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    return_aux: Any = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> torch.Tensor:
    """With the signature of PyTorch 2.12 and later."""
    assert return_aux is None
    assert scale is None
    assert enable_gqa or query.shape[1] == key.shape[1]
    return reference_varlen(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *window_size)


def fake_varlen_attn_without_groups(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    return_aux: Any = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
) -> torch.Tensor:
    """With the signature of releases before `enable_gqa`."""
    return fake_varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, window_size=window_size)
