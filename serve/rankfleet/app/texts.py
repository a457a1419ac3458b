"""A request's texts as token ids, and its pairs as each tier would see them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rankfleet.core.layout import Layout, PassageRule
from rankfleet.core.messages import RerankRequest, Work
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.engine.texts import TextEncoder
from rankfleet.engine.tokencache import TokenCache
from rankfleet.engine.tokenizer import PairTokenizer


@dataclass(frozen=True)
class TokenizedTexts:
    """A request as token ids.

    tokenizers: by tier; ids: (query, documents) by vocabulary; layouts: by tier, as each has its own limit;
    cached: documents whose ids were known, in every vocabulary asked for.
    """

    tokenizers: Mapping[str, PairTokenizer]
    ids: Mapping[TextEncoder, tuple[np.ndarray, list[np.ndarray]]]
    layouts: Mapping[str, Layout]
    cached: int

    def work(self, tier: str) -> Work:
        return Work.of(self.tokenizers[tier].pair_lengths(self.layouts[tier]))

    def pairs(self, tier: str) -> TokenizedPairs:
        """All pairs, in the order of the tier's layout."""
        tokenizer = self.tokenizers[tier]
        return tokenizer.lay_out(*self.ids[tokenizer.encoder], self.layouts[tier])


def tokenize(
    request: RerankRequest,
    tiers: Mapping[str, tuple[PairTokenizer, int | None]],
    cache: TokenCache,
    passages: PassageRule | None,
) -> TokenizedTexts:
    """Encode query and documents once for each vocabulary, as far as its tiers can use them.

    tiers: tokenizer and the longest pair in tokens (None for the tokenizer's own limit), by name.
    """
    by_encoder: dict[TextEncoder, list[tuple[PairTokenizer, int | None]]] = {}
    for tokenizer, limit in tiers.values():
        by_encoder.setdefault(tokenizer.encoder, []).append((tokenizer, limit))
    ids, cached = {}, len(request.documents)
    for encoder, users in by_encoder.items():
        query = encoder.encode([request.query])[0]
        most = max(tokenizer.reach(query, limit, passages) for tokenizer, limit in users)
        documents, hits = cache.encode(encoder, request.documents, most)
        ids[encoder], cached = (query, documents), min(cached, hits)
    layouts = {
        tier: tokenizer.layout(*ids[tokenizer.encoder], limit, passages) for tier, (tokenizer, limit) in tiers.items()
    }
    return TokenizedTexts({tier: tokenizer for tier, (tokenizer, _) in tiers.items()}, ids, layouts, cached)
