"""What encoders ask of an attention back-end."""

from typing import Protocol

import torch

from rankfleet.engine.attention.packing import PackedBatch


class Attention(Protocol):
    """Attention within each pair of a packed batch.

    Keys and values may have fewer heads than queries (grouped-query attention): each of their heads then serves the
    same number of neighbouring query heads.

    fixed_shapes: whether what is launched depends on the numbers of tokens and pairs alone, so that it can be captured
    in a CUDA graph
    """

    fixed_shapes: bool

    def every_token(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        batch: PackedBatch,
        window: int | None = None,
        causal: bool = False,
    ) -> torch.Tensor:
        """Attention of all tokens, [tokens, heads * head dim].

        `query`: [tokens, heads, head dim]. `key`, `value`: [tokens, key heads, head dim].
        `window`: how many tokens a token attends to on each side; None for the whole pair.
        `causal`: a token attends to itself and earlier tokens only. Not together with a window.
        """

    def one_token(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        batch: PackedBatch,
        window: int | None = None,
    ) -> torch.Tensor:
        """Attention of one token of each pair, [pairs, heads * head dim]: all that the last layer needs if the head
        reads one token.

        It is the pair's first token or, in a causal model, its last; both attend to the whole pair. With a window it is
        the first, which attends to itself and the next `window` tokens.

        `query`: [pairs, heads, head dim]. `key`, `value`: as in `every_token`.
        """
