"""A request's texts as token ids, and its pairs as each tier sees them.

What needs PyTorch is imported when it is called: Serve imports the deployments in a process that computes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import CheckpointError
from rankfleet.core.fingerprint import model_name
from rankfleet.core.messages import RerankRequest
from rankfleet.core.passages import PairLayout, PassageRule
from rankfleet.core.query_lists import QueryLists
from rankfleet.core.sections import Tier
from rankfleet.engine.text.inline import INLINE_ENCODED, run
from rankfleet.engine.text.text_encoder import TextEncoder
from rankfleet.engine.text.token_cache import TokenCache
from rankfleet.engine.text.tokenizer import PairTokenizer, Query
from rankfleet.estimates.lengths import Lengths
from rankfleet.router.texts import Part

Key = TypeVar("Key")


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
    ids: token ids of (query, documents), by vocabulary. Of several queries, each document's own.
    layouts: by tier.
    passages: how long documents are split; None if only their beginning is scored.
    cached: candidates whose ids were in the cache, for every vocabulary.
    lists: the candidates of each query.
    documents: int [candidates], the document of each; None where each candidate is a document of its own. Of several
        queries, a document is a text and its query.
    """

    tiers: Mapping[str, tuple[PairTokenizer, int | None]]
    ids: Mapping[TextEncoder, tuple[Query, list[np.ndarray]]]
    layouts: Mapping[str, PairLayout]
    passages: PassageRule | None
    cached: int
    lists: QueryLists
    documents: np.ndarray | None = None

    def lengths(self) -> dict[str, Lengths]:
        """The lengths of the pairs, by tier; one object for tiers that see the same pairs."""
        known: dict[int, Lengths] = {}
        ranks, longest = None, self.lists.longest
        if self.documents is not None or len(self.lists.counts) > 1:
            ranks = first_ranks(self.lists.ranks, self.documents)
        for tier, layout in self.layouts.items():
            if id(layout) not in known:
                tokenizer = self.tiers[tier][0]
                tokens = tokenizer.pair_lengths(layout)
                known[id(layout)] = Lengths(tokens, tokenizer.template.tokens, layout.firsts, ranks, longest)
        return {tier: known[id(layout)] for tier, layout in self.layouts.items()}

    def document_lengths(self, tier: str) -> np.ndarray:
        """int [documents]: tokens of all pairs of each document."""
        layout = self.layouts[tier]
        return np.add.reduceat(self.tiers[tier][0].pair_lengths(layout), layout.firsts)

    def alike(self, tiers: tuple[str, ...], tier: str) -> tuple[str, ...]:
        """`tier`, then those of `tiers` that see the same pairs as it."""
        return (tier, *(t for t in tiers if t != tier and self.layouts[t] is self.layouts[tier]))

    def part(self, tier: str, places: np.ndarray | None = None, max_tokens: int | None = None) -> Part:
        """The pairs of some candidates. places: of these; None for all. max_tokens: cut each pair to this length; the
        number of passages stays the same."""
        tokenizer, limit = self.tiers[tier]
        query, ids = self.ids[tokenizer.encoder]
        layout, documents = self.layouts[tier], self.documents
        if places is not None:
            if documents is not None:
                places, documents = np.unique(documents[places], return_inverse=True)
            ids = [ids[i] for i in places]
            query = query if isinstance(query, np.ndarray) else [query[i] for i in places]
            layout = tokenizer.layout(query, ids, limit, self.passages)
        if max_tokens is not None:
            layout = layout.cut(max_tokens - tokenizer.template.tokens)
        return Part(tokenizer.build_pairs(query, ids, layout), layout, documents)


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
    queries, texts, counts = [request.query], request.documents, request.counts
    if counts:  # several queries, which may have texts in common
        queries, texts = [*dict.fromkeys(request.queries)], [*dict.fromkeys(texts)]
    encoded, cached = {}, len(request.documents)
    for encoder, users in by_encoder.items():
        of_queries = await run(partial(encoder.encode_queries, queries), sum(map(len, queries)), INLINE_ENCODED)
        longest = max(of_queries, key=len)
        max_tokens = max(tokenizer.reach(longest, limit, passages) for tokenizer, limit in users)
        of_texts, hits = await cache.encode(encoder, texts, max_tokens)
        encoded[encoder], cached = (of_queries, of_texts), min(cached, hits + len(request.documents) - len(texts))
    ids: dict[TextEncoder, tuple[Query, list[np.ndarray]]] = {}
    if counts:
        asked, read = ({text: i for i, text in enumerate(each)} for each in (queries, texts))
        whose = [asked[query] for query, count in zip(request.queries, counts, strict=True) for _ in range(count)]
        pairs, documents = numbered([*zip(whose, map(read.__getitem__, request.documents), strict=True)])
        for encoder, (of_queries, of_texts) in encoded.items():
            ids[encoder] = [of_queries[query] for query, _ in pairs], [of_texts[text] for _, text in pairs]
    else:
        documents = None
        for encoder, (of_queries, of_texts) in encoded.items():
            if len({*map(id, of_texts)}) < len(of_texts):  # texts that are the same have one array
                documents = numbered([*map(id, of_texts)])[1]
                of_texts = [*{id(array): array for array in of_texts}.values()]
            ids[encoder] = of_queries[0], of_texts
    layouts: dict[tuple[PairTokenizer, int | None], PairLayout] = {}
    for tokenizer, limit in tiers.values():
        if (tokenizer, limit) not in layouts:
            layouts[tokenizer, limit] = tokenizer.layout(*ids[tokenizer.encoder], limit, passages)
    by_tier = {tier: layouts[how] for tier, how in tiers.items()}
    return TokenizedTexts(tiers, ids, by_tier, passages, cached, request.lists, documents)


def numbered(keys: list[Key]) -> tuple[list[Key], np.ndarray | None]:
    """Each key once, in order; and int [keys], which of these each one is, or None where all differ."""
    if len({*keys}) == len(keys):
        return keys, None
    numbers: dict[Key, int] = {}
    places = [numbers.setdefault(key, len(numbers)) for key in keys]
    return [*numbers], np.array(places)


def first_ranks(ranks: np.ndarray, documents: np.ndarray | None) -> np.ndarray:
    """int64 [documents]: the lowest rank of each. ranks: int64 [candidates]. documents: as in `TokenizedTexts`."""
    if documents is None:
        return ranks
    lowest = np.full(documents.max() + 1, len(ranks))
    np.minimum.at(lowest, documents, ranks)
    return lowest
