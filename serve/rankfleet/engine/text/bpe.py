"""Byte-level BPE through tiktoken: the ids of `tokenizers`, several times as fast.

It replaces a checkpoint's own tokenizer only where both are known to give the same ids:

- The pieces have to be those of the GPT-2 pattern, and the normalizer NFC or none; anything else is refused.
- `tokenizers` merges only the pairs in its list, tiktoken any two neighbours that form a known token. Both give the
  same ids if every token, encoded alone, is merged back into itself: two neighbours that form the token t are then a
  state that t's own merging passes through, and its only state of two parts is the pair in the list. This is checked
  for all tokens.
- Behaviour that depends on Unicode tables, white space and added tokens is compared on probe texts (`probes.py`).
- A text with a special token, or with the control character that is used as a marker, goes to `tokenizers`.

The texts of a call are joined by a marker and encoded at once, which releases the GIL once and builds no Python list.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
import tiktoken
from tokenizers import models

from rankfleet.engine.text.probes import probe_texts

# GPT-2's pattern in tiktoken's form, with possessive quantifiers: the same pieces without backtracking.
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
MARKER = "\x1e"  # ASCII, so that joined ASCII texts stay ASCII
MAX_MARKERS = 1000  # a marker has three digits
NEVER_IN_UTF8 = {0xC0, 0xC1, *range(0xF5, 0x100)}
KNOWN_MODEL = {
    "dropout": (None, 0.0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (False,),
    "ignore_merges": (False,),
}

Encode = Callable[[list[str]], list[np.ndarray]]


class NotByteLevel(Exception):
    """tiktoken cannot replace this tokenizer; the message says why."""


class ByteLevelBpe:
    """Encodes texts as the checkpoint's own tokenizer does, without special tokens around them."""

    def __init__(self, settings: dict[str, Any], own: Encode, normalize: Callable[[str], str]) -> None:
        """`settings`: the tokenizer's JSON. `own`: its `encode`, to compare with and for texts that need it.
        `normalize`: its normalizer. Raises NotByteLevel if tiktoken cannot replace it."""
        check_kind(settings)
        self._own = own
        self._normalize = normalize
        self._no_normalizer = settings.get("normalizer") is None
        ranks, ids = byte_ranks(settings["model"])
        plain, self._special = split_added(settings.get("added_tokens", []))
        if len(plain) >= MAX_MARKERS:
            raise NotByteLevel(f"its {len(plain)} added tokens are more than there are markers")
        self._separator, *markers = (f"{MARKER}{i:03d}" for i in range(len(plain) + 1))
        self._markers = dict(zip(plain, markers, strict=True))
        self._added = alternation(plain)
        self._hints = {hint(content) for content in (*plain, *self._special)}
        marker_ranks = {marker: len(ranks) + i for i, marker in enumerate((self._separator, *markers))}
        self._separator_rank = marker_ranks[self._separator]
        self._ids = np.concatenate([ids, np.array([-1, *plain.values()], dtype=np.int32)])
        self._allowed = set(marker_ranks)
        self._encoding = tiktoken.Encoding(
            "checkpoint", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=marker_ranks
        )
        self._check()

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """int32 token ids of each text, each an array of its own."""
        if not self._may_need_preparation(texts):
            return self._encode_joined(texts)
        prepared = [*map(self._prepare, texts)]
        own = iter(self._own([text for text, ready in zip(texts, prepared, strict=True) if ready is None]))
        fast = iter(self._encode_joined([ready for ready in prepared if ready is not None]))
        return [next(own if ready is None else fast) for ready in prepared]

    def _encode_joined(self, texts: list[str]) -> list[np.ndarray]:
        if not texts:
            return []
        joined = self._separator.join(texts)
        ranks = self._encoding.encode_to_numpy(joined, allowed_special=self._allowed, disallowed_special=())
        cuts = np.flatnonzero(ranks == self._separator_rank).tolist()
        starts, stops = [0, *(cut + 1 for cut in cuts)], [*cuts, len(ranks)]
        return [self._ids[ranks[start:stop]] for start, stop in zip(starts, stops, strict=True)]

    def _may_need_preparation(self, texts: list[str]) -> bool:
        """Whether any text may need `_prepare`: a quick look at all of them at once."""
        joined = "".join(texts)
        return not joined.isascii() or MARKER in joined or any(hint in joined for hint in self._hints)

    def _prepare(self, text: str) -> str | None:
        """The normalized text with markers for its added tokens; None if the checkpoint's own tokenizer has to encode
        it."""
        if MARKER in text or self._has_special(text):
            return None
        if not text.isascii() and not self._no_normalizer:
            known = not beyond_tables().search(text) and unicodedata.is_normalized("NFC", text)
            text = text if known else self._normalize(text)
            if self._has_special(text):
                return None
        if self._added is not None and self._hinted(text):
            return self._added.sub(lambda match: self._markers[match[0]], text)
        return text

    def _hinted(self, text: str) -> bool:
        return any(hint in text for hint in self._hints)

    def _has_special(self, text: str) -> bool:
        return self._hinted(text) and any(content in text for content in self._special)

    def _check(self) -> None:
        """Raises NotByteLevel unless all probe texts get the same ids, each alone and all in one call."""
        texts = probe_texts([*self._markers, *self._special])
        for text, own, ours in zip(texts, self._own(texts), self.encode(texts), strict=True):
            if not np.array_equal(own, ours) or not np.array_equal(own, self.encode([text])[0]):
                raise NotByteLevel(f"its ids differ, for example those of {text[:80]!r}")


def check_kind(settings: dict[str, Any]) -> None:
    """Raises NotByteLevel unless this is plain BPE over the bytes of GPT-2's pieces."""
    model, pre = settings["model"], settings.get("pre_tokenizer") or {}
    normalizer = (settings.get("normalizer") or {"type": None})["type"]
    if model["type"] != "BPE" or pre.get("type") != "ByteLevel":
        raise NotByteLevel(f"{model['type']} after {pre.get('type')} is not byte-level BPE")
    if normalizer not in (None, "NFC"):
        raise NotByteLevel(f"its normalizer is {normalizer}")
    if not pre.get("use_regex", True) or pre.get("add_prefix_space"):
        raise NotByteLevel("its pieces are not those of the GPT-2 pattern")
    for key, values in KNOWN_MODEL.items():
        if model.get(key, values[0]) not in values:
            raise NotByteLevel(f"its model has {key} = {model[key]}")


@cache
def bytes_of_letters() -> dict[str, int]:
    """The byte that each letter of a byte-level vocabulary stands for: printable bytes are their own letter, the others
    are written from U+0100 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def byte_ranks(model: dict[str, Any]) -> tuple[dict[bytes, int], np.ndarray]:
    """tiktoken's ranks (bytes first, then the result of each merge), and int32 [ranks], the token id of each.

    Raises NotByteLevel unless every token, encoded alone, is merged back into itself.
    """
    letters, vocabulary = bytes_of_letters(), model["vocab"]
    byte_ids = {byte: vocabulary.get(letter, -1) for letter, byte in letters.items()}
    if missing := {byte for byte, token in byte_ids.items() if token < 0} - NEVER_IN_UTF8:
        raise NotByteLevel(f"its vocabulary lacks the byte {min(missing):#04x}")
    merges = [tuple(merge) for merge in model["merges"]]
    alone = models.BPE(vocab=vocabulary, merges=merges, cache_capacity=0)
    ranks = {bytes([byte]): byte for byte in range(256)}
    ids = [byte_ids[byte] for byte in range(256)]
    to_bytes = {ord(letter): byte for letter, byte in letters.items()}
    for left, right in merges:
        token = left + right
        if [part.id for part in alone.tokenize(token)] != [vocabulary[token]]:
            raise NotByteLevel(f"its token {token!r} is not reached by its merges")
        if (raw := token.translate(to_bytes).encode("latin-1")) in ranks:
            raise NotByteLevel(f"two merges make {token!r}")
        ranks[raw] = len(ranks)
        ids.append(vocabulary[token])
    return ranks, np.array(ids, dtype=np.int32)


def split_added(tokens: list[dict[str, Any]]) -> tuple[dict[str, int], list[str]]:
    """Added tokens that are searched for literally in normalized text, with their ids; and all other ones."""
    plain: dict[str, int] = {}
    special: list[str] = []
    for token in tokens:
        content = token["content"]
        strict = token["single_word"] or token["lstrip"] or token["rstrip"]
        if token["normalized"] and not strict and content.isascii():
            plain[content] = token["id"]
        else:
            special += dict.fromkeys((content, unicodedata.normalize("NFC", content)))
    return plain, special


def hint(content: str) -> str:
    """A short string that every text with this token contains: its first character, or two if the first is a space."""
    return content[:2] if content[0].isspace() else content[0]


def alternation(contents: Iterable[str]) -> re.Pattern[str] | None:
    """A pattern that matches the longest of these contents at a position; None if there are none.

    Contents are grouped by their first two characters, so that most positions are rejected at once.
    """
    groups: dict[str, list[str]] = {}
    for content in sorted(contents, key=len, reverse=True):
        groups.setdefault(content[:2], []).append(content[2:])
    if not groups:
        return None
    heads = sorted(groups, key=len, reverse=True)
    return re.compile(
        "|".join(f"{re.escape(head)}(?:{'|'.join(re.escape(tail) for tail in groups[head])})" for head in heads)
    )


@cache
def beyond_tables() -> re.Pattern[str]:
    """Matches characters whose normal form Python's Unicode tables may not know: those without an entry, and, to keep
    the pattern small, all outside the basic plane."""
    codes = (*range(0x80, 0xD800), *range(0xE000, 0x10000))
    unknown = "".join(re.escape(chr(code)) for code in codes if unicodedata.category(chr(code)) == "Cn")
    return re.compile(f"[{unknown}\U00010000-\U0010ffff]")
