"""The keys of a fleet file, listed for documentation."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml

from rankfleet.core.sections import Section


@dataclass(frozen=True)
class Key:
    """One key of the file, for documentation."""

    path: str
    type: str
    default: str
    description: str


def describe_keys(section: type[Section], prefix: str = "") -> Iterator[Key]:
    """Every key below `section`, depth first. In paths NAME stands for a name of the user's choice."""
    for name, field in section.model_fields.items():
        path = prefix + name
        inner = [a for a in (field.annotation, *get_args(field.annotation)) if isinstance(a, type)]
        nested = next((a for a in inner if issubclass(a, Section)), None)
        named = get_origin(field.annotation) is dict
        kind = "section" if nested and not named else "sections by name" if nested else type_name(field.annotation)
        default = "required" if field.is_required() else "" if nested else f"`{yaml_scalar(field.default)}`"
        yield Key(path, kind, default, field.description or "")
        if nested is not None:
            yield from describe_keys(nested, f"{path}.NAME." if named else f"{path}.")


def type_name(annotation: Any) -> str:
    """`str | None` → "text or null"."""
    words = {str: "text", int: "whole number", float: "number", type(None): "null"}
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
