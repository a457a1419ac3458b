"""Texts to token ids, and ids to pairs laid out as the checkpoint was trained to see them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from rankfleet.core.errors import CheckpointError
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.core.passages import PairLayout, PassageRule, max_passages, truncate
from rankfleet.engine.checkpoint.files import Checkpoint
from rankfleet.engine.checkpoint.weights import naming
from rankfleet.engine.text.encoder import PLAIN, TextEncoder, Wrap

UNBOUNDED = 10**9  # tokenizer configs write "no limit" as numbers above this
PROBES = ("a", "A", "1", "的", "!")
ROTARY = ("modernbert", "qwen2")  # no table of positions that ends


def max_pair_tokens(checkpoint: Checkpoint) -> int:
    """The longest pair the checkpoint takes, special tokens included.

    As Sentence Transformers has it: what its own settings say holds, else the lesser of what the tokenizer's and the
    model's config say. A table of positions is the limit in any case; without one, which is with rotary positions, the
    settings may go beyond the model's config.
    """
    config, settings = checkpoint.config, checkpoint.settings
    told = (
        (settings.get("processing_kwargs") or {}).get("text", {}).get("max_length")
        or tokenizer_options(settings).get("model_max_length")
        or settings.get("max_seq_length")
    )
    positions = config.max_position_embeddings
    if told and told < UNBOUNDED and config.model_type in ROTARY:
        return int(told)
    if told is None:
        saved = checkpoint.read_optional("tokenizer_config.json")
        told = saved.get("model_max_length") or saved.get("max_len") or UNBOUNDED
    # RoBERTa counts positions from padding_idx + 1, so that many of the table's rows are never used.
    offset = (config.pad_token_id or 0) + 1 if config.model_type in ("roberta", "xlm-roberta") else 0
    return int(min(told, positions - offset))


def tokenizer_options(settings: dict[str, Any]) -> dict[str, Any]:
    """Of the settings that Sentence Transformers saves, those for the tokenizer, by the name of today or before 6."""
    found: dict[str, Any] = settings.get("processor_kwargs") or settings.get("tokenizer_args") or {}
    return found


@dataclass(frozen=True)
class PairTemplate:
    """The tokens around a pair: `before` query `between` document `after`. document_segment: the segment id (token
    type) of the document and `after`, 0 or 1; that of what comes before them is 0.

    A chat template (`text/prompt.py`) also says how each text is wrapped before it is encoded, and what a pair that
    is cut ends in.
    """

    before: list[int]
    between: list[int]
    after: list[int]
    wrap: Wrap = PLAIN
    ending: list[int] | None = None
    document_segment: int = 1

    @property
    def tokens(self) -> int:
        """Of all that is not text."""
        return len(self.before) + len(self.between) + len(self.after)

    @staticmethod
    def of(tokenizer: Tokenizer) -> "PairTemplate":
        """Read off what the tokenizer's own post-processor puts around a pair of short texts. Raises CheckpointError
        where that is not a query and then a document."""
        probe = next((pair for text in PROBES if 0 in (pair := tokenizer.encode(text, text)).sequence_ids), None)
        if probe is None:
            raise CheckpointError("its tokenizer makes no tokens of letters or digits")
        texts = [i for i, sequence in enumerate(probe.sequence_ids) if sequence is not None]
        order = [int(probe.sequence_ids[i] or 0) for i in texts]
        if order != sorted(order) or len({*order}) != 2:
            raise CheckpointError("its tokenizer does not lay a pair out as a query and then a document")
        split = texts[order.index(1)]
        last_of_query = texts[order.index(1) - 1]
        ids = probe.ids
        return PairTemplate(ids[: texts[0]], ids[last_of_query + 1 : split], ids[texts[-1] + 1 :])

    def segments(self, types: Sequence[int]) -> "PairTemplate":
        """The same with the segment ids that a tokenizer gives a pair of texts, [tokens of the pair]. Raises
        CheckpointError for others than 0, or 0 up to the document and 1 from there on."""
        ones = sum(types)
        texts = len(types) - self.tokens
        if any(types) and [*types] != [0] * (len(types) - ones) + [1] * ones:
            raise CheckpointError(f"its tokenizer numbers the segments of a pair {[*types]}, which is not supported")
        if ones not in (0, texts // 2 + len(self.after)):
            raise CheckpointError(
                f"its tokenizer numbers the segments of a pair {[*types]}; the second has to begin with the document"
            )
        return replace(self, document_segment=int(ones > 0))


class PairTokenizer:
    """The checkpoint's own tokenizer, with query and documents encoded apart so that a query is encoded once."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int, template: PairTemplate | None = None) -> None:
        """template: by default as the tokenizer lays out pairs. Raises CheckpointError when a pair of `max_tokens`
        has no room for it."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.template = template or PairTemplate.of(tokenizer)
        self.check_limit(max_tokens)
        self.encoder = TextEncoder.of(tokenizer, self.template.wrap)
        self.identity = f"{max_tokens}-{self.template}-{self.encoder.identity}"
        self.max_tokens = max_tokens

    @classmethod
    def load(cls, checkpoint: Checkpoint, max_tokens: int | None = None) -> "PairTokenizer":
        """`max_tokens` can lower the checkpoint's own limit, not raise it. Raises CheckpointError."""
        limit = max_pair_tokens(checkpoint)
        with naming(checkpoint.folder):
            return cls(
                checkpoint.tokenizer.backend_tokenizer,
                min(limit, max_tokens or limit),
                template_of(checkpoint),
            )

    def check_limit(self, max_tokens: int) -> None:
        """Raises CheckpointError when pairs of `max_tokens` have no room for their texts: all would score alike."""
        self.check_room(self.template, max_tokens)

    @staticmethod
    def check_room(template: PairTemplate, max_tokens: int) -> None:
        """`check_limit` for a template alone."""
        if max_tokens <= template.tokens:
            raise CheckpointError(f"the prompt alone has {template.tokens} tokens; allow pairs more than {max_tokens}")

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """int32 token ids of each text as it stands, without special tokens: of documents, and of queries where there
        is no default prompt."""
        return self.encoder.encode_documents(texts)

    def encode_query(self, query: str) -> np.ndarray:
        """int32 token ids of a query, behind the default prompt where the checkpoint has one."""
        return self.encoder.encode([query])[0]

    def reach(self, query: np.ndarray, max_tokens: int | None = None, passages: PassageRule | None = None) -> int:
        """How many tokens of a document are enough to lay out its pairs, and to see what is cut, as if all were
        known: one more than there is room for, and than the query has, to which lengths are compared."""
        return max(self._room(max_tokens) * (passages.max_passages if passages else 1), len(query)) + 1

    def layout(
        self,
        query: np.ndarray,
        documents: list[np.ndarray],
        max_tokens: int | None = None,
        passages: PassageRule | None = None,
    ) -> PairLayout:
        """Which tokens go into which pair. passages: cut documents that are too long by this rule, instead of
        keeping only their beginning."""
        lengths = np.fromiter(map(len, documents), dtype=np.int64, count=len(documents))
        if passages is None:
            return truncate(len(query), lengths, self._room(max_tokens))
        return max_passages(len(query), lengths, self._room(max_tokens), passages)

    def pair_lengths(self, layout: PairLayout) -> np.ndarray:
        """int32 tokens of each pair as `lay_out` gives them."""
        return (layout.tokens + self.template.tokens).astype(np.int32)

    def lay_out(self, query: np.ndarray, documents: list[np.ndarray], layout: PairLayout) -> TokenizedPairs:
        """All pairs, in the order of the layout."""
        before, between, after = (
            np.array(ids, dtype=np.int32) for ids in (self.template.before, self.template.between, self.template.after)
        )
        pieces: list[np.ndarray] = []
        rows = zip(*(part.tolist() for part in (layout.owners, layout.query, layout.starts, layout.stops)), strict=True)
        last, joint = -1, before
        for owner, kept, start, stop in rows:
            # A prompt is cut at the end of the document, as Sentence Transformers cuts it, and then ended.
            if self.template.ending is not None and (kept < len(query) or stop - start < len(documents[owner])):
                text = np.concatenate([before, query, between, documents[owner][start:]])
                trail = self.template.ending[: len(self.template.ending) - len(after)]
                room = kept + stop - start + len(before) + len(between) - len(trail)
                pieces += [*([after] if pieces else []), text[:room], np.array(trail, dtype=np.int32)]
                continue
            if kept != last:  # nearly always the same for all: few documents leave a query too little room
                opening = np.concatenate([before, query[:kept], between])
                joint, last = np.concatenate([after, opening]), kept
            document = documents[owner]
            pieces.append(joint if pieces else opening)
            pieces.append(document if stop - start == len(document) else document[start:stop])
        ids = np.concatenate([*pieces, after], dtype=np.int32) if pieces else np.empty(0, dtype=np.int32)
        lengths = self.pair_lengths(layout)
        if not self.template.document_segment:
            return TokenizedPairs(ids, lengths, lengths)
        seconds = (layout.query + len(before) + len(between)).astype(np.int32)
        return TokenizedPairs(ids, lengths, seconds)

    def pair(
        self, query: np.ndarray, documents: list[np.ndarray], max_tokens: int | None = None
    ) -> tuple[TokenizedPairs, list[int]]:
        """One pair of a query with each of its documents, and the rows whose text was cut to `max_tokens`."""
        layout = self.layout(query, documents, max_tokens)
        return self.lay_out(query, documents, layout), layout.truncated

    def score(
        self,
        score: Callable[[TokenizedPairs], np.ndarray],
        query: str,
        documents: Sequence[str],
        passages: PassageRule | None = None,
    ) -> np.ndarray:
        """The scores of documents, by a function that gives those of pairs."""
        ids = self.encode_query(query)
        document_ids = [part for part, _ in self.encoder.beginnings(documents, self.reach(ids, passages=passages))]
        layout = self.layout(ids, document_ids, passages=passages)
        return layout.best(score(self.lay_out(ids, document_ids, layout)))

    def _room(self, max_tokens: int | None) -> int:
        """Tokens of query and document together that a pair takes."""
        return max(0, min(max_tokens or self.max_tokens, self.max_tokens) - self.template.tokens)


def template_of(checkpoint: Checkpoint) -> PairTemplate:
    """How pairs of this checkpoint are laid out: by its chat template, else by its tokenizer, with the segment ids that
    the tokenizer gives where the model tells segments apart."""
    from rankfleet.engine.text.prompt import prompt_template  # it needs PairTemplate

    if (prompted := prompt_template(checkpoint)) is not None:
        return prompted
    loaded = checkpoint.tokenizer
    template = replace(PairTemplate.of(loaded.backend_tokenizer), wrap=Wrap(prompt=checkpoint.default_prompt))
    if not hasattr(checkpoint.config, "type_vocab_size"):
        return template
    text = next(text for text in PROBES if 0 in loaded.backend_tokenizer.encode(text, text).sequence_ids)
    # As Transformers calls it: absent where the tokenizer does not name them among the model's inputs, and then all 0.
    types = loaded(text, text).get("token_type_ids")
    if types is None:
        return replace(template, document_segment=0)
    if max(types) >= checkpoint.config.type_vocab_size:
        raise CheckpointError(
            f"its tokenizer gives segment id {max(types)}; the model has {checkpoint.config.type_vocab_size} segments"
        )
    return template.segments(types)
