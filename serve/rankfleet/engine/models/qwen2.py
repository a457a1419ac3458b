"""The Qwen2 family (Yang et al. 2024): causal, grouped-query attention, rotary positions, SwiGLU, RMSNorm.

As a reranker it reads a prompt that contains query and document; the score is the difference of two next-token logits
after the last token.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from rankfleet.core.errors import CheckpointError
from rankfleet.engine.attention.packing import PackedBatch
from rankfleet.engine.attention.protocol import Attention
from rankfleet.engine.checkpoint.weights import Linear, Weights
from rankfleet.engine.models.activations import activation
from rankfleet.engine.models.family import Family
from rankfleet.engine.models.rotary import Rotary
from rankfleet.engine.models.torch_encoder import TorchEncoder
from rankfleet.engine.text.chat_template import chat_template


@dataclass(frozen=True)
class RmsNorm:
    """x / sqrt(mean(x²) + eps) · weight: the quotient in float32, rounded before the product, as in Transformers."""

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
    mlp_in: Linear  # gate and up projection, stacked
    mlp_out: Linear


class Qwen2Encoder(TorchEncoder):
    def __init__(self, config: Any, weights: Weights, attention: Attention) -> None:
        """Raises CheckpointError for layers with a sliding window and for scaled rotary positions."""
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
        self.word_embeddings = weights.tensor("embed_tokens.weight", config.vocab_size, hidden)

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
                mlp_in=weights.linear(
                    f"layers.{i}.mlp.gate_proj", f"layers.{i}.mlp.up_proj", out=inner, inner=hidden, bias=False
                ),
                mlp_out=weights.linear(f"layers.{i}.mlp.down_proj", out=hidden, inner=inner, bias=False),
            )
            for i in range(config.num_hidden_layers)
        ]
        self.final_norm = norm("norm")

    @property
    def inner(self) -> int:
        return self.layers[0].mlp_out.weight.shape[1]

    def __call__(self, batch: PackedBatch, pooled_only: bool = False) -> torch.Tensor:
        x = functional.embedding(batch.token_ids, self.word_embeddings)
        width = len(self.layers[0].query.weight) // self.heads
        rotary = Rotary.at(batch.positions, self.theta, width)
        for layer in self.layers:
            normed = layer.attention_norm(x)
            key, value = layer.key_value(normed).view(len(x), 2, self.key_heads, width).unbind(1)
            key, query_rotary = rotary(key), rotary
            last_tokens = pooled_only and layer is self.layers[-1]
            if last_tokens:
                x, normed, query_rotary = x[batch.lasts], normed[batch.lasts], rotary.rows(batch.lasts)
            query = query_rotary(layer.query(normed).view(len(x), self.heads, width))
            if last_tokens:
                attended = self.attention.one_token(query, key, value, batch)
            else:
                attended = self.attention.every_token(query, key, value, batch, causal=True)
            x = x + layer.attention_out(attended)
            gate, up = layer.mlp_in(layer.mlp_norm(x)).chunk(2, dim=-1)
            x = x + layer.mlp_out(self.act(gate) * up)
        return self.final_norm(x)


QWEN2 = Family(
    encoder=Qwen2Encoder,
    prefix="model.",
    head=None,
    pooled="last",
    position_offset=None,
    left_padding_shifts=False,
    prompt=chat_template,
    native=None,
)
