"""What every encoder in PyTorch's operations offers to the scorer."""

from abc import ABC, abstractmethod

import torch

from rankfleet.engine.attention.packing import PackedBatch
from rankfleet.engine.attention.protocol import Attention


class TorchEncoder(ABC):
    """An encoder over packed batches. A family's class reads its weights in `__init__(config, weights, attention)`."""

    attention: Attention
    heads: int
    word_embeddings: torch.Tensor  # [vocabulary, hidden]

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding table; token ids are below this."""
        return self.word_embeddings.shape[0]

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return self.word_embeddings.shape[1]

    @property
    @abstractmethod
    def inner(self) -> int:
        """Width of the MLP."""

    @abstractmethod
    def __call__(self, batch: PackedBatch, pooled_only: bool = False) -> torch.Tensor:
        """Hidden states after the last layer: [tokens, hidden].

        `pooled_only`: [pairs, hidden] of each pair's pooled token alone (the first, or in a causal model the last), for
        which most of the last layer need not be computed.
        """

    def fuse(self) -> None:
        """Take the kernels of `models/fused.py` for element-wise steps, on a GPU where Triton works. An encoder without
        such steps runs as it is."""
        return
