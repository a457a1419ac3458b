"""Lists the keys of a fleet file, for its documentation."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import AwareDatetime

from rankfleet.core.sections import Section


@dataclass(frozen=True)
class Key:
    """One key of the file. `path` has NAME where the user chooses a name."""

    path: str
    type: str
    default: str
    description: str


def describe_keys(section: type[Section], prefix: str = "") -> Iterator[Key]:
    """Every key of a section and of the sections in it, depth first. `prefix`: path of the section, with a dot."""
    for name, field in section.model_fields.items():
        path = prefix + name
        types = [a for a in (field.annotation, *get_args(field.annotation)) if isinstance(a, type)]
        nested = next((a for a in types if issubclass(a, Section)), None)
        is_by_name = get_origin(field.annotation) is dict
        is_list = get_origin(field.annotation) is list
        form = "sections by name" if is_by_name else "list of sections" if is_list else "section"
        kind = form if nested else type_name(field.annotation)
        default = "required" if field.is_required() else "" if nested else f"`{yaml_scalar(field.default)}`"
        yield Key(path, kind, default, field.description or "")
        if nested is not None:
            yield from describe_keys(nested, f"{path}.NAME." if is_by_name else f"{path}.")


def table_of_keys(section: type[Section]) -> Iterator[str]:
    """Lines of a table of every key, in Markdown."""
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    for key in describe_keys(section):
        yield f"| `{key.path}` | {key.type} | {key.default} | {key.description} |"


def type_name(annotation: Any) -> str:
    """A type in words for users: `str | None` is "text or null"."""
    words: dict[Any, str] = {str: "text", bool: "`true` or `false`", int: "whole number", float: "number"}
    words |= {AwareDatetime: "time", Any: "value", type(None): "null"}
    if get_origin(annotation) is Annotated:
        return type_name(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(annotation))
    if get_origin(annotation) is list:
        return f"list of {type_name(get_args(annotation)[0])}"
    if get_origin(annotation) is dict:
        return f"{type_name(get_args(annotation)[1])} by name"
    parts = get_args(annotation)
    return " or ".join(type_name(part) for part in parts) if parts else words[annotation]


def yaml_scalar(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip()
