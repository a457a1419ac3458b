"""The published ablation of precision, kernel and padding, and the padded engine that it needs."""

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from benchmarks.gpu.random_model import SHAPES, RandomModel, Result, mixed_lengths, rate, tokenized
from torch.nn.functional import scaled_dot_product_attention

from rankfleet.core.pairs import TokenizedPairs
from rankfleet.engine.attention.packing import PackedBatch, pack
from rankfleet.engine.attention.protocol import Attention
from rankfleet.engine.attention.sdpa import band_mask
from rankfleet.engine.attention.varlen import SDPA, TRITON, named_attention
from rankfleet.engine.checkpoint.files import Checkpoint
from rankfleet.engine.runtime.scorer import Scorer


class PaddedAttention:
    """Attention over a batch in which every pair is padded to the longest, as most engines compute it.

    Either SDPA with a mask, or a variable-length kernel around which the tokens are gathered and scattered in every
    layer.
    """

    fixed_shapes = False

    def __init__(self, inner: Attention | None) -> None:
        self.inner = inner  # None for SDPA
        self.lengths = torch.empty(0)
        self.packed: PackedBatch | None = None
        self.rows = torch.empty(0)

    def prepare(self, padded: PackedBatch, real: TokenizedPairs, device: torch.device) -> None:
        """Set the next batch, with padding and without."""
        self.packed = pack(real, device)
        self.lengths = self.packed.lengths
        first = torch.repeat_interleave(padded.firsts, self.lengths, output_size=real.tokens)
        self.rows = first + self.packed.positions

    def every_token(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        batch: PackedBatch,
        window: int | None = None,
        causal: bool = False,
    ) -> torch.Tensor:
        if self.inner is not None:
            assert self.packed is not None
            picked = (t[self.rows] for t in (query, key, value))
            attended = self.inner.every_token(*picked, self.packed, window, causal)
            out = attended.new_zeros((len(query), attended.shape[1]))
            out[self.rows] = attended
            return out
        heads, width = query.shape[1:]
        length = batch.max_length
        q, k, v = (t.reshape(-1, length, heads, width).transpose(1, 2) for t in (query, key, value))
        seen = (torch.arange(length, device=query.device) < self.lengths[:, None])[:, None, None]
        if window is not None:
            # A padded query may have no key at all; it attends to itself, so that there is no NaN.
            seen = (seen & band_mask(length, length, 0, window, query.device)) | torch.eye(
                length, dtype=torch.bool, device=query.device
            )
        return scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).reshape(len(query), -1)

    def one_token(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        batch: PackedBatch,
        window: int | None = None,
    ) -> torch.Tensor:
        heads, width = query.shape[1:]
        if self.inner is not None:
            assert self.packed is not None
            return self.inner.one_token(query, key[self.rows], value[self.rows], self.packed, window)
        length = batch.max_length
        seen = torch.arange(length, device=query.device) < self.lengths[:, None]
        if window is not None:
            seen &= torch.arange(length, device=query.device) <= window
        k, v = (t.reshape(-1, length, heads, width).transpose(1, 2) for t in (key, value))
        scored = scaled_dot_product_attention(query[:, :, None], k, v, attn_mask=seen[:, None, None])
        return scored.squeeze(2).flatten(1)


class PaddedScorer:
    """The engine's own encoder and head over padded batches; `score` has the interface of `Scorer.score`."""

    def __init__(self, model: RandomModel, dtype: str, inner: Attention | None, batch_size: int) -> None:
        self.attention = PaddedAttention(inner)
        device = str(model.setting.device)
        self.scorer = Scorer.load(Checkpoint(model.folder), dtype, device, attention=self.attention)
        self.device = model.setting.device
        self.batch_size = batch_size

    @torch.inference_mode()
    def score(self, pairs: TokenizedPairs) -> np.ndarray:
        scores = np.empty(len(pairs), dtype=np.float32)
        order = np.argsort(pairs.lengths, kind="stable")
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            real = pairs.take(rows)
            longest = int(real.lengths.max())
            ids = np.zeros((len(real), longest), dtype=np.int32)
            ids[np.arange(longest) < real.lengths[:, None]] = real.ids
            full = replace(real, ids=ids.ravel(), lengths=np.full(len(real), longest, np.int32))
            batch = pack(full, self.device)
            self.attention.prepare(batch, real, self.device)
            scores[rows] = self.scorer.forward(batch).cpu().numpy()
        return scores


def ablation(model: RandomModel) -> Result:
    """Repeat the published ablation on this engine's encoder: precision, kernel, padding."""
    setting = model.setting
    pairs = tokenized(mixed_lengths(setting.some(2000 if SHAPES[model.shape][0] < 1000 else 400, 12)))
    kernel = next((name for name in setting.backends if name not in (SDPA, TRITON)), None)
    arms: dict[str, tuple[str, str | None, bool]] = {
        "fp32 + SDPA, padded": ("float32", None, True),
        "bf16 + SDPA, padded": ("bfloat16", None, True),
        "bf16 + varlen, padded": ("bfloat16", kernel, True),
        "bf16 + varlen, unpadded": ("bfloat16", kernel, False),
    }
    result: Result = {"pairs": len(pairs), "kernel": kernel or "none installed: SDPA on runs of equal length instead"}
    for name, (dtype, backend, padded) in arms.items():
        if padded:
            varlen = "varlen" in name
            inner = named_attention(backend or SDPA, setting.device) if varlen else None
            tried = []
            for batch_size in (32, 128, 512)[: setting.some(3, 1)]:
                scorer = PaddedScorer(model, dtype, inner, batch_size)
                tried.append({"batch_size": batch_size, **rate(setting, len(pairs), partial(scorer.score, pairs))})
            result[name] = max(tried, key=lambda r: r["pairs_per_s"])
        else:
            result[name] = rate(setting, len(pairs), partial(model.scorer(dtype, backend).score, pairs))
    return result
