"""The RoBERTa and XLM-RoBERTa families (Liu et al. 2019): BERT with positions counted from after the padding id."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from rankfleet.core.errors import CheckpointError
from rankfleet.engine.attention.packing import PackedBatch
from rankfleet.engine.attention.protocol import Attention
from rankfleet.engine.checkpoint.weights import Weights
from rankfleet.engine.models.bert import BERT, BertEncoder
from rankfleet.engine.models.heads import Head


@dataclass(frozen=True)
class PositionsAfterPadding:
    """Rows of the position table, int32 [tokens]: counted from `padding` + 1 over tokens other than padding.

    A text may contain the padding token written out: it takes row `padding`, and those after it do not move.
    """

    padding: int

    def __call__(self, batch: PackedBatch) -> torch.Tensor:
        counts = (batch.token_ids != self.padding).int()
        running = counts.cumsum(0, dtype=torch.int32)  # over the whole batch
        firsts = torch.arange(len(counts), device=counts.device) - batch.positions  # first token of each token's pair
        return (running - (running - counts)[firsts]) * counts + self.padding


class RobertaEncoder(BertEncoder):
    def __init__(self, config: Any, weights: Weights, attention: Attention) -> None:
        if config.pad_token_id is None:
            raise CheckpointError("config.json has no pad_token_id, from which RoBERTa counts positions")
        super().__init__(config, weights, attention, PositionsAfterPadding(config.pad_token_id))


def roberta_head(config: Any, weights: Weights) -> Head:
    """The first token through two linear layers with tanh between them."""
    hidden = config.hidden_size
    dense = weights.linear("classifier.dense", out=hidden, inner=hidden)
    return Head("cls", [dense, torch.tanh, weights.linear("classifier.out_proj", out=1, inner=hidden)])


ROBERTA = replace(
    BERT,
    encoder=RobertaEncoder,
    prefix="roberta.",
    head=roberta_head,
    position_offset=lambda config: (config.pad_token_id or 0) + 1,
    left_padding_shifts=False,
)
