"""Encoding the beginning of a long text without encoding all of it.

A text may be cut where its tokenizer is sure to see a boundary, whatever stands on the other side:

- before the first of a run of spaces or line ends: words never reach over white space;
- between a mark such as a full stop and a letter, for scripts that use no spaces.

Neither Unicode composition nor reordering crosses such a place. This holds for byte-level BPE with the GPT-2
pattern and for BERT's word pieces (`may_cut`), and so do the ids: those of both sides are those of the whole.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# An apostrophe is left out: with the letter behind it, it may be a contraction, which is one piece.
MARKS = ".,;:!?)。，、！？；：」』）।؟،"
MARK = re.compile(rf"(?<=[{re.escape(MARKS)}])(?=[^\W\d_])")
CUT = re.compile(rf"(?<=\S)(?=[ \n])|{MARK.pattern}")
NOT_BLANK = "\x1c\x1d\x1e\x1f"  # white space to Python, but to tokenizers a mark that words may reach over
LEAST = 256  # characters of a window; fewer are not worth a call
ASCII_PER_TOKEN, OTHER_PER_TOKEN = 5, 2  # characters; English has 4 to 5, most other scripts fewer

Encode = Callable[[list[str]], list[np.ndarray]]


def may_cut(settings: dict[str, Any]) -> bool:
    """Whether the tokenizer of these settings (its JSON) keeps to the rule above."""
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
    """Where a window of about `size` characters may end: the last allowed cut in its second half, or if there
    is none, in one twice as large, and so on up to the end of the text."""
    while start + size + size // 4 < len(text):  # a small rest is not worth a call of its own
        low, high = start + size // 2, start + size
        for blank in (" ", "\n"):
            at = text.rfind(blank, low, high)
            while at > low and text[at - 1].isspace() and text[at - 1] not in NOT_BLANK:
                at -= 1
            if at > low:
                return at
        if marks := [match.start() for match in MARK.finditer(text, low, high)]:
            return marks[-1]
        size *= 2
    return len(text)


def encode_beginnings(encode: Encode, texts: Sequence[str], max_tokens: int) -> list[tuple[np.ndarray, bool]]:
    """Of each text, all token ids and True, or at least the first `most` of them and False."""
    ids: list[list[np.ndarray]] = [[] for _ in texts]
    ends = [0] * len(texts)
    pending = list(range(len(texts)))
    while pending:
        windows = []
        for i in pending:
            text, start = texts[i], ends[i]
            ends[i] = window_end(text, start, window_size(text, max_tokens - sum(map(len, ids[i]))))
            windows.append(text[start : ends[i]])  # the whole text is not copied
        for i, part in zip(pending, encode(windows), strict=True):
            ids[i].append(part)
        pending = [i for i in pending if ends[i] < len(texts[i]) and sum(map(len, ids[i])) < max_tokens]
    joined = [parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in ids]
    return [
        (part, True) if end == len(text) else (part[:max_tokens].copy(), False)
        for part, end, text in zip(joined, ends, texts, strict=True)
    ]


def window_size(text: str, missing: int) -> int:
    """Characters that should give the tokens that are missing."""
    return LEAST + missing * (ASCII_PER_TOKEN if text.isascii() else OTHER_PER_TOKEN)
