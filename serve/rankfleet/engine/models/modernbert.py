"""The ModernBERT family (Warner et al. 2024): pre-norm, GeGLU, rotary positions, global attention in every third
layer and a sliding window in the others."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from rankfleet.core.errors import CheckpointError
from rankfleet.engine.attention.packing import PackedBatch
from rankfleet.engine.attention.protocol import Attention
from rankfleet.engine.checkpoint.weights import LayerNorm, Linear, Weights
from rankfleet.engine.models.activations import GELU, activation
from rankfleet.engine.models.family import Family
from rankfleet.engine.models.heads import Head
from rankfleet.engine.models.rotary import Rotary, rotate
from rankfleet.engine.models.torch_encoder import TorchEncoder
from rankfleet.engine.native.layout import NativeLayout, NativeModel, widths_fit
from rankfleet.engine.native.structs import LayerStruct, NativeWeights
from rankfleet.engine.text.pair_template import tokenizer_template


@dataclass(frozen=True)
class ModernBertLayer:
    kind: str  # full_attention or sliding_attention
    attention_norm: LayerNorm | None  # None in the first layer, whose input is the normed embeddings
    qkv: Linear
    attention_out: Linear
    mlp_norm: LayerNorm
    mlp_in: Linear
    mlp_out: Linear


def rotated(qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys with their positions. qkv: [tokens, 3, heads, head dim]; cos, sin: as in `Rotary`."""
    query, key = rotate(qkv[:, :2], cos[:, None], sin[:, None]).unbind(1)
    return query, key


def add_norm(
    x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """x + y, and the layer norm of that sum. x, y: [rows, hidden]."""
    x = x + y
    return x, functional.layer_norm(x, weight.shape, weight, bias, eps)


class ModernBertEncoder(TorchEncoder):
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
        self.word_embeddings = weights.tensor("embeddings.tok_embeddings.weight", config.vocab_size, hidden)
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
        self.rotate: Callable[..., tuple[torch.Tensor, torch.Tensor]] = rotated
        self.gate: Callable[..., torch.Tensor] = self._gate
        self.add_norm: Callable[..., tuple[torch.Tensor, torch.Tensor]] = add_norm

    def fuse(self) -> None:
        from rankfleet.engine.models import fused

        self.add_norm = fused.add_norm
        if self.act is GELU:
            self.gate = fused.gelu_gate
        if fused.can_rotate(self.hidden // self.heads):
            self.rotate = fused.rotate_in_place

    def _gate(self, x: torch.Tensor) -> torch.Tensor:
        """GeGLU. x: [rows, 2 * inner]."""
        gelu, gate = x.chunk(2, dim=-1)
        return self.act(gelu) * gate

    @property
    def inner(self) -> int:
        return self.layers[0].mlp_out.weight.shape[1]

    def __call__(self, batch: PackedBatch, pooled_only: bool = False) -> torch.Tensor:
        x = self.embedding_norm(self.word_embeddings[batch.token_ids])
        width = x.shape[-1] // self.heads
        rotary = {kind: Rotary.at(batch.positions, theta, width) for kind, theta in self.theta.items()}
        after = [layer.attention_norm for layer in self.layers[1:] if layer.attention_norm] + [self.final_norm]
        first = self.layers[0].attention_norm
        normed = first(x) if first else x
        for layer, next_norm in zip(self.layers, after, strict=True):
            qkv = layer.qkv(normed).view(len(x), 3, self.heads, width)
            turn = rotary[layer.kind]
            query, key = self.rotate(qkv, turn.cos, turn.sin)
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


def modernbert_head(config: Any, weights: Weights) -> Head:
    """The first token or the mean of all through a linear layer, activation and norm to a linear classifier."""
    hidden = config.hidden_size
    return Head(
        config.classifier_pooling,
        [
            weights.linear("head.dense", out=hidden, inner=hidden, bias=config.classifier_bias),
            activation(config.classifier_activation),
            weights.norm("head.norm", config.norm_eps, hidden, config.norm_bias),
            weights.linear("classifier", out=1, inner=hidden),
        ],
    )


def modernbert_fits(encoder: ModernBertEncoder) -> bool:
    # With rotary positions a head has to be one tile of the kernels.
    return encoder.act is GELU and widths_fit(encoder, head_widths=(64,), gated=True)


def modernbert_native(encoder: ModernBertEncoder, weights: NativeWeights, max_length: int) -> NativeModel:
    tables = {}  # float32 [max_length, 32 cos and 32 sin] by kind of layer
    for kind, theta in encoder.theta.items():
        rotary = Rotary.at(torch.arange(max_length), theta, 64)
        tables[kind] = weights.keep(torch.cat([rotary.cos[:, 0, :32], rotary.sin[:, 0, :32]], dim=1))
    layers = [
        LayerStruct(
            attention_norm=weights.norm(layer.attention_norm),
            mlp_norm=weights.norm(layer.mlp_norm),
            qkv=weights.linear(layer.qkv),
            attention_out=weights.linear(layer.attention_out),
            mlp_in=weights.linear(layer.mlp_in, gated=True),
            mlp_out=weights.linear(layer.mlp_out),
            window=encoder.window if layer.kind == "sliding_attention" else -1,
            rotary=tables[layer.kind],
        )
        for layer in encoder.layers
    ]
    struct = weights.model(
        layers,
        word_embeddings=encoder.word_embeddings,
        position_embeddings=None,
        type_embeddings=None,
        embedding_norm=encoder.embedding_norm,
        final_norm=encoder.final_norm,
        heads=encoder.heads,
        pre_norm=True,
        gated=True,
    )
    return NativeModel(struct)


MODERNBERT = Family(
    encoder=ModernBertEncoder,
    prefix="model.",
    head=modernbert_head,
    pooled="first",
    position_offset=None,
    left_padding_shifts=False,
    prompt=tokenizer_template,
    native=NativeLayout(fits=modernbert_fits, build=modernbert_native),
)
