"""A request's texts as token ids, and its pairs as each tier sees them.

What needs PyTorch is imported when it is called: Serve imports the deployments in a process that computes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import CheckpointError
from rankfleet.core.fingerprint import model_name
from rankfleet.core.messages import RerankRequest
from rankfleet.core.passages import PairLayout, PassageRule
from rankfleet.core.sections import Tier
from rankfleet.engine.text.inline import INLINE_ENCODED, run
from rankfleet.engine.text.text_encoder import TextEncoder
from rankfleet.engine.text.token_cache import TokenCache
from rankfleet.engine.text.tokenizer import PairTokenizer
from rankfleet.estimates.lengths import Lengths
from rankfleet.router.texts import Part


def load_tokenizers(tiers: Mapping[str, Tier]) -> dict[str, PairTokenizer]:
    """The tokenizers, by tier. Tiers that share a vocabulary share one object, so that texts are encoded once for all.

    Raises CheckpointError if one cannot be loaded, or if a tier's `max_tokens` leaves no room for texts.
    """
    from rankfleet.engine.checkpoint.files import find_checkpoint
    from rankfleet.engine.runtime.loading import load_tokenizer

    tokenizers: dict[str, PairTokenizer] = {}
    by_text: dict[str, PairTokenizer] = {}
    for name, tier in tiers.items():
        tokenizer = load_tokenizer(find_checkpoint(tier.model, tier.revision, weights=False))
        if tier.max_tokens is not None:
            try:
                tokenizer.check_limit(tier.max_tokens)
            except CheckpointError as error:
                raise CheckpointError(f"tiers.{name}.max_tokens is too low: {error}") from None
        tokenizers[name] = by_text.setdefault(tokenizer.identity, tokenizer)
    return tokenizers


def model_names(config: FleetConfig) -> dict[str, str]:
    """The fingerprint of each tier's model (`core/fingerprint.py`). Raises CheckpointError."""
    from rankfleet.engine.checkpoint.files import find_checkpoint

    return {
        name: model_name(
            name,
            tier,
            config.groups[config.group_of(name)].dtype,
            find_checkpoint(tier.model, tier.revision, weights=False).description,
        )
        for name, tier in config.tiers.items()
    }


@dataclass(frozen=True)
class TokenizedTexts:
    """A request as token ids.

    tiers: by name, the tokenizer and the longest pair in tokens (None for the tokenizer's own limit).
    ids: token ids of (query, documents), by vocabulary.
    layouts: by tier.
    passages: how long documents are split; None if only their beginning is scored.
    cached: documents whose ids were in the cache, for every vocabulary.
    """

    tiers: Mapping[str, tuple[PairTokenizer, int | None]]
    ids: Mapping[TextEncoder, tuple[np.ndarray, list[np.ndarray]]]
    layouts: Mapping[str, PairLayout]
    passages: PassageRule | None
    cached: int

    def lengths(self) -> dict[str, Lengths]:
        """The lengths of the pairs, by tier; one object for tiers that see the same pairs."""
        known: dict[int, Lengths] = {}
        for tier, layout in self.layouts.items():
            if id(layout) not in known:
                tokenizer = self.tiers[tier][0]
                known[id(layout)] = Lengths(tokenizer.pair_lengths(layout), tokenizer.template.tokens, layout.firsts)
        return {tier: known[id(layout)] for tier, layout in self.layouts.items()}

    def document_lengths(self, tier: str) -> np.ndarray:
        """int [documents]: tokens of all pairs of each document."""
        layout = self.layouts[tier]
        return np.add.reduceat(self.tiers[tier][0].pair_lengths(layout), layout.firsts)

    def alike(self, tiers: tuple[str, ...], tier: str) -> tuple[str, ...]:
        """`tier`, then those of `tiers` that see the same pairs as it."""
        return (tier, *(t for t in tiers if t != tier and self.layouts[t] is self.layouts[tier]))

    def part(self, tier: str, documents: np.ndarray | None = None, max_tokens: int | None = None) -> Part:
        """The pairs of some documents. documents: their places; None for all. max_tokens: cut each pair to this length;
        the number of passages stays the same."""
        tokenizer, limit = self.tiers[tier]
        query, ids = self.ids[tokenizer.encoder]
        layout = self.layouts[tier]
        if documents is not None:
            ids = [ids[i] for i in documents]
            layout = tokenizer.layout(query, ids, limit, self.passages)
        if max_tokens is not None:
            layout = layout.cut(max_tokens - tokenizer.template.tokens)
        return Part(tokenizer.build_pairs(query, ids, layout), layout)


async def tokenize(
    request: RerankRequest,
    tiers: Mapping[str, tuple[PairTokenizer, int | None]],
    cache: TokenCache,
    passages: PassageRule | None,
) -> TokenizedTexts:
    """Encode query and documents once for each vocabulary, as far as its tiers can read them.

    tiers: as in `TokenizedTexts`.
    """
    by_encoder: dict[TextEncoder, list[tuple[PairTokenizer, int | None]]] = {}
    for tokenizer, limit in tiers.values():
        by_encoder.setdefault(tokenizer.encoder, []).append((tokenizer, limit))
    ids, cached = {}, len(request.documents)
    for encoder, users in by_encoder.items():
        (query,) = await run(partial(encoder.encode_queries, [request.query]), len(request.query), INLINE_ENCODED)
        max_tokens = max(tokenizer.reach(query, limit, passages) for tokenizer, limit in users)
        documents, hits = await cache.encode(encoder, request.documents, max_tokens)
        ids[encoder], cached = (query, documents), min(cached, hits)
    layouts: dict[tuple[PairTokenizer, int | None], PairLayout] = {}
    for tokenizer, limit in tiers.values():
        if (tokenizer, limit) not in layouts:
            layouts[tokenizer, limit] = tokenizer.layout(*ids[tokenizer.encoder], limit, passages)
    return TokenizedTexts(tiers, ids, {tier: layouts[how] for tier, how in tiers.items()}, passages, cached)
