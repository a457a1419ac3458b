"""Documents as requests send them, and the texts that are read of them."""

from typing import Any

import pytest
import yaml

from rankfleet.api.dialects.documents import as_yaml, characters_of, depth_of, size_of, texts_of
from rankfleet.core.errors import InvalidRequest, TooLarge

PAGE = {"n": 7, "title": "A cat: the movie", "tags": ["a", "b"], "text": "plain", "by": {"name": "Eve", "at": None}}


@pytest.mark.parametrize(
    ("rank_fields", "text"),
    [
        (None, "plain"),
        ([], "plain"),
        (["text"], "plain"),
        (["text", "n"], "text: plain\nn: 7\n"),
        (["title", "tags", "by"], "title: 'A cat: the movie'\ntags:\n- a\n- b\nby:\n  name: Eve\n  at: null\n"),
        (["n", "year", "title"], "n: 7\ntitle: 'A cat: the movie'\n"),
    ],
)
def test_fields_are_read_in_the_order_asked_for(rank_fields: list[str] | None, text: str) -> None:
    assert texts_of([PAGE, "a dog"], "documents", rank_fields) == [text, "a dog"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("naïve 猫", "t: naïve 猫\n"),  # clients write "na\xEFve \u732B", which models know less well
        ("true", "t: 'true'\n"),
        (True, "t: true\n"),
        (1.5, "t: 1.5\n"),
        ("two\nlines", "t: 'two\n\n  lines'\n"),
        ([{"a": 1}, {}], "t:\n- a: 1\n- {}\n"),
        ("cat " * 20 + "cat", f"t: {'cat ' * 19}cat\n  cat\n"),  # lines end after about 80 characters
    ],
)
def test_values_are_written_as_yaml_has_them(value: Any, text: str) -> None:
    assert as_yaml({"t": value}) == text
    assert yaml.safe_load(text) == {"t": value}


def test_strings_are_taken_as_they_are() -> None:
    documents = ["a", "b"]
    assert texts_of(documents, "documents", ["title"]) is documents


@pytest.mark.parametrize(
    ("document", "rank_fields", "message"),
    [
        ({"title": "a"}, None, 'texts.0: must be a string or {"text": string}'),
        ({"text": 5}, None, 'texts.0: must be a string or {"text": string}'),
        ({"image": "aGk="}, None, "texts.0: 'image' is not supported; send a text"),
        ({"image": None, "text": None}, None, "texts.0: must be a string"),
        ({"title": "a"}, ["text", "year"], "texts.0: has none of the rank_fields"),
        ({"title": float("nan")}, ["title"], "texts.0: NaN, infinity and whole numbers"),
        ({"text": "a", "id": [2**64]}, None, "texts.0: NaN, infinity and whole numbers beyond 64 bits"),
        ({"text": "a", "id": -(2**63) - 1}, None, "texts.0: NaN, infinity and whole numbers beyond 64 bits"),
        (5, ["title"], "texts.0: must be a string"),
    ],
)
def test_a_document_without_a_text_is_refused(document: Any, rank_fields: list[str] | None, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        texts_of([document], "texts", rank_fields)


def test_whole_numbers_of_64_bits_are_taken() -> None:
    assert texts_of([{"text": "a", "ids": [2**64 - 1, -(2**63), True]}], "texts") == ["a"]


def test_documents_that_take_long_to_read_are_refused() -> None:
    flat = [{"t": [0] * 98}] * 500  # 100 values in each
    assert texts_of(flat, "documents", ["t"])[0].startswith("t:\n- 0\n")
    with pytest.raises(TooLarge, match="the fields to rank by have more than 50000 values; name fewer, or send fewer"):
        texts_of([*flat, {"t": 1}], "documents", ["t"])
    long = {"t": ["x" * 1_999_999], "not ranked": "x" * 9_000_000}
    assert len(texts_of([long, long], "documents", ["t"])) == 2
    with pytest.raises(TooLarge, match="the fields to rank by have more than 4000000 characters; name fewer, or send"):
        texts_of([long, {"t": "x"}, long], "documents", ["t"])
    deep: Any = 1
    for _ in range(16):
        deep = [deep]
    with pytest.raises(TooLarge, match=r"documents\.0: is nested deeper than 16 levels"):
        texts_of([{"t": deep}], "documents", ["t"])
    assert texts_of([{"t": deep[0]}], "documents", ["t"]) == [f"t:\n{'- ' * 15}1\n"]


@pytest.mark.parametrize(
    ("value", "size", "characters", "depth"),
    [
        (1, 1, 0, 0),
        ("abc", 1, 3, 0),
        ([], 1, 0, 1),
        ({"ab": [1, {}]}, 4, 2, 3),
        ([["é"], {"a": "猫猫"}], 5, 4, 2),
    ],
)
def test_size_characters_and_depth(value: Any, size: int, characters: int, depth: int) -> None:
    assert (size_of(value), characters_of(value), depth_of(value)) == (size, characters, depth)
