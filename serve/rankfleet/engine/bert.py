"""BERT and (XLM-)RoBERTa encoders over packed batches (Devlin et al. 2018, post-norm)."""

from dataclasses import dataclass
from typing import Any

import torch

from rankfleet.core.errors import CheckpointError
from rankfleet.engine.activations import activation
from rankfleet.engine.attention import Attention
from rankfleet.engine.packing import PackedBatch
from rankfleet.engine.weights import LayerNorm, Linear, Weights


@dataclass(frozen=True)
class Layer:
    qkv: Linear
    attention_out: Linear
    attention_norm: LayerNorm
    up: Linear
    down: Linear
    norm: LayerNorm


class BertEncoder:
    def __init__(self, config: Any, weights: Weights, attention: Attention) -> None:
        self.attention = attention
        self.heads: int = config.num_attention_heads
        self.act = activation(config.hidden_act)
        eps: float = config.layer_norm_eps
        self.words = weights.tensor("embeddings.word_embeddings.weight")
        self.places = weights.tensor("embeddings.position_embeddings.weight")
        self.types = weights.tensor("embeddings.token_type_embeddings.weight")
        self.embedding_norm = weights.norm("embeddings.LayerNorm", eps)
        # RoBERTa counts positions from padding_idx + 1 and has a single token type.
        roberta = config.model_type in ("roberta", "xlm-roberta")
        self.first_position: int = config.pad_token_id + 1 if roberta else 0
        if len(self.places) < config.max_position_embeddings:  # long pairs would read beyond it
            raise CheckpointError(
                f"{weights.folder}: the table of positions has {len(self.places)} rows, config.json says "
                f"{config.max_position_embeddings}; are both of the same model?"
            )
        self.layers = [
            Layer(
                qkv=weights.linear(*(f"encoder.layer.{i}.attention.self.{n}" for n in ("query", "key", "value"))),
                attention_out=weights.linear(f"encoder.layer.{i}.attention.output.dense"),
                attention_norm=weights.norm(f"encoder.layer.{i}.attention.output.LayerNorm", eps),
                up=weights.linear(f"encoder.layer.{i}.intermediate.dense"),
                down=weights.linear(f"encoder.layer.{i}.output.dense"),
                norm=weights.norm(f"encoder.layer.{i}.output.LayerNorm", eps),
            )
            for i in range(config.num_hidden_layers)
        ]

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

    def __call__(self, batch: PackedBatch, first_only: bool = False) -> torch.Tensor:
        """Hidden states of the last layer: [tokens, hidden], or [pairs, hidden] of each pair's first token, for
        which most of the last layer need not be computed."""
        x = self.words[batch.token_ids] + self.places[batch.positions + self.first_position]
        x = x + (self.types[batch.type_ids] if len(self.types) > 1 else self.types[0])
        x = self.embedding_norm(x)
        for layer in self.layers:
            query, key, value = layer.qkv(x).view(len(x), 3, self.heads, -1).unbind(1)
            if first_only and layer is self.layers[-1]:
                attended = self.attention.one_token(query[batch.firsts], key, value, batch)
                x = x[batch.firsts]
            else:
                attended = self.attention.every_token(query, key, value, batch)
            x = layer.attention_norm(x + layer.attention_out(attended))
            x = layer.norm(x + layer.down(self.act(layer.up(x))))
        return x
