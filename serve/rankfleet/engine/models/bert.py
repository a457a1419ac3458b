"""The BERT family (Devlin et al. 2018): post-norm, learned positions and segments, an MLP without gates."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from rankfleet.core.errors import CheckpointError
from rankfleet.engine.attention.packing import PackedBatch
from rankfleet.engine.attention.protocol import Attention
from rankfleet.engine.checkpoint.weights import LayerNorm, Linear, Weights
from rankfleet.engine.models.activations import GELU, activation
from rankfleet.engine.models.family import Family
from rankfleet.engine.models.heads import Head
from rankfleet.engine.models.torch_encoder import TorchEncoder
from rankfleet.engine.native.layout import NativeLayout, NativeModel, widths_fit
from rankfleet.engine.native.structs import LayerStruct, NativeWeights
from rankfleet.engine.text.pair_template import tokenizer_template


@dataclass(frozen=True)
class BertLayer:
    qkv: Linear
    attention_out: Linear
    attention_norm: LayerNorm
    mlp_in: Linear
    mlp_out: Linear
    mlp_norm: LayerNorm


def positions_from_zero(batch: PackedBatch) -> torch.Tensor:
    """Rows of the position table, int32 [tokens]: 0 for the first token of each pair."""
    return batch.positions


class BertEncoder(TorchEncoder):
    def __init__(
        self,
        config: Any,
        weights: Weights,
        attention: Attention,
        position_ids: Callable[[PackedBatch], torch.Tensor] = positions_from_zero,
    ) -> None:
        """`position_ids`: the row of the position table that each token takes, int32 [tokens]."""
        if config.is_decoder:
            raise CheckpointError(
                "config.json says is_decoder: attention that sees earlier tokens only is not supported"
            )
        self.attention = attention
        self.position_ids = position_ids
        self.heads: int = config.num_attention_heads
        self.act = activation(config.hidden_act)
        eps: float = config.layer_norm_eps
        hidden, inner = config.hidden_size, config.intermediate_size
        positions, types = config.max_position_embeddings, config.type_vocab_size
        self.word_embeddings = weights.tensor("embeddings.word_embeddings.weight", config.vocab_size, hidden)
        self.position_embeddings = weights.tensor("embeddings.position_embeddings.weight", positions, hidden)
        self.type_embeddings = weights.tensor("embeddings.token_type_embeddings.weight", types, hidden)
        self.embedding_norm = weights.norm("embeddings.LayerNorm", eps, hidden)
        self.layers = [
            BertLayer(
                qkv=weights.linear(
                    *(f"encoder.layer.{i}.attention.self.{n}" for n in ("query", "key", "value")),
                    out=hidden,
                    inner=hidden,
                ),
                attention_out=weights.linear(f"encoder.layer.{i}.attention.output.dense", out=hidden, inner=hidden),
                attention_norm=weights.norm(f"encoder.layer.{i}.attention.output.LayerNorm", eps, hidden),
                mlp_in=weights.linear(f"encoder.layer.{i}.intermediate.dense", out=inner, inner=hidden),
                mlp_out=weights.linear(f"encoder.layer.{i}.output.dense", out=hidden, inner=inner),
                mlp_norm=weights.norm(f"encoder.layer.{i}.output.LayerNorm", eps, hidden),
            )
            for i in range(config.num_hidden_layers)
        ]

    @property
    def inner(self) -> int:
        return self.layers[0].mlp_out.weight.shape[1]

    def __call__(self, batch: PackedBatch, pooled_only: bool = False) -> torch.Tensor:
        x = self.word_embeddings[batch.token_ids] + self.position_embeddings[self.position_ids(batch)]
        x = x + (self.type_embeddings[batch.type_ids] if len(self.type_embeddings) > 1 else self.type_embeddings[0])
        x = self.embedding_norm(x)
        for layer in self.layers:
            query, key, value = layer.qkv(x).view(len(x), 3, self.heads, -1).unbind(1)
            if pooled_only and layer is self.layers[-1]:
                attended = self.attention.one_token(query[batch.firsts], key, value, batch)
                x = x[batch.firsts]
            else:
                attended = self.attention.every_token(query, key, value, batch)
            x = layer.attention_norm(x + layer.attention_out(attended))
            x = layer.mlp_norm(x + layer.mlp_out(self.act(layer.mlp_in(x))))
        return x


def bert_head(config: Any, weights: Weights) -> Head:
    """The first token through the pooler and a linear classifier."""
    hidden = config.hidden_size
    pooler = weights.linear("bert.pooler.dense", out=hidden, inner=hidden)
    return Head("cls", [pooler, torch.tanh, weights.linear("classifier", out=1, inner=hidden)])


def bert_fits(encoder: BertEncoder) -> bool:
    return encoder.act is GELU and widths_fit(encoder, head_widths=(32, 64), gated=False)


def bert_native(encoder: BertEncoder, weights: NativeWeights, max_length: int) -> NativeModel:
    layers = [
        LayerStruct(
            attention_norm=weights.norm(layer.attention_norm),
            mlp_norm=weights.norm(layer.mlp_norm),
            qkv=weights.linear(layer.qkv),
            attention_out=weights.linear(layer.attention_out),
            mlp_in=weights.linear(layer.mlp_in),
            mlp_out=weights.linear(layer.mlp_out),
            window=-1,
            rotary=None,
        )
        for layer in encoder.layers
    ]
    # The kernels look the segment up for every token: a model with one segment gives both the same row.
    types = encoder.type_embeddings
    struct = weights.model(
        layers,
        word_embeddings=encoder.word_embeddings,
        position_embeddings=encoder.position_embeddings,
        type_embeddings=types if len(types) > 1 else types.expand(2, -1),
        embedding_norm=encoder.embedding_norm,
        final_norm=None,
        heads=encoder.heads,
        pre_norm=False,
        gated=False,
    )
    return NativeModel(struct, encoder.position_ids)


BERT_LAYOUT = NativeLayout(fits=bert_fits, build=bert_native)

BERT = Family(
    encoder=BertEncoder,
    prefix="bert.",
    head=bert_head,
    pooled="first",
    position_offset=lambda config: 0,
    left_padding_shifts=True,
    prompt=tokenizer_template,
    native=BERT_LAYOUT,
)
