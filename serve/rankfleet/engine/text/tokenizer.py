"""Query and documents to token ids, and token ids to pairs in the layout that the checkpoint was trained on."""

import sys
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace

import numpy as np
from tokenizers import Tokenizer

from rankfleet.core.pairs import TokenizedPairs
from rankfleet.core.passages import PairLayout, PassageRule, max_passages, truncate
from rankfleet.core.text_options import Side
from rankfleet.engine.text.pair_template import PairTemplate
from rankfleet.engine.text.text_encoder import TextEncoder

Query = np.ndarray | Sequence[np.ndarray]  # token ids of the query of all documents, or of each document's own


class PairTokenizer:
    """The checkpoint's own tokenizer, with query and documents encoded separately, so that a query is encoded once."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int, template: PairTemplate | None = None) -> None:
        """`max_tokens`: of a pair. `template`: by default the tokenizer's own.

        Raises CheckpointError when a pair of `max_tokens` has no room for texts.
        """
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.template = template or PairTemplate.from_tokenizer(tokenizer)
        self.check_limit(max_tokens)
        self.encoder = TextEncoder.shared(tokenizer, self.template.wrap)
        self.identity = f"{max_tokens}-{self.template}-{self.encoder.identity}"
        self.max_tokens = max_tokens

    def check_limit(self, max_tokens: int) -> None:
        """Raises CheckpointError when pairs of `max_tokens` have no room for their texts."""
        self.template.check_room(max_tokens)

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """int32 token ids of each text as it is, without special tokens: of documents, and of queries where there is no
        default prompt."""
        return self.encoder.encode_documents(texts)

    def encode_query(self, query: str) -> np.ndarray:
        """int32 token ids of a query, with the checkpoint's default prompt if it has one."""
        return self.encoder.encode_queries([query])[0]

    def instructed(self, instruction: str) -> "PairTokenizer | None":
        """This tokenizer with an instruction in its prompt; None if the prompt has no place for one. May leave no room
        for texts (`check_limit`)."""
        if (slot := self.template.instruction) is None:
            return None
        other = copy(self)
        other.template = replace(self.template, before=self.encoder.encode_prompt(slot.filled(instruction)))
        return other

    def shortened_query(self, query: np.ndarray, max_tokens: int) -> np.ndarray:
        """A query of at most `max_tokens`, the default prompt not counted; the same array if it has no more."""
        return self.shortened(query, max_tokens + len(self.encode_query("")) - len(self.template.closing))

    def shortened(self, text: np.ndarray, max_tokens: int) -> np.ndarray:
        """The first `max_tokens` tokens of a text; the same array if it has no more. Those of the characters that a
        chat template puts behind it are not counted."""
        closing = np.array(self.template.closing, dtype=np.int32)
        if len(text) <= max_tokens + len(closing):
            return text
        return np.concatenate([text[:max_tokens], closing])

    def reach_of(self, max_tokens: int) -> int:
        """How many of a document's first tokens show whether `shortened` cuts it, and are all that it keeps."""
        return max_tokens + len(self.template.closing) + 1

    def reach(
        self,
        query: np.ndarray,
        max_tokens: int | None = None,
        passages: PassageRule | None = None,
        cut_side: Side = "right",
    ) -> int:
        """How many of a document's first tokens determine its pairs and whether it is cut: all if its beginning may be
        cut off.

        One more than there is room for, and one more than the query has, since truncation compares the two lengths.
        """
        if cut_side == "left":
            return sys.maxsize
        return max(self._room(max_tokens) * (passages.max_passages if passages else 1), len(query)) + 1

    def layout(
        self,
        query: Query,
        documents: list[np.ndarray],
        max_tokens: int | None = None,
        passages: PassageRule | None = None,
        cut_side: Side = "right",
    ) -> PairLayout:
        """Which tokens go into which pair. `passages`: how a document that is too long becomes several pairs; None
        keeps only its beginning, or its end if `cut_side` is left."""
        lengths = lengths_of(documents)
        query_tokens = len(query) if isinstance(query, np.ndarray) else lengths_of(query)
        if passages is None:
            return truncate(query_tokens, lengths, self._room(max_tokens), cut_side)
        return max_passages(query_tokens, lengths, self._room(max_tokens), passages, cut_side)

    def pair_lengths(self, layout: PairLayout) -> np.ndarray:
        """int32 tokens of each pair that `build_pairs` makes of this layout."""
        return (layout.tokens + self.template.tokens).astype(np.int32)

    def build_pairs(self, query: Query, documents: list[np.ndarray], layout: PairLayout) -> TokenizedPairs:
        """All pairs of the layout, in its order."""
        template = self.template
        before, between, after = (
            np.array(ids, dtype=np.int32) for ids in (template.before, template.between, template.after)
        )
        pieces: list[np.ndarray] = []
        rows = zip(*(part.tolist() for part in (layout.owners, layout.query, layout.starts, layout.stops)), strict=True)
        opening_kept, joint = -1, before  # joint: the end of one pair and the opening of the next
        right, closing = layout.cut_side == "right", template.closing
        own = opened = query if isinstance(query, np.ndarray) else before
        for owner, kept, start, stop in rows:
            if query is not own:
                own = query[owner]
            # As in Sentence Transformers, a rendered prompt is cut from its end and then closed again.
            if (
                template.truncated_end is not None
                and (kept < len(own) or stop - start < len(documents[owner]))
                and (right or stop < len(documents[owner]))
            ):
                text = np.concatenate([before, own, between, documents[owner][start:]])
                room = kept + stop - start + len(before) + len(between) - len(closing)
                pieces += [*([after] if pieces else []), text[:room], np.array(closing, dtype=np.int32)]
                continue
            if kept != opening_kept or own is not opened:  # rarely: few documents leave a query too little room
                opening = np.concatenate([before, own[:kept] if right else own[len(own) - kept :], between])
                joint, opening_kept, opened = np.concatenate([after, opening]), kept, own
            document = documents[owner]
            pieces.append(joint if pieces else opening)
            pieces.append(document if stop - start == len(document) else document[start:stop])
        ids = np.concatenate([*pieces, after], dtype=np.int32) if pieces else np.empty(0, dtype=np.int32)
        lengths = self.pair_lengths(layout)
        if not template.document_segment:
            return TokenizedPairs(ids, lengths, lengths)
        document_offsets = (layout.query + len(before) + len(between)).astype(np.int32)
        return TokenizedPairs(ids, lengths, document_offsets)

    def pair(
        self, query: np.ndarray, documents: list[np.ndarray], max_tokens: int | None = None
    ) -> tuple[TokenizedPairs, list[int]]:
        """The query paired with each document, and the rows of documents that were cut to fit `max_tokens`."""
        layout = self.layout(query, documents, max_tokens)
        return self.build_pairs(query, documents, layout), layout.truncated

    def score(
        self,
        score: Callable[[TokenizedPairs], np.ndarray],
        query: str,
        documents: Sequence[str],
        passages: PassageRule | None = None,
    ) -> np.ndarray:
        """Scores of documents, [documents]. `score`: gives the scores of pairs."""
        ids = self.encode_query(query)
        reach = self.reach(ids, passages=passages)
        document_ids = [part for part, _ in self.encoder.encode_beginnings(documents, reach)]
        layout = self.layout(ids, document_ids, passages=passages)
        return layout.best(score(self.build_pairs(ids, document_ids, layout)))

    def _room(self, max_tokens: int | None) -> int:
        """Tokens of query and document together that fit into a pair."""
        return max(0, min(max_tokens or self.max_tokens, self.max_tokens) - self.template.tokens)


def lengths_of(texts: Sequence[np.ndarray]) -> np.ndarray:
    """int64 [texts]: tokens of each."""
    return np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
