"""The arithmetic that scoring a set of pairs takes, to compare a speed with the machine's matrix-product rate.

Counted are matrix products, two operations per multiply and add, with no padding and each local layer's window
respected. For a layer of hidden size H and MLP inner size I, a pair of L tokens costs

    linear      2 L (4 H² + m H I)      projections; m = 3 for a gated MLP (GeGLU), 2 for a plain one
    attention   4 H · seen(L)           Q·Kᵀ and weights·V, 2 H operations each per (token, token it sees)
    seen(L)     L², or with a window of w to each side and L > w + 1:  L² - (L - w - 1)(L - w)

and 2 H² + 2 H for the head. Norms, rotary positions, softmax and activations are not matrix products and are left out,
so no real engine reaches the bound that this gives.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Arithmetic:
    """The sizes on which the cost depends. windows: one for each layer, None where a token sees all others."""

    hidden: int
    inner: int
    mlp_matrices: int
    windows: tuple[int | None, ...]

    @staticmethod
    def of(config: Any) -> "Arithmetic":
        """From a `transformers` config of a BERT, RoBERTa or ModernBERT."""
        gated = config.model_type == "modernbert"
        layers = config.num_hidden_layers
        kinds = config.layer_types if gated else ["full_attention"] * layers
        return Arithmetic(
            hidden=config.hidden_size,
            inner=config.intermediate_size,
            mlp_matrices=3 if gated else 2,
            windows=tuple(config.sliding_window if kind == "sliding_attention" else None for kind in kinds),
        )

    def work(self, lengths: Sequence[int]) -> "FlopCount":
        """Operations for pairs of these lengths in tokens."""
        per_token = 2 * (4 * self.hidden**2 + self.mlp_matrices * self.hidden * self.inner)
        linear = len(self.windows) * per_token * sum(lengths)
        attention = 4 * self.hidden * sum(seen(length, window) for window in self.windows for length in lengths)
        head = len(lengths) * 2 * (self.hidden**2 + self.hidden)
        # A head that reads only the first token needs keys and values of all tokens from the last layer, and everything
        # else for one token per pair.
        last = per_token * sum(lengths) + 4 * self.hidden * sum(seen(n, self.windows[-1]) for n in lengths)
        kept = 4 * self.hidden**2 * sum(lengths) + len(lengths) * (per_token - 4 * self.hidden**2)
        kept += 4 * self.hidden * sum(n if self.windows[-1] is None else min(n, self.windows[-1] + 1) for n in lengths)
        return FlopCount(
            linear=linear + head, attention=attention, first_token_only=linear + attention + head - last + kept
        )


@dataclass(frozen=True)
class FlopCount:
    """Floating-point operations. first_token_only: both kinds together, with the last layer computed only for the first
    token of each pair."""

    linear: int
    attention: int
    first_token_only: int

    @property
    def total(self) -> int:
        return self.linear + self.attention


def seen(length: int, window: int | None) -> int:
    """Number of (token, token it attends to) in a text of `length` tokens; `window` tokens to each side, None for
    all."""
    if window is None or length <= window + 1:
        return length**2
    return length**2 - (length - window - 1) * (length - window)
