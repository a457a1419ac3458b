"""A family of encoders: all that the engine has to know of one architecture."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from rankfleet.engine.attention.protocol import Attention
from rankfleet.engine.checkpoint.files import Checkpoint
from rankfleet.engine.checkpoint.weights import Weights
from rankfleet.engine.models.heads import Head
from rankfleet.engine.models.torch_encoder import TorchEncoder
from rankfleet.engine.native.layout import NativeLayout
from rankfleet.engine.text.pair_template import PairTemplate

Config = Any  # a config of Transformers, each family's with attributes of its own


@dataclass(frozen=True)
class Family:
    """One encoder architecture. `models/families.py` lists all; docs/add-a-family.md says how to add one.

    `encoder`: the class that computes in PyTorch's operations, from config, weights and attention back-end.
    `prefix`: what the encoder's weight names begin with in a checkpoint that also has a head.
    `head`: the head of a `...ForSequenceClassification` checkpoint; None if there is none that gives scores.
    `pooled`: the token whose hidden state is scored. `last` means causal attention, and a score that is read off the
        language model's logits (Sentence Transformers' LogitScore).
    `position_offset`: rows of the position table before the first token's, from the config; None for rotary positions,
        which have no table that could end.
    `left_padding_shifts`: whether padding on the left moves the positions of a text's tokens, and with them its score.
    `prompt`: the tokens around query and document.
    `native`: how its weights go into the compiled kernels; None if the kernels cannot run it.
    """

    encoder: Callable[[Config, Weights, Attention], TorchEncoder]
    prefix: str
    head: Callable[[Config, Weights], Head] | None
    pooled: Literal["first", "last"]
    position_offset: Callable[[Config], int] | None
    left_padding_shifts: bool
    prompt: Callable[[Checkpoint], PairTemplate]
    native: NativeLayout[Any] | None

    @property
    def causal(self) -> bool:
        """Whether tokens see earlier tokens only."""
        return self.pooled == "last"

    def fits_kernels(self, encoder: TorchEncoder) -> bool:
        """Whether the compiled kernels can run this encoder of the family."""
        return self.native is not None and self.native.fits(encoder)
