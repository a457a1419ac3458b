"""Documents as requests send them, and the texts that are read of them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import yaml
from pydantic import Field, WithJsonSchema

from rankfleet.api.dialects.json_body import Strings
from rankfleet.core.bounds import MAX_STRUCTURED_CHARACTERS, MAX_STRUCTURED_DEPTH, MAX_STRUCTURED_VALUES
from rankfleet.core.errors import InvalidRequest, TooLarge

UNRETURNABLE = "NaN, infinity and whole numbers beyond 64 bits cannot be returned; send null, or the number as a string"
OTHER_MEDIA = ("image", "image_url", "video", "video_url", "content")  # in place of a text, in Jina's API and vLLM's
DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # the first is compiled, and 20 times as fast


PROPERTIES = {"text": {"type": "string"}, "score": {"type": ["number", "null"]}}
STRUCTURED: list[dict[str, Any]] = [{"type": "string"}, {"type": "object", "properties": PROPERTIES}]
WITH_TEXT: list[dict[str, Any]] = [{"type": "string"}, {**STRUCTURED[1], "required": ["text"]}]


def list_of(*types: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of a list that is not empty."""
    return {"type": "array", "minItems": 1, "items": {"anyOf": [*types]}}


# `texts_of` checks them: pydantic would name each of the types in an error of its own.
Documents = Annotated[list[Any], WithJsonSchema(list_of(*WITH_TEXT))]
StructuredDocuments = Annotated[list[Any], WithJsonSchema(list_of(*STRUCTURED))]
StructuredDocumentLists = Annotated[list[Any], WithJsonSchema(list_of(*STRUCTURED, list_of(*STRUCTURED)))]
RankFields = Annotated[
    Strings | None,
    Field(
        max_length=100,
        description="which fields of a document that is an object are read, as YAML in this order; `text` if left out",
    ),
]


def texts_of(
    documents: list[Any],
    name: str,
    rank_fields: Sequence[str] | None = None,
    places: Sequence[int | str] | None = None,
) -> list[str]:
    """The text of each document; the same list if all are strings. name: of the field that has them. places: of each in
    that field, for messages; None if they stand there in this order.

    Raises InvalidRequest for one that has no text, or could not be returned as it was sent, and TooLarge for structured
    documents that take long to read.
    """
    if {*map(type, documents)} <= {str}:
        return documents
    placed = zip(places or range(len(documents)), documents, strict=True)
    if not rank_fields or [*rank_fields] == ["text"]:
        return [text_of(i, document, name) for i, document in placed]
    chosen = [
        fields_of(i, document, name, rank_fields) if isinstance(document, dict) else text_of(i, document, name)
        for i, document in placed
    ]
    structured = [value for value in chosen if isinstance(value, dict)]
    for count, limit, of in (
        (size_of, MAX_STRUCTURED_VALUES, "values"),
        (characters_of, MAX_STRUCTURED_CHARACTERS, "characters"),
    ):
        if sum(map(count, structured)) > limit:
            why = f"the fields to rank by have more than {limit} {of}"
            raise TooLarge(f"request body: rank_fields: {why}; name fewer, or send fewer documents")
    return [value if isinstance(value, str) else as_yaml(value) for value in chosen]


def text_of(index: int | str, document: Any, name: str) -> str:
    text = document.get("text") if isinstance(document, dict) else document
    if not isinstance(text, str):
        check_media(index, document, name)
        raise InvalidRequest(f'request body: {name}.{index}: must be a string or {{"text": string}}')
    if not has_returnable_numbers(document):
        raise InvalidRequest(f"request body: {name}.{index}: {UNRETURNABLE}")
    return text


def check_media(index: int | str, document: Any, name: str) -> None:
    """Raises InvalidRequest for an image and the like."""
    if isinstance(document, dict) and (media := next(filter(document.get, OTHER_MEDIA), None)):
        raise InvalidRequest(f"request body: {name}.{index}: '{media}' is not supported; send a text")


def fields_of(index: int | str, document: dict[str, Any], name: str, rank_fields: Sequence[str]) -> dict[str, Any]:
    """These fields of a document, in this order; those that it has."""
    if not has_returnable_numbers(document):
        raise InvalidRequest(f"request body: {name}.{index}: {UNRETURNABLE}")
    fields = {field: document[field] for field in rank_fields if field in document}
    if not fields:
        raise InvalidRequest(f"request body: {name}.{index}: has none of the rank_fields")
    if depth_of(fields) > MAX_STRUCTURED_DEPTH:
        raise TooLarge(f"request body: {name}.{index}: is nested deeper than {MAX_STRUCTURED_DEPTH} levels")
    return fields


def as_yaml(fields: Mapping[str, Any]) -> str:
    """The text that Cohere's clients make of an object, except that characters beyond ASCII are not escaped: models
    know them as they are. Those beyond U+FFFF still are, since libyaml has no other way."""
    return str(yaml.dump(fields, Dumper=DUMPER, sort_keys=False, allow_unicode=True))


def has_returnable_numbers(value: Any) -> bool:
    """Whether all numbers inside a JSON value can be written as JSON again: fractions that are finite, and whole
    numbers of at most 64 bits."""
    if isinstance(value, dict):
        return all(map(has_returnable_numbers, value.values()))
    if isinstance(value, list):
        return all(map(has_returnable_numbers, value))
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, int) or -(2**63) <= value < 2**64


def size_of(value: Any) -> int:
    """The number of values in a JSON value, itself included."""
    return 1 + sum(map(size_of, inside(value)))


def characters_of(value: Any) -> int:
    """The characters of all strings in a JSON value, names of fields included."""
    if isinstance(value, str):
        return len(value)
    return sum(map(len, value if isinstance(value, dict) else ())) + sum(map(characters_of, inside(value)))


def depth_of(value: Any) -> int:
    """How many levels of objects and lists a JSON value has."""
    return 1 + max(map(depth_of, inside(value)), default=0) if isinstance(value, dict | list) else 0


def inside(value: Any) -> Iterable[Any]:
    """The values in an object or a list; none in any other JSON value."""
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
