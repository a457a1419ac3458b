"""Texts to token ids: through tiktoken where it gives the same ids, else through the checkpoint's own tokenizer."""

import hashlib
import json
import logging
import os
import unicodedata
from collections.abc import Iterator, Sequence
from typing import ClassVar
from weakref import WeakValueDictionary

import numpy as np
from tokenizers import Tokenizer

from rankfleet.engine.text.beginnings import encode_beginnings, may_cut, window_end, window_size
from rankfleet.engine.text.bpe import ByteLevelBpe, NotByteLevel
from rankfleet.engine.text.pair_template import PLAIN, TextWrap

# Characters encoded in one call, or one text: what tokenizers returns takes up to 70 bytes of memory for each. Fewer
# would leave cores idle where texts are long.
AT_ONCE = 2_000_000

log = logging.getLogger(__name__)


class TextEncoder:
    """Encodes texts by one vocabulary and its rules. Tiers with the same vocabulary share one instance, and with it
    the token ids of their documents."""

    _instances: ClassVar["WeakValueDictionary[str, TextEncoder]"] = WeakValueDictionary()

    def __init__(self, tokenizer: Tokenizer, wrap: TextWrap = PLAIN, *, fast: bool = True) -> None:
        """`wrap`: what is done to every text first. `fast`: use tiktoken if it gives the same ids; to check that takes
        about half a second."""
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
    def shared(cls, tokenizer: Tokenizer, wrap: TextWrap = PLAIN) -> "TextEncoder":
        """The existing encoder of this vocabulary, or a new one."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        encoder = cls._instances.get(identity := identity_of(tokenizer, wrap))
        if encoder is None:
            encoder = cls._instances[identity] = cls(tokenizer, wrap)
        return encoder

    @property
    def backend(self) -> str:
        """`tiktoken` or `tokenizers`."""
        return "tokenizers" if self._bpe is None else "tiktoken"

    def encode_queries(self, queries: list[str]) -> list[np.ndarray]:
        """int32 token ids of each query, with the default prompt if there is one, without special tokens."""
        return self._encode([self._wrap.query(query) for query in queries])

    def encode_documents(self, documents: Sequence[str]) -> list[np.ndarray]:
        """int32 token ids of each document, without special tokens."""
        return self._encode(self._wrapped(documents))

    def encode_prompt(self, prompt: str) -> list[int]:
        """Token ids of a prompt, or of a part of one, as it is."""
        return self._encode([prompt])[0].tolist()

    def encode_beginnings(self, documents: Sequence[str], max_tokens: int) -> list[tuple[np.ndarray, bool]]:
        """Of each document all token ids and True, or, if it is much longer, its first `max_tokens` and False."""
        if self._may_cut:
            return encode_beginnings(self._encode, self._wrapped(documents), max_tokens)
        return [(ids, True) for ids in self.encode_documents(documents)]

    def span(self, document: str, start: int, stop: int) -> tuple[int, int]:
        """Where in a document its tokens from `start` to before `stop` are, without white space at both ends: the first
        code point, and the one behind the last."""
        text = self._wrap.document(document)
        size = window_size(text, stop) if self._may_cut else len(text)
        while True:
            end = window_end(text, 0, size)
            # A batch of one: unlike `encode`, it lets other threads go on.
            encoding = self._tokenizer.encode_batch([text[:end]], add_special_tokens=False)[0]
            if len(encoding) >= stop or end == len(text):
                break
            size *= 2
        # Of a long word that is cut, the parts may have more tokens than the whole.
        start, stop = min(start, len(encoding) - 1), min(stop, len(encoding))
        before = len(self._wrap.prefix)  # characters of the text that are not the document's
        if self._wrap.strip:
            before -= len(document) - len(document.lstrip())
        first_token, last_token = encoding.token_to_chars(start), encoding.token_to_chars(stop - 1)
        assert first_token is not None  # only special tokens have no characters
        assert last_token is not None
        ends = (first_token[0], last_token[1])
        first, last = (min(max(0, place - before), len(document)) for place in ends)
        while unicodedata.combining(document[last : last + 1] or " "):  # an accent that the tokenizer drops
            last += 1
        passage = document[first:last]
        first = last - len(passage.lstrip())
        return first, first + len(passage.strip())

    def _wrapped(self, texts: Sequence[str]) -> list[str]:
        return [*texts] if self._wrap == PLAIN else [self._wrap.document(text) for text in texts]

    def _encode(self, texts: list[str]) -> list[np.ndarray]:
        encode = self._encode_own if self._bpe is None else self._bpe.encode
        return [ids for some in slices(texts, AT_ONCE) for ids in encode(some)]

    def _encode_own(self, texts: list[str]) -> list[np.ndarray]:
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False) if texts else []
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def _normalize(self, text: str) -> str:
        return self._tokenizer.normalizer.normalize_str(text)


def encode_on_calling_threads() -> None:
    """From now on, tokenizers encodes in the thread that calls it. The threads of its own, which it uses otherwise, do
    one call after the other, so that a few words would wait for the megabytes of another request."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # read at each call


def slices(texts: list[str], characters: int) -> Iterator[list[str]]:
    """The texts in order, in lists of at most so many characters or one text."""
    start, held = 0, 0
    for i, text in enumerate(texts):
        if held + len(text) > characters and i > start:
            yield texts[start:i]
            start, held = i, 0
        held += len(text)
    yield texts[start:]


def identity_of(tokenizer: Tokenizer, wrap: TextWrap) -> str:
    """A hash of vocabulary and rules: encoders with the same identity give the same ids for every text."""
    return hashlib.sha256(f"{wrap}\0{tokenizer.to_str()}".encode()).hexdigest()
