"""BERT and (XLM-)RoBERTa encoders over packed batches (Devlin et al. 2018, post-norm)."""

from dataclasses import dataclass
from typing import Any

import torch

from rankfleet.core.errors import CheckpointError
from rankfleet.engine.attention.packed import Attention
from rankfleet.engine.attention.packing import PackedBatch
from rankfleet.engine.checkpoint.weights import LayerNorm, Linear, Weights
from rankfleet.engine.models.activations import activation


@dataclass(frozen=True)
class BertLayer:
    qkv: Linear
    attention_out: Linear
    attention_norm: LayerNorm
    up: Linear
    down: Linear
    norm: LayerNorm


@dataclass(frozen=True)
class Places:
    """Which row of the table of positions each token takes. padding: RoBERTa's padding token; None for BERT."""

    padding: int | None

    def __call__(self, batch: PackedBatch) -> torch.Tensor:
        """int32 [tokens]. BERT counts from 0. RoBERTa counts from `padding` + 1 and passes over every padding token:
        a text may contain one, written out, and it takes row `padding`."""
        if self.padding is None:
            return batch.positions
        counted = (batch.token_ids != self.padding).int()
        upto = counted.cumsum(0, dtype=torch.int32)
        firsts = torch.arange(len(counted), device=counted.device) - batch.positions
        return (upto - (upto - counted)[firsts]) * counted + self.padding


class BertEncoder:
    def __init__(self, config: Any, weights: Weights, attention: Attention) -> None:
        self.attention = attention
        self.heads: int = config.num_attention_heads
        self.act = activation(config.hidden_act)
        eps: float = config.layer_norm_eps
        roberta = config.model_type in ("roberta", "xlm-roberta")
        if roberta and config.pad_token_id is None:
            raise CheckpointError("config.json has no pad_token_id, from which RoBERTa counts positions")
        if config.is_decoder:
            raise CheckpointError(
                "config.json says is_decoder: attention that sees earlier tokens only is not supported"
            )
        self.place = Places(config.pad_token_id if roberta else None)
        hidden, inner = config.hidden_size, config.intermediate_size
        self.words = weights.tensor("embeddings.word_embeddings.weight", config.vocab_size, hidden)
        positions = config.max_position_embeddings
        self.places = weights.tensor("embeddings.position_embeddings.weight", positions, hidden)
        self.types = weights.tensor("embeddings.token_type_embeddings.weight", config.type_vocab_size, hidden)
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
                up=weights.linear(f"encoder.layer.{i}.intermediate.dense", out=inner, inner=hidden),
                down=weights.linear(f"encoder.layer.{i}.output.dense", out=hidden, inner=inner),
                norm=weights.norm(f"encoder.layer.{i}.output.LayerNorm", eps, hidden),
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

    def __call__(self, batch: PackedBatch, pooled_only: bool = False) -> torch.Tensor:
        """Hidden states of the last layer: [tokens, hidden], or [pairs, hidden] of each pair's first token, for
        which most of the last layer need not be computed."""
        x = self.words[batch.token_ids] + self.places[self.place(batch)]
        x = x + (self.types[batch.type_ids] if len(self.types) > 1 else self.types[0])
        x = self.embedding_norm(x)
        for layer in self.layers:
            query, key, value = layer.qkv(x).view(len(x), 3, self.heads, -1).unbind(1)
            if pooled_only and layer is self.layers[-1]:
                attended = self.attention.one_token(query[batch.firsts], key, value, batch)
                x = x[batch.firsts]
            else:
                attended = self.attention.every_token(query, key, value, batch)
            x = layer.attention_norm(x + layer.attention_out(attended))
            x = layer.norm(x + layer.down(self.act(layer.up(x))))
        return x
