"""The pairs of a request as tiers see them, whatever they were made from."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rankfleet.core.pairs import TokenizedPairs
from rankfleet.core.passages import PairLayout, PassageRule


@dataclass(frozen=True)
class Part:
    """Some of a request's documents as one tier sees them. pairs: in the order of the layout."""

    pairs: TokenizedPairs
    layout: PairLayout


class RequestTexts(Protocol):
    """A request's texts as token ids: `tokenize.TokenizedTexts`, or stand-ins of the simulator.

    passages: how long documents are split; None if only their beginning is scored.
    cached: documents whose ids were in the cache.
    """

    @property
    def passages(self) -> PassageRule | None: ...

    @property
    def cached(self) -> int: ...

    def alike(self, tiers: tuple[str, ...], tier: str) -> tuple[str, ...]:
        """`tier`, then those of `tiers` that see the same pairs as it."""
        ...

    def document_lengths(self, tier: str) -> np.ndarray:
        """int [documents]: tokens of all pairs of each document."""
        ...

    def part(self, tier: str, documents: np.ndarray | None = None, max_tokens: int | None = None) -> Part:
        """The pairs of some documents. documents: their places; None for all. max_tokens: cut each pair to this length;
        the number of passages stays the same."""
        ...
