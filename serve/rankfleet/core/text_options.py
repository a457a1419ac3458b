"""What a request asks to be done with its texts before they are scored."""

from dataclasses import dataclass
from typing import Literal

Side = Literal["left", "right"]  # of a text: where it begins, and where it ends


@dataclass(frozen=True)
class TextOptions:
    """Limits are in tokens of the tier that reads the text; None for no limit but the tier's own.

    instruction: put where a model's prompt template shows one; None for the model's default. Tiers whose prompt has no
        place for it do not answer.
    query_tokens, document_tokens: a query or document keeps its first tokens up to here.
    pair_tokens: of query, document and the tokens around them together.
    cut_side: which side of a text goes where a pair is too long.
    may_cut: False if no text may lose a token. Then tiers that would have to cut one do not answer.
    max_passages: long documents are scored by the best of at most as many passages; None for what the request's
        `long_documents` and the fleet's limit say.
    """

    instruction: str | None = None
    query_tokens: int | None = None
    document_tokens: int | None = None
    pair_tokens: int | None = None
    cut_side: Side = "right"
    may_cut: bool = True
    max_passages: int | None = None

    def pair_limit(self, pair_tokens: int) -> int:
        """The longest pair. pair_tokens: that the tier takes."""
        return min(pair_tokens, self.pair_tokens or pair_tokens)

    def shortest_cut(self, pair_tokens: int) -> int:
        """No pair that has lost tokens has fewer than these. pair_tokens: the longest pair that the tier takes."""
        return min(self.pair_limit(pair_tokens), self.document_tokens or pair_tokens, self.query_tokens or pair_tokens)


AS_SENT = TextOptions()
