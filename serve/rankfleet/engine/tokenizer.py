"""Texts to token ids, and ids to pairs laid out as the checkpoint was trained to see them."""

import hashlib
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from rankfleet.core.errors import CheckpointError
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.engine.checkpoint import Checkpoint, read_json

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


def longest_first(first: int, second: int, limit: int) -> tuple[int, int]:
    """How many tokens of each of two texts stay when both together may have `limit`: the longer text gives
    way until both are equal, then both do (`truncation="longest_first"` of Transformers)."""
    if first + second <= limit:
        return first, second
    short = min(first, second)
    long = max(short, limit - short)
    if short + long > limit:
        short = limit // 2
        long = limit - short
    return (short, long) if first <= second else (long, short)


@dataclass(frozen=True)
class PairTemplate:
    """The tokens around a pair: `before` query `between` document `after`.

    A prompt (`engine/prompt.py`) also has characters that each text is encoded with, `lead` and `trail`, may strip
    white space off texts (`trim`), and ends in `ending` where a pair is cut: `trail` and `after`.
    """

    before: list[int]
    between: list[int]
    after: list[int]
    lead: str = ""
    trail: str = ""
    trim: bool = False
    ending: list[int] | None = None

    def wrap(self, text: str) -> str:
        """The text as it is encoded."""
        return self.lead + (text.strip() if self.trim else text) + self.trail

    @property
    def tokens(self) -> int:
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
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        # Two checkpoints with the same vocabulary and rules encode every text alike.
        self.identity = hashlib.sha256(f"{max_tokens}\0{template}\0{tokenizer.to_str()}".encode()).hexdigest()
        self.template = template or PairTemplate.of(tokenizer)
        if template and max_tokens <= template.tokens:
            raise CheckpointError(f"the prompt alone has {template.tokens} tokens; allow pairs more than {max_tokens}")
        self.max_tokens = max_tokens

    @classmethod
    def load(cls, checkpoint: Checkpoint, max_tokens: int | None = None) -> "PairTokenizer":
        """`max_tokens` can lower the checkpoint's own limit, not raise it."""
        from rankfleet.engine.prompt import prompt_template  # it needs PairTemplate

        limit = max_pair_tokens(checkpoint)
        return cls(read_tokenizer(checkpoint), min(limit, max_tokens or limit), prompt_template(checkpoint))

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """int32 token ids of each text, without special tokens."""
        if self.template.ending is not None:
            texts = [self.template.wrap(text) for text in texts]
        return [
            np.array(e.ids, dtype=np.int32) for e in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        ]

    def pair_lengths(self, query: np.ndarray, documents: list[np.ndarray], max_tokens: int | None = None) -> np.ndarray:
        """int32 tokens of each pair, as `pair` would lay it out: whatever is cut, the limit is used up."""
        limit = max(0, min(max_tokens or self.max_tokens, self.max_tokens) - self.template.tokens)
        both = np.array([len(query) + len(document) for document in documents], dtype=np.int32)
        return np.minimum(both, limit) + self.template.tokens

    def pair(
        self, query: np.ndarray, documents: list[np.ndarray], max_tokens: int | None = None
    ) -> tuple[TokenizedPairs, list[int]]:
        """All pairs of a query with its documents, and the rows whose text had to be cut to `max_tokens`."""
        limit = max(0, min(max_tokens or self.max_tokens, self.max_tokens) - self.template.tokens)
        before, between, after = (
            np.array(ids, dtype=np.int32) for ids in (self.template.before, self.template.between, self.template.after)
        )
        pieces: list[np.ndarray] = []
        lengths = np.empty(len(documents), dtype=np.int32)
        seconds = np.empty(len(documents), dtype=np.int32)
        truncated = []
        for row, document in enumerate(documents):
            q, d = longest_first(len(query), len(document), limit)
            if q < len(query) or d < len(document):
                truncated.append(row)
            seconds[row] = len(before) + q + len(between)
            lengths[row] = seconds[row] + d + len(after)
            if self.template.ending is not None and truncated and truncated[-1] == row:
                # A prompt is cut at the end of the document, as Sentence Transformers cuts it, and then ended.
                ending = np.array(self.template.ending, dtype=np.int32)
                text = np.concatenate([before, query, between, document])
                pieces += [text[: lengths[row] - len(ending)], ending]
            else:
                pieces += [before, query[:q], between, document[:d], after]
        ids = np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int32)
        return TokenizedPairs(ids, lengths, seconds), truncated


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
