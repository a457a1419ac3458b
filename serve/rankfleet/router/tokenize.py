"""A request's texts as token ids, and its pairs as each tier sees them.

What needs PyTorch is imported when it is called: Serve imports the deployments in a process that computes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np

from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import CheckpointError, InvalidRequest, TooLarge
from rankfleet.core.fingerprint import model_name
from rankfleet.core.messages import RerankRequest
from rankfleet.core.passages import PairLayout, PassageRule
from rankfleet.core.query_lists import QueryLists
from rankfleet.core.sections import Tier
from rankfleet.core.text_options import AS_SENT, Side, TextOptions
from rankfleet.engine.text.inline import INLINE_BUILT, INLINE_ENCODED, run
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


Tokenizers = Mapping[str, tuple[PairTokenizer, int | None]]
"""By tier, the tokenizer and the longest pair in tokens (None for the tokenizer's own limit)."""


class EncodedTexts(NamedTuple):
    """Token ids of a request's texts by one vocabulary.

    query: of all documents, or of each document its own.
    shortened: int64 [n], places of documents that have lost tokens already, or whose query has.
    """

    query: Query
    documents: list[np.ndarray]
    shortened: np.ndarray


MAX_NAMED = 5  # documents that a message lists
NONE_SHORTENED = np.empty(0, np.int64)


@dataclass(frozen=True)
class TokenizedTexts:
    """A request as token ids.

    ids: by vocabulary.
    layouts: by tier.
    passages: how long documents are split; None if only one part of them is scored.
    cached: candidates whose ids were in the cache, for every vocabulary.
    lists: the candidates of each query.
    documents: int [candidates], the document of each; None where each candidate is a document of its own. Of several
        queries, a document is a text and its query.
    cut_side: of a text that is too long.
    """

    tiers: Tokenizers
    ids: Mapping[TextEncoder, EncodedTexts]
    layouts: Mapping[str, PairLayout]
    passages: PassageRule | None
    cached: int
    lists: QueryLists
    documents: np.ndarray | None = None
    cut_side: Side = "right"

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

    def uncut_lengths(self, places: np.ndarray | None) -> dict[str, Lengths]:
        """As `lengths`, of the tiers that read all texts to their end. Raises TooLarge if there are none.

        places: int [candidates], of each in the request as it was sent; None if it was sent in this order.
        """
        lengths = self.lengths()
        if uncut := {tier: lengths[tier] for tier, layout in self.layouts.items() if not layout.truncated}:
            return uncut
        tier, layout = min(self.layouts.items(), key=lambda item: len(item[1].truncated))
        cut = np.array(layout.truncated)
        if self.documents is not None:
            cut = np.flatnonzero(np.isin(self.documents, cut))
        sent = cut.tolist() if places is None else sorted(places[cut].tolist())
        names = [self.name_of(place) for place in sent[:MAX_NAMED]]
        which = ", ".join(names) + ("…" if len(sent) > MAX_NAMED else "")
        raise TooLarge(f"longer than {tier} reads: document {which}; shorten them, or let them be cut")

    def name_of(self, place: int) -> str:
        """Of a candidate, for messages: its number, behind that of its query where there are several."""
        query, number = self.lists.locate(place)
        return f"{query}.{number}" if len(self.lists.counts) > 1 else str(number)

    def document_lengths(self, tier: str) -> np.ndarray:
        """int [documents]: tokens of all pairs of each document."""
        layout = self.layouts[tier]
        return np.add.reduceat(self.tiers[tier][0].pair_lengths(layout), layout.firsts)

    def alike(self, tiers: tuple[str, ...], tier: str) -> tuple[str, ...]:
        """`tier`, then those of `tiers` that see the same pairs as it."""
        return (tier, *(t for t in tiers if t != tier and self.layouts[t] is self.layouts[tier]))

    async def part(self, tier: str, places: np.ndarray | None = None, max_tokens: int | None = None) -> Part:
        """The pairs of some candidates. places: of these; None for all. max_tokens: cut each pair to this length; the
        number of passages stays the same."""
        tokenizer, limit = self.tiers[tier]
        query, ids, shortened = self.ids[tokenizer.encoder]
        layout, documents = self.layouts[tier], self.documents
        if places is not None:
            if documents is not None:
                places, documents = np.unique(documents[places], return_inverse=True)
            ids = [ids[i] for i in places]
            query = query if isinstance(query, np.ndarray) else [query[i] for i in places]
            layout = tokenizer.layout(query, ids, limit, self.passages, self.cut_side)
            if len(shortened):
                layout = layout.marked(np.flatnonzero(np.isin(places, shortened)))
        if max_tokens is not None:
            layout = layout.cut(max_tokens - tokenizer.template.tokens)
        build = partial(tokenizer.build_pairs, query, ids, layout)
        return Part(await run(build, int(layout.tokens.sum()), INLINE_BUILT), layout, documents)


async def tokenize(
    request: RerankRequest, tiers: Tokenizers, cache: TokenCache, passages: PassageRule | None
) -> TokenizedTexts:
    """Encode query and documents once for each vocabulary, as far as its tiers can read them.

    Raises InvalidRequest if no tier can do with the texts what is asked.
    """
    options = request.options
    if options is not AS_SENT:
        prepare = partial(prepared, options, tiers)
        tiers = await run(prepare, len(options.instruction or ""), INLINE_ENCODED)
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
        max_tokens = max(tokenizer.reach(longest, limit, passages, options.cut_side) for tokenizer, limit in users)
        if options.document_tokens is not None:
            max_tokens = min(max_tokens, users[0][0].reach_of(options.document_tokens))
        of_texts, hits = await cache.encode(encoder, texts, max_tokens, request.tenant or "")
        encoded[encoder], cached = (of_queries, of_texts), min(cached, hits + len(request.documents) - len(texts))
    ids: dict[TextEncoder, EncodedTexts] = {}
    if counts:
        asked, read = ({text: i for i, text in enumerate(each)} for each in (queries, texts))
        whose = [asked[query] for query, count in zip(request.queries, counts, strict=True) for _ in range(count)]
        pairs, documents = numbered([*zip(whose, map(read.__getitem__, request.documents), strict=True)])
        for encoder, (of_queries, of_texts) in encoded.items():
            own_queries, own_texts = [of_queries[query] for query, _ in pairs], [of_texts[text] for _, text in pairs]
            ids[encoder] = EncodedTexts(own_queries, own_texts, NONE_SHORTENED)
    else:
        documents = None
        for encoder, (of_queries, of_texts) in encoded.items():
            if len({*map(id, of_texts)}) < len(of_texts):  # texts that are the same have one array
                documents = numbered([*map(id, of_texts)])[1]
                of_texts = [*{id(array): array for array in of_texts}.values()]
            ids[encoder] = EncodedTexts(of_queries[0], of_texts, NONE_SHORTENED)
    if options.document_tokens is not None or options.query_tokens is not None:
        ids = {encoder: shortened(by_encoder[encoder][0][0], each, options) for encoder, each in ids.items()}
    layouts: dict[tuple[PairTokenizer, int | None], PairLayout] = {}
    for tokenizer, limit in tiers.values():
        if (tokenizer, limit) not in layouts:
            query, of_documents, cut = ids[tokenizer.encoder]
            layout = tokenizer.layout(query, of_documents, limit, passages, options.cut_side)
            layouts[tokenizer, limit] = layout.marked(cut) if len(cut) else layout
    by_tier = {tier: layouts[how] for tier, how in tiers.items()}
    return TokenizedTexts(tiers, ids, by_tier, passages, cached, request.lists, documents, options.cut_side)


def shortened(tokenizer: PairTokenizer, texts: EncodedTexts, options: TextOptions) -> EncodedTexts:
    """The texts with at most as many tokens as `options` allows each. tokenizer: any of this vocabulary."""
    query, documents, _ = texts
    cut = np.zeros(len(documents), bool)
    if options.document_tokens is not None:
        documents = [tokenizer.shortened(ids, options.document_tokens) for ids in documents]
        cut = np.array([new is not old for new, old in zip(documents, texts.documents, strict=True)])
    if options.query_tokens is not None and isinstance(query, np.ndarray):
        query = tokenizer.shortened_query(query, options.query_tokens)
        cut |= query is not texts.query
    elif options.query_tokens is not None:
        distinct = {id(each): each for each in query}  # a query has one array, however many documents
        once = {key: tokenizer.shortened_query(each, options.query_tokens) for key, each in distinct.items()}
        query = [once[id(each)] for each in query]
        cut |= np.array([new is not old for new, old in zip(query, texts.query, strict=True)])
    return EncodedTexts(query, documents, np.flatnonzero(cut))


def prepared(options: TextOptions, tiers: Tokenizers) -> Tokenizers:
    """The tokenizers of the tiers that can do what is asked, with the instruction in their prompt and the limit of
    pairs. Raises InvalidRequest if no tier can, with their names."""
    named = ", ".join(tiers)
    if options.instruction is not None:
        instructed = {base: base.instructed(options.instruction) for base, _ in tiers.values()}
        tiers = {tier: (new, limit) for tier, (base, limit) in tiers.items() if (new := instructed[base]) is not None}
        if not tiers:
            raise InvalidRequest(f"instruction: the prompt of {named} has no place for one; leave it out")
    longest = {tier: options.pair_limit(limit or tokenizer.max_tokens) for tier, (tokenizer, limit) in tiers.items()}
    tiers = {
        tier: (tokenizer, longest[tier])
        for tier, (tokenizer, _) in tiers.items()
        if longest[tier] > tokenizer.template.tokens
    }
    if not tiers:
        what = "truncate_prompt_tokens" if options.pair_tokens else "instruction"
        raise InvalidRequest(f"{what}: the prompt leaves no room for texts in pairs of {named}; allow more tokens")
    return tiers


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
