"""Texts to token ids, and ids to pairs laid out as the checkpoint was trained to see them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from rankfleet.core.errors import CheckpointError
from rankfleet.core.layout import Layout, PassageRule, max_passages, truncate
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.engine.checkpoint import Checkpoint, read_json
from rankfleet.engine.texts import PLAIN, TextEncoder, Wrap

UNBOUNDED = 10**9  # tokenizer configs write "no limit" as numbers above this


def max_pair_tokens(checkpoint: Checkpoint) -> int:
    """The longest pair the checkpoint takes, special tokens included."""
    config = checkpoint.config
    # RoBERTa counts positions from padding_idx + 1, so that many of the table's rows are never used.
    offset = (config.pad_token_id or 0) + 1 if config.model_type in ("roberta", "xlm-roberta") else 0
    limits = [config.max_position_embeddings - offset]
    for name, key in (
        ("tokenizer_config.json", "model_max_length"),
        ("sentence_bert_config.json", "max_seq_length"),
    ):
        if (path := checkpoint.folder / name).exists():
            limits.append(read_json(path).get(key) or UNBOUNDED)
    return int(min(limit for limit in limits if limit < UNBOUNDED))


@dataclass(frozen=True)
class PairTemplate:
    """The tokens around a pair: `before` query `between` document `after`.

    A prompt (`engine/prompt.py`) also says how each text is wrapped before it is encoded, and what a pair that is
    cut ends in.
    """

    before: list[int]
    between: list[int]
    after: list[int]
    wrap: Wrap = PLAIN
    ending: list[int] | None = None

    @property
    def tokens(self) -> int:
        """Of all that is not text."""
        return len(self.before) + len(self.between) + len(self.after)

    @staticmethod
    def of(tokenizer: Tokenizer) -> "PairTemplate":
        """Read off what the tokenizer's own post-processor puts around a one-word pair."""
        probe = tokenizer.encode("a", "a")
        words = [i for i, sequence in enumerate(probe.sequence_ids) if sequence is not None]
        split = next(i for i in words if probe.sequence_ids[i] == 1)
        last_of_query = max(i for i in words if probe.sequence_ids[i] == 0)
        ids = probe.ids
        return PairTemplate(ids[: words[0]], ids[last_of_query + 1 : split], ids[words[-1] + 1 :])


class PairTokenizer:
    """The checkpoint's own tokenizer, with query and documents encoded apart so that a query is encoded once."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int, template: PairTemplate | None = None) -> None:
        """template: by default as the tokenizer lays out pairs. Raises CheckpointError when a pair of `max_tokens`
        has no room for it."""
        self.template = template or PairTemplate.of(tokenizer)
        self.check_limit(max_tokens)
        self.encoder = TextEncoder.of(tokenizer, self.template.wrap)
        self.identity = f"{max_tokens}-{self.template}-{self.encoder.identity}"
        self.max_tokens = max_tokens

    @classmethod
    def load(cls, checkpoint: Checkpoint, max_tokens: int | None = None) -> "PairTokenizer":
        """`max_tokens` can lower the checkpoint's own limit, not raise it."""
        from rankfleet.engine.prompt import prompt_template  # it needs PairTemplate

        limit = max_pair_tokens(checkpoint)
        return cls(read_tokenizer(checkpoint), min(limit, max_tokens or limit), prompt_template(checkpoint))

    def check_limit(self, max_tokens: int) -> None:
        """Raises CheckpointError when pairs of `max_tokens` have no room for their texts: all would score alike."""
        if max_tokens <= self.template.tokens:
            raise CheckpointError(
                f"the prompt alone has {self.template.tokens} tokens; allow pairs more than {max_tokens}"
            )

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """int32 token ids of each text, without special tokens."""
        return self.encoder.encode(texts)

    def reach(self, query: np.ndarray, max_tokens: int | None = None, passages: PassageRule | None = None) -> int:
        """How many tokens of a document are enough to lay out its pairs, and to see what is cut, as if all were
        known: one more than there is room for, and than the query has, to which lengths are compared."""
        return max(self._room(max_tokens) * (passages.most if passages else 1), len(query)) + 1

    def layout(
        self,
        query: np.ndarray,
        documents: list[np.ndarray],
        max_tokens: int | None = None,
        passages: PassageRule | None = None,
    ) -> Layout:
        """Which tokens go into which pair. passages: cut documents that are too long by this rule, instead of
        keeping only their beginning."""
        lengths = np.fromiter(map(len, documents), dtype=np.int64, count=len(documents))
        if passages is None:
            return truncate(len(query), lengths, self._room(max_tokens))
        return max_passages(len(query), lengths, self._room(max_tokens), passages)

    def pair_lengths(self, layout: Layout) -> np.ndarray:
        """int32 tokens of each pair as `lay_out` gives them."""
        return (layout.tokens + self.template.tokens).astype(np.int32)

    def lay_out(self, query: np.ndarray, documents: list[np.ndarray], layout: Layout) -> TokenizedPairs:
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
        seconds = (layout.query + len(before) + len(between)).astype(np.int32)
        return TokenizedPairs(ids, self.pair_lengths(layout), seconds)

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
        ids = self.encode([query])[0]
        document_ids = [part for part, _ in self.encoder.beginnings(documents, self.reach(ids, passages=passages))]
        layout = self.layout(ids, document_ids, passages=passages)
        return layout.best(score(self.lay_out(ids, document_ids, layout)))

    def _room(self, max_tokens: int | None) -> int:
        """Tokens of query and document together that a pair takes."""
        return max(0, min(max_tokens or self.max_tokens, self.max_tokens) - self.template.tokens)


def read_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The fast tokenizer as Transformers would build it for this checkpoint."""
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(checkpoint.folder, trust_remote_code=False)
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise CheckpointError(f"{checkpoint.folder} has no tokenizer that can be loaded: {error}") from error
    if not loaded.is_fast:
        raise CheckpointError(f"{checkpoint.folder} has only a slow tokenizer; add its tokenizer.json")
    return loaded.backend_tokenizer
