"""ModernBERT encoder over packed batches (Warner et al. 2024): pre-norm, GeGLU, rotary positions, attention
that sees everything in every third layer and a window of neighbours in the others."""

from dataclasses import dataclass
from typing import Any

import torch

from rankfleet.core.errors import CheckpointError
from rankfleet.engine.activations import activation
from rankfleet.engine.attention import Attention
from rankfleet.engine.packing import PackedBatch
from rankfleet.engine.rotary import Rotary
from rankfleet.engine.weights import LayerNorm, Linear, Weights


@dataclass(frozen=True)
class Layer:
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
        self.words = weights.tensor("embeddings.tok_embeddings.weight")
        self.embedding_norm = weights.norm("embeddings.norm", eps)
        self.layers = [
            Layer(
                kind=kind,
                attention_norm=weights.norm(f"layers.{i}.attn_norm", eps) if i else None,
                qkv=weights.linear(f"layers.{i}.attn.Wqkv"),
                attention_out=weights.linear(f"layers.{i}.attn.Wo"),
                mlp_norm=weights.norm(f"layers.{i}.mlp_norm", eps),
                mlp_in=weights.linear(f"layers.{i}.mlp.Wi"),
                mlp_out=weights.linear(f"layers.{i}.mlp.Wo"),
            )
            for i, kind in enumerate(config.layer_types)
        ]
        self.final_norm = weights.norm("final_norm", eps)

    @property
    def inner(self) -> int:
        """Width of the MLP."""
        return self.layers[0].mlp_out.weight.shape[1]

    def __call__(self, batch: PackedBatch, first_only: bool = False) -> torch.Tensor:
        """Hidden states after the final norm: [tokens, hidden], or [pairs, hidden] of each pair's first token, for
        which most of the last layer need not be computed."""
        x = self.embedding_norm(self.words[batch.token_ids])
        width = x.shape[-1] // self.heads
        rotary = {kind: Rotary.at(batch.positions, theta, width) for kind, theta in self.theta.items()}
        for layer in self.layers:
            normed = layer.attention_norm(x) if layer.attention_norm else x
            query, key, value = layer.qkv(normed).view(len(x), 3, self.heads, width).unbind(1)
            turn = rotary[layer.kind]
            window = self.window if layer.kind == "sliding_attention" else None
            query, key = turn(query), turn(key)
            if first_only and layer is self.layers[-1]:
                attended = self.attention.one_token(query[batch.firsts], key, value, batch, window)
                x = x[batch.firsts]
            else:
                attended = self.attention.every_token(query, key, value, batch, window)
            x = x + layer.attention_out(attended)
            gelu, gate = layer.mlp_in(layer.mlp_norm(x)).chunk(2, dim=-1)
            x = x + layer.mlp_out(self.act(gelu) * gate)
        return self.final_norm(x)
