"""Request bodies in JSON, parsed strictly."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rankfleet.core.errors import InvalidRequest, quote
from rankfleet.core.fleet_file import explain

MAX_ERRORS = 5  # of a body that a message lists
# Lists whose first fault is the last: to describe those of a million values takes seconds.
Strings = Annotated[list[str], Field(fail_fast=True)]
Numbers = Annotated[list[float], Field(fail_fast=True)]


class JsonBody(BaseModel):
    """A request body. Types are not converted, `null` means the default, and an unknown field is an error: the client
    expects it to have an effect.

    unsupported: fields that the format has and that have no effect here yet, with the values that are the same as
        leaving them out. With any other value they are errors, too.
    """

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    # Unknown fields are kept while parsing, so that `parse` can accept null and suggest the nearest known name.
    model_config = ConfigDict(strict=True, extra="allow", json_schema_extra={"additionalProperties": False})

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Parse a whole body, in one step from bytes. Raises InvalidRequest, which names the field that is wrong."""
        try:
            parsed = cls.model_validate_json(body)
        except ValidationError as error:
            message = explain(error, "request body", max_lines=MAX_ERRORS)
            raise InvalidRequest(f"{message}\nsee /docs for the format") from None
        extra = {name: value for name, value in (parsed.model_extra or {}).items() if value is not None}
        if wrong := [name for name, value in extra.items() if value not in cls.unsupported.get(name, ())]:
            raise InvalidRequest("\n".join(map(cls._why_refused, wrong[:MAX_ERRORS])))
        return parsed

    @classmethod
    def _why_refused(cls, name: str) -> str:
        if name not in cls.unsupported:
            return unknown_field(name, [*cls.model_fields, *cls.unsupported])
        allowed = "".join(f", or send {value!r}" for value in cls.unsupported[name][:1])
        return f"request body: {quote(name)} is not supported yet; leave it out{allowed}"


def unknown_field(name: str, known: Sequence[str]) -> str:
    """An error message with the nearest known name, or all of them."""
    near = difflib.get_close_matches(name[:80], known, 1, 0.5)
    suggestion = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    return f"request body: {quote(name)} is unknown; {suggestion}"
