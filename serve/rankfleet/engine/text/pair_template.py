"""How a pair of texts is laid out: the tokens around query and document, and what is done to each text first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from rankfleet.core.errors import CheckpointError

if TYPE_CHECKING:
    from rankfleet.engine.checkpoint.files import Checkpoint

PROBES = ("a", "A", "1", "的", "!")  # a vocabulary knows at least one of them


@dataclass(frozen=True)
class TextWrap:
    """What is done to each text before it is encoded.

    `prefix`, `suffix`: characters of a chat template that are encoded together with the text.
    `strip`: whether white space at both ends is removed first.
    `query_prompt`: put directly before every query (a CrossEncoder's default prompt).
    """

    prefix: str = ""
    suffix: str = ""
    strip: bool = False
    query_prompt: str = ""

    def document(self, text: str) -> str:
        """The characters to encode for a document."""
        return self.prefix + (text.strip() if self.strip else text) + self.suffix

    def query(self, text: str) -> str:
        """The characters to encode for a query."""
        return self.document(self.query_prompt + text)


PLAIN = TextWrap()


@dataclass(frozen=True)
class InstructionSlot:
    """The place of an instruction in a prompt, between the characters `left` and `right`, which begin the prompt and
    reach up to the query. `strip`: whether white space at the instruction's ends is removed."""

    left: str
    right: str
    strip: bool = False

    def filled(self, instruction: str) -> str:
        """The beginning of the prompt, up to the query."""
        return self.left + (instruction.strip() if self.strip else instruction) + self.right


@dataclass(frozen=True)
class PairTemplate:
    """The tokens around a pair: `before` query `between` document `after`.

    `wrap`: what is done to each text before it is encoded.
    `truncated_end`: the last tokens of a pair whose texts were cut, where that differs from `after` (chat templates).
    `document_segment`: segment id (token type) of the document and of `after`, 0 or 1; all before them is segment 0.
    `instruction`: where `before` shows an instruction; None if it has no place for one.
    """

    before: list[int]
    between: list[int]
    after: list[int]
    wrap: TextWrap = PLAIN
    truncated_end: list[int] | None = None
    document_segment: int = 1
    instruction: InstructionSlot | None = None

    @property
    def tokens(self) -> int:
        """Number of tokens that belong to neither text."""
        return len(self.before) + len(self.between) + len(self.after)

    @property
    def closing(self) -> list[int]:
        """What follows a text that was cut, where a chat template sets texts apart by characters."""
        return [] if self.truncated_end is None else self.truncated_end[: len(self.truncated_end) - len(self.after)]

    @staticmethod
    def from_tokenizer(tokenizer: Tokenizer) -> "PairTemplate":
        """The template of the tokenizer's own post-processor, read off a pair of short texts.

        Raises CheckpointError unless it lays a pair out as a query followed by a document.
        """
        text = probe_text(tokenizer)
        probe = tokenizer.encode(text, text)
        texts = [i for i, sequence in enumerate(probe.sequence_ids) if sequence is not None]
        order = [int(probe.sequence_ids[i] or 0) for i in texts]
        if order != sorted(order) or len({*order}) != 2:
            raise CheckpointError("its tokenizer does not lay a pair out as a query and then a document")
        document_start = texts[order.index(1)]
        query_end = texts[order.index(1) - 1] + 1
        ids = probe.ids
        return PairTemplate(ids[: texts[0]], ids[query_end:document_start], ids[texts[-1] + 1 :])

    def with_segments(self, segment_ids: Sequence[int]) -> "PairTemplate":
        """The same template with the segment ids that the tokenizer gives a pair of texts of equal length.

        `segment_ids`: [tokens of that pair]. Raises CheckpointError unless all are 0, or 0 before the document and 1
        from its first token on.
        """
        ones = sum(segment_ids)
        text_tokens = len(segment_ids) - self.tokens
        if any(segment_ids) and [*segment_ids] != [0] * (len(segment_ids) - ones) + [1] * ones:
            raise CheckpointError(
                f"its tokenizer numbers the segments of a pair {[*segment_ids]}, which is not supported"
            )
        if ones not in (0, text_tokens // 2 + len(self.after)):
            raise CheckpointError(
                f"its tokenizer numbers the segments of a pair {[*segment_ids]}; the second has to begin with the "
                f"document"
            )
        return replace(self, document_segment=int(ones > 0))

    def check_room(self, max_tokens: int) -> None:
        """Raises CheckpointError when a pair of `max_tokens` has no room for texts: all pairs would score alike."""
        if max_tokens <= self.tokens:
            raise CheckpointError(f"the prompt alone has {self.tokens} tokens; allow pairs more than {max_tokens}")


def probe_text(tokenizer: Tokenizer) -> str:
    """A short text that this tokenizer turns into at least one token. Raises CheckpointError when there is none."""
    for text in PROBES:
        if 0 in tokenizer.encode(text, text).sequence_ids:
            return text
    raise CheckpointError("its tokenizer makes no tokens of letters or digits")


def tokenizer_template(checkpoint: "Checkpoint") -> PairTemplate:
    """The template of the checkpoint's tokenizer, with its segment ids where the model has segment embeddings.

    Raises CheckpointError for a layout or segment ids that are not supported.
    """
    loaded = checkpoint.tokenizer
    inner: Tokenizer = loaded.backend_tokenizer
    wrap = TextWrap(query_prompt=checkpoint.default_prompt)
    template = replace(PairTemplate.from_tokenizer(inner), wrap=wrap)
    if not hasattr(checkpoint.config, "type_vocab_size"):
        return template
    text = probe_text(inner)
    # As Transformers calls it: absent where the tokenizer does not list them among the model's inputs; all 0 then.
    segment_ids = loaded(text, text).get("token_type_ids")
    if segment_ids is None:
        return replace(template, document_segment=0)
    if max(segment_ids) >= checkpoint.config.type_vocab_size:
        raise CheckpointError(
            f"its tokenizer gives segment id {max(segment_ids)}; the model has {checkpoint.config.type_vocab_size} "
            f"segments"
        )
    return template.with_segments(segment_ids)
