"""Texts to token ids: the checkpoint's own tokenizer, or tiktoken where that is the same and faster."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar
from weakref import WeakValueDictionary

import numpy as np
from tokenizers import Tokenizer

from rankfleet.engine.text.beginnings import encode_beginnings, may_cut
from rankfleet.engine.text.bpe import ByteLevelBpe, NotByteLevel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wrap:
    """Characters that each text is encoded with, and whether white space is stripped off it first; only chat templates
    (`text/prompt.py`) have any. prompt: put before a query, in no way set apart from it (a CrossEncoder's default
    prompt)."""

    lead: str = ""
    trail: str = ""
    trim: bool = False
    prompt: str = ""

    def __call__(self, text: str) -> str:
        return self.lead + (text.strip() if self.trim else text) + self.trail

    def query(self, text: str) -> str:
        return self(self.prompt + text)


PLAIN = Wrap()


class TextEncoder:
    """One vocabulary with its rules. Tiers of a family share one, and with it the ids of their documents."""

    _known: ClassVar["WeakValueDictionary[str, TextEncoder]"] = WeakValueDictionary()

    def __init__(self, tokenizer: Tokenizer, wrap: Wrap = PLAIN, *, fast: bool = True) -> None:
        """wrap: done to every text. fast: use tiktoken where it is equal, which is checked here and takes about half a
        second."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._wrap = wrap
        self.identity = identity_of(tokenizer, wrap)
        settings = json.loads(tokenizer.to_str())
        self._may_cut = may_cut(settings)
        self._bpe: ByteLevelBpe | None = None
        if fast:
            try:
                self._bpe = ByteLevelBpe(settings, self._encode_own, self._normalize)
            except NotByteLevel as reason:
                log.info("texts are encoded by tokenizers and not by tiktoken: %s", reason)

    @classmethod
    def of(cls, tokenizer: Tokenizer, wrap: Wrap = PLAIN) -> "TextEncoder":
        """The encoder of this vocabulary: the one there is, or a new one."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        encoder = cls._known.get(identity := identity_of(tokenizer, wrap))
        if encoder is None:
            encoder = cls._known[identity] = cls(tokenizer, wrap)
        return encoder

    @property
    def backend(self) -> str:
        """`tiktoken` or `tokenizers`."""
        return "tokenizers" if self._bpe is None else "tiktoken"

    def encode(self, queries: list[str]) -> list[np.ndarray]:
        """int32 token ids of each query, behind the default prompt where there is one, without special tokens."""
        return self._encode([self._wrap.query(query) for query in queries])

    def encode_documents(self, documents: Sequence[str]) -> list[np.ndarray]:
        """int32 token ids of each document, without special tokens."""
        return self._encode(self._wrapped(documents))

    def beginnings(self, texts: Sequence[str], max_tokens: int) -> list[tuple[np.ndarray, bool]]:
        """Of each text all ids and True, or, of one much longer than that, its first `most` ids and False."""
        if self._may_cut:
            return encode_beginnings(self._encode, self._wrapped(texts), max_tokens)
        return [(ids, True) for ids in self.encode_documents(texts)]

    def _wrapped(self, texts: Sequence[str]) -> list[str]:
        return [*texts] if self._wrap == PLAIN else [self._wrap(text) for text in texts]

    def _encode(self, texts: list[str]) -> list[np.ndarray]:
        return self._encode_own(texts) if self._bpe is None else self._bpe.encode(texts)

    def _encode_own(self, texts: list[str]) -> list[np.ndarray]:
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False) if texts else []
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def _normalize(self, text: str) -> str:
        return self._tokenizer.normalizer.normalize_str(text)


def identity_of(tokenizer: Tokenizer, wrap: Wrap) -> str:
    """Two checkpoints with the same vocabulary and rules encode every text alike."""
    return hashlib.sha256(f"{wrap}\0{tokenizer.to_str()}".encode()).hexdigest()
