"""Random inputs for whatever reads what others wrote: content that is nearly right, and settings for how much of it.

`make test` tries little, the same each time. `make fuzz` sets FUZZ_FACTOR, and tries that many times as much, new.
"""

import json
import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FACTOR = int(os.environ.get("FUZZ_FACTOR", "1"))


def fuzzed(examples: int, **more: Any) -> settings:
    """Settings of a test with so many examples in `make test`."""
    return settings(
        max_examples=examples * FACTOR,
        deadline=None,
        derandomize=FACTOR == 1,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        **more,
    )


ODD_NUMBERS: list[Any] = [0, -1, 1, 2**31, 2**63, 2**64, 10**400, -0.0, 5e-324, 1e308, float("inf"), float("nan")]
ODD_TEXTS = ["", " ", "\0", "\ud800", "\u202e", "\ufeff", "😀", "e\u0301", "a>b", "../..", "~", "1", "true", "a" * 3000]
SCALARS = st.sampled_from([None, True, False, *ODD_NUMBERS, *ODD_TEXTS]) | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(ODD_TEXTS) | st.text(max_size=4), inner)
    ),
    max_leaves=6,
)
# Pieces that mean something in JSON, YAML, tables, or to a decoder.
PIECES = [
    *(
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"9" * 5000,
        b"null",
        b"{}",
        b"[" * 3000,
        b'{"a":' * 3000,
        b'"',
        b"\\ud800",
        b",",
    ),
    *(b":", b": ", b"- ", b"\t", b"\n", b"\r", b"\x85", b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"#", b"'"),
    *(b"&a [*a]", b"*b", b"!!python/object:os.system x", b"!!timestamp x", b"!!int ''", b"!!bool x", b"2001-99-99"),
    *(b"<<: 1", b"? [a]", b"%YAML 9.9\n", b"PAR1", b"\x1f\x8b", b"BZh", b"PK\x03\x04", b"[1,", b"1:99", b"0x", b"=1+1"),
]


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """The content with bytes missing, doubled or replaced; or anything at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        stop = draw(st.integers(start, min(len(content), start + 40)) | st.just(len(content)))
        new = draw(st.sampled_from([b"", content[start:stop] * 2, *PIECES]) | st.binary(max_size=4))
        content = content[:start] + new + content[stop:]
    return content


@st.composite
def changed(draw: st.DrawFn, tree: Any) -> Any:
    """JSON data with another value, another name or nothing in one place or a few."""
    for _ in range(draw(st.integers(1, 2))):
        places = draw(st.sampled_from([*places_of(tree), ()]))
        tree = replaced(tree, places, draw(VALUES), draw(st.sampled_from(["value", "value", "gone", "name"])))
    return tree


def places_of(tree: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each value inside."""
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [place for key, value in inside for place in ((*before, key), *places_of(value, (*before, key)))]


def replaced(tree: Any, place: tuple[Any, ...], value: Any, how: str) -> Any:
    """A copy with another value at a place; or without it there, or with it under another name."""
    if not place:
        return value
    copy, (key, *rest) = (dict(tree), place) if isinstance(tree, dict) else ([*tree], place)
    if rest:
        copy[key] = replaced(copy[key], tuple(rest), value, how)
    elif how == "value" or isinstance(copy, list):
        copy[key] = value
    else:
        old = copy.pop(key)
        copy |= {str(value)[:50]: old} if how == "name" else {}
    return copy


def as_json(tree: Any) -> bytes:
    """JSON as Python writes it: with NaN and Infinity, and lone surrogates as escapes."""
    return json.dumps(tree).encode()


def nearly(tree: Any) -> st.SearchStrategy[bytes]:
    """JSON that is nearly `tree`: other values, or other bytes."""
    return st.one_of(changed(tree).map(as_json), damaged(as_json(tree)))
