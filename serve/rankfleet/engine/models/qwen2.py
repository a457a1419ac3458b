"""Qwen2 over packed batches (Yang et al. 2024): causal attention with fewer key heads than query heads, rotary
positions, SwiGLU, RMSNorm. As a reranker it reads a prompt with query and document, and its score is a difference
of two next-token logits behind the last token."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from rankfleet.core.errors import CheckpointError
from rankfleet.engine.attention.packed import Attention
from rankfleet.engine.attention.packing import PackedBatch
from rankfleet.engine.checkpoint.weights import Linear, Weights
from rankfleet.engine.models.activations import activation
from rankfleet.engine.models.rotary import Rotary


@dataclass(frozen=True)
class RmsNorm:
    """x / sqrt(mean(x²) + eps) · weight, computed in float32 and rounded before the weight, as the reference does."""

    weight: torch.Tensor
    eps: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


@dataclass(frozen=True)
class Qwen2Layer:
    attention_norm: RmsNorm
    query: Linear
    key_value: Linear
    attention_out: Linear
    mlp_norm: RmsNorm
    gate_up: Linear
    down: Linear


class Qwen2Encoder:
    def __init__(self, config: Any, weights: Weights, attention: Attention) -> None:
        """Raises CheckpointError for layers with a sliding window and for stretched rotary positions."""
        self.attention = attention
        self.heads: int = config.num_attention_heads
        self.key_heads: int = config.num_key_value_heads
        self.act = activation(config.hidden_act)
        if set(config.layer_types) != {"full_attention"}:
            raise CheckpointError("a Qwen2 model with sliding attention is not supported")
        if (kind := config.rope_parameters.get("rope_type", "default")) != "default":
            raise CheckpointError(f"rope type {kind!r} is not supported")
        self.theta = float(config.rope_parameters["rope_theta"])
        hidden, inner = config.hidden_size, config.intermediate_size
        width = getattr(config, "head_dim", None) or hidden // self.heads
        queries, keys = self.heads * width, self.key_heads * width
        self.words = weights.tensor("embed_tokens.weight", config.vocab_size, hidden)

        def norm(name: str) -> RmsNorm:
            return RmsNorm(weights.tensor(f"{name}.weight", hidden), config.rms_norm_eps)

        self.layers = [
            Qwen2Layer(
                attention_norm=norm(f"layers.{i}.input_layernorm"),
                query=weights.linear(f"layers.{i}.self_attn.q_proj", out=queries, inner=hidden),
                key_value=weights.linear(
                    f"layers.{i}.self_attn.k_proj", f"layers.{i}.self_attn.v_proj", out=keys, inner=hidden
                ),
                attention_out=weights.linear(f"layers.{i}.self_attn.o_proj", out=hidden, inner=queries, bias=False),
                mlp_norm=norm(f"layers.{i}.post_attention_layernorm"),
                gate_up=weights.linear(
                    f"layers.{i}.mlp.gate_proj", f"layers.{i}.mlp.up_proj", out=inner, inner=hidden, bias=False
                ),
                down=weights.linear(f"layers.{i}.mlp.down_proj", out=hidden, inner=inner, bias=False),
            )
            for i in range(config.num_hidden_layers)
        ]
        self.final_norm = norm("norm")

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
        return self.layers[0].down.weight.shape[1]

    def __call__(self, batch: PackedBatch, last_only: bool = False) -> torch.Tensor:
        """Hidden states after the final norm: [tokens, hidden], or [pairs, hidden] of each pair's last token, for
        which the last layer needs only that token's query."""
        x = functional.embedding(batch.token_ids, self.words)
        width = len(self.layers[0].query.weight) // self.heads
        rotary = Rotary.at(batch.positions, self.theta, width)
        for layer in self.layers:
            normed = layer.attention_norm(x)
            key, value = layer.key_value(normed).view(len(x), 2, self.key_heads, width).unbind(1)
            key, turn = rotary(key), rotary
            narrow = last_only and layer is self.layers[-1]
            if narrow:
                x, normed, turn = x[batch.lasts], normed[batch.lasts], rotary.rows(batch.lasts)
            query = turn(layer.query(normed).view(len(x), self.heads, width))
            if narrow:
                attended = self.attention.one_token(query, key, value, batch)
            else:
                attended = self.attention.every_token(query, key, value, batch, causal=True)
            x = x + layer.attention_out(attended)
            gate, up = layer.gate_up(layer.mlp_norm(x)).chunk(2, dim=-1)
            x = x + layer.down(self.act(gate) * up)
        return self.final_norm(x)
