"""Encoding the beginning of a long text without encoding all of it.

A text may be cut where its tokenizer sees a boundary whatever stands on both sides:

- before the first of a run of spaces or line ends, since words never contain white space;
- between a punctuation mark, such as a full stop, and a letter, for scripts without spaces.

Unicode composition and reordering do not cross such a place either. So the ids of the two parts, joined, are those of
the whole text. This holds for byte-level BPE with the GPT-2 pattern and for BERT's WordPiece; `may_cut` tells.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# Without the apostrophe: together with the next letter it may be a contraction, which is one piece.
PUNCTUATION = ".,;:!?)。，、！？；：」』）।؟،"
AFTER_PUNCTUATION = re.compile(rf"(?<=[{re.escape(PUNCTUATION)}])(?=[^\W\d_])")
CUT = re.compile(rf"(?<=\S)(?=[ \n])|{AFTER_PUNCTUATION.pattern}")
MAX_UNBROKEN = 32_768  # characters that a window may reach over in search of a boundary; no language needs as many
NOT_SPACE = "\x1c\x1d\x1e\x1f"  # white space in Python, but symbols that a piece may contain in tokenizers
MIN_WINDOW = 256  # characters; fewer are not worth a call
ASCII_PER_TOKEN, OTHER_PER_TOKEN = 5, 2  # characters; English has 4 to 5, most other scripts fewer

Encode = Callable[[list[str]], list[np.ndarray]]


def may_cut(settings: dict[str, Any]) -> bool:
    """Whether the rule above holds for the tokenizer with these settings (its JSON)."""
    normalizer, pre = (settings.get(key) or {} for key in ("normalizer", "pre_tokenizer"))
    kind = (settings["model"]["type"], pre.get("type"), normalizer.get("type"))
    if kind in (("BPE", "ByteLevel", None), ("BPE", "ByteLevel", "NFC")):
        known = bool(pre.get("use_regex", True)) and not pre.get("add_prefix_space")
    else:
        known = kind == ("WordPiece", "BertPreTokenizer", "BertNormalizer")
    return known and not any(
        token["rstrip"] or token["single_word"] or CUT.search(token["content"])
        for token in settings.get("added_tokens", [])
    )


def window_end(text: str, start: int, size: int) -> int:
    """Where a window of about `size` characters from `start` on may end: the last possible cut in its second half.

    If there is none, the window is doubled, up to the end of the text, and at most by MAX_UNBROKEN. A window that ends
    there may have other ids near its end than the whole text has; a megabyte of exclamation marks would take seconds.
    """
    furthest = size + MAX_UNBROKEN
    while start + size + size // 4 < len(text):  # a small remainder is not worth a call of its own
        low, high = start + size // 2, start + size
        for space in (" ", "\n"):
            at = text.rfind(space, low, high)
            while at > low and text[at - 1].isspace() and text[at - 1] not in NOT_SPACE:
                at -= 1
            if at > low:
                return at
        if cuts := [match.start() for match in AFTER_PUNCTUATION.finditer(text, low, high)]:
            return cuts[-1]
        if size == furthest:
            return start + size
        size = min(size * 2, furthest)
    return len(text)


def encode_beginnings(encode: Encode, texts: Sequence[str], max_tokens: int) -> list[tuple[np.ndarray, bool]]:
    """Of each text all token ids and True, or its first `max_tokens` ids and False."""
    ids: list[list[np.ndarray]] = [[] for _ in texts]
    ends = [0] * len(texts)
    pending = list(range(len(texts)))
    while pending:
        windows = []
        for i in pending:
            text, start = texts[i], ends[i]
            ends[i] = window_end(text, start, window_size(text, max_tokens - sum(map(len, ids[i]))))
            windows.append(text[start : ends[i]])  # copies the window only
        for i, part in zip(pending, encode(windows), strict=True):
            ids[i].append(part)
        pending = [i for i in pending if ends[i] < len(texts[i]) and sum(map(len, ids[i])) < max_tokens]
    joined = [parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in ids]
    return [
        (part, True) if end == len(text) else (part[:max_tokens].copy(), False)
        for part, end, text in zip(joined, ends, texts, strict=True)
    ]


def window_size(text: str, missing: int) -> int:
    """Characters that probably give the `missing` tokens."""
    return MIN_WINDOW + missing * (ASCII_PER_TOKEN if text.isascii() else OTHER_PER_TOKEN)
