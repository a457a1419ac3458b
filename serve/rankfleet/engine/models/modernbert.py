"""ModernBERT encoder over packed batches (Warner et al. 2024): pre-norm, GeGLU, rotary positions, attention
that sees everything in every third layer and a window of neighbours in the others."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from rankfleet.core.errors import CheckpointError
from rankfleet.engine.attention.packed import Attention
from rankfleet.engine.attention.packing import PackedBatch
from rankfleet.engine.checkpoint.weights import LayerNorm, Linear, Weights
from rankfleet.engine.models.activations import activation
from rankfleet.engine.models.fused import Fused, add_norm
from rankfleet.engine.models.rotary import Rotary, rotate


@dataclass(frozen=True)
class ModernBertLayer:
    kind: str  # full_attention or sliding_attention
    attention_norm: LayerNorm | None  # the first layer has none: the embeddings are normed already
    qkv: Linear
    attention_out: Linear
    mlp_norm: LayerNorm
    mlp_in: Linear
    mlp_out: Linear


class ModernBertEncoder:
    def __init__(self, config: Any, weights: Weights, attention: Attention) -> None:
        self.attention = attention
        self.heads: int = config.num_attention_heads
        self.act = activation(config.hidden_activation)
        self.window: int = config.sliding_window
        for kind, rope in config.rope_parameters.items():
            if rope.get("rope_type", "default") != "default":
                raise CheckpointError(f"rope type {rope['rope_type']!r} of {kind} layers is not supported")
        self.theta = {kind: float(rope["rope_theta"]) for kind, rope in config.rope_parameters.items()}
        eps: float = config.norm_eps
        hidden, inner, bias = config.hidden_size, config.intermediate_size, config.norm_bias
        attention_bias, mlp_bias = config.attention_bias, config.mlp_bias
        self.words = weights.tensor("embeddings.tok_embeddings.weight", config.vocab_size, hidden)
        self.embedding_norm = weights.norm("embeddings.norm", eps, hidden, bias)
        self.layers = [
            ModernBertLayer(
                kind=kind,
                attention_norm=weights.norm(f"layers.{i}.attn_norm", eps, hidden, bias) if i else None,
                qkv=weights.linear(f"layers.{i}.attn.Wqkv", out=3 * hidden, inner=hidden, bias=attention_bias),
                attention_out=weights.linear(f"layers.{i}.attn.Wo", out=hidden, inner=hidden, bias=attention_bias),
                mlp_norm=weights.norm(f"layers.{i}.mlp_norm", eps, hidden, bias),
                mlp_in=weights.linear(f"layers.{i}.mlp.Wi", out=2 * inner, inner=hidden, bias=mlp_bias),
                mlp_out=weights.linear(f"layers.{i}.mlp.Wo", out=hidden, inner=inner, bias=mlp_bias),
            )
            for i, kind in enumerate(config.layer_types)
        ]
        self.final_norm = weights.norm("final_norm", eps, hidden, bias)
        self.rotate: Callable[..., torch.Tensor] = rotate
        self.gate: Callable[..., torch.Tensor] = self._gate
        self.add_norm: Callable[..., tuple[torch.Tensor, torch.Tensor]] = add_norm

    def fuse(self) -> None:
        """Compile the element-wise steps: on a GPU they are bound by memory, and each pass over it counts."""
        self.rotate, self.gate, self.add_norm = Fused(self.rotate), Fused(self.gate), Fused(self.add_norm)

    def _gate(self, x: torch.Tensor) -> torch.Tensor:
        """GeGLU. x: [rows, 2 * inner]."""
        gelu, gate = x.chunk(2, dim=-1)
        return self.act(gelu) * gate

    @property
    def vocabulary(self) -> int:
        """Token ids are below this."""
        return self.words.shape[0]

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return self.words.shape[1]

    @property
    def inner(self) -> int:
        """Width of the MLP."""
        return self.layers[0].mlp_out.weight.shape[1]

    def __call__(self, batch: PackedBatch, pooled_only: bool = False) -> torch.Tensor:
        """Hidden states after the final norm: [tokens, hidden], or [pairs, hidden] of each pair's first token, for
        which most of the last layer need not be computed."""
        x = self.embedding_norm(self.words[batch.token_ids])
        width = x.shape[-1] // self.heads
        rotary = {kind: Rotary.at(batch.positions, theta, width) for kind, theta in self.theta.items()}
        after = [layer.attention_norm for layer in self.layers[1:] if layer.attention_norm] + [self.final_norm]
        first = self.layers[0].attention_norm
        normed = first(x) if first else x
        for layer, next_norm in zip(self.layers, after, strict=True):
            qkv = layer.qkv(normed).view(len(x), 3, self.heads, width)
            turn = rotary[layer.kind]
            query, key = self.rotate(qkv[:, :2], turn.cos[:, None], turn.sin[:, None]).unbind(1)
            value = qkv[:, 2]
            window = self.window if layer.kind == "sliding_attention" else None
            if pooled_only and layer is self.layers[-1]:
                attended = self.attention.one_token(query[batch.firsts], key, value, batch, window)
                x = x[batch.firsts]
            else:
                attended = self.attention.every_token(query, key, value, batch, window)
            norm = layer.mlp_norm
            x, normed = self.add_norm(x, layer.attention_out(attended), norm.weight, norm.bias, norm.eps)
            out = layer.mlp_out(self.gate(layer.mlp_in(normed)))
            x, normed = self.add_norm(x, out, next_norm.weight, next_norm.bias, next_norm.eps)
        return normed
