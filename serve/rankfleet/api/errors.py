"""Errors as HTTP responses, in the dialect of the path that was asked for."""

import logging
import math
from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import Any

from fastapi import Request, Response
from starlette.exceptions import HTTPException

from rankfleet.api.dialects.dialect import Dialect
from rankfleet.api.dialects.registry import dialect_of
from rankfleet.api.headers import request_id_of
from rankfleet.api.http import json_response
from rankfleet.api.outcomes import Outcomes
from rankfleet.core.errors import (
    ClientGone,
    MethodNotAllowed,
    Overloaded,
    PathNotFound,
    RankfleetError,
    Unauthorized,
)

log = logging.getLogger("ray.serve")

# What a route that ranks can answer besides 200, for the OpenAPI page.
DESCRIPTIONS = {
    401: "the fleet asks for an API key, and there is none or it is not valid",
    403: "the tenant of the API key may not do this",
    404: "no tier or SLO class of that name, or no index; the fleet keeps no feedback",
    408: "the body did not arrive in time",
    413: "more documents or bytes than the limits",
    422: "a field is missing, unknown or out of range; or not even an idle fleet can do what it asks for",
    429: "too busy now, or the tenant sends more than its rate; `Retry-After` and `retry-after-ms` say when to retry",
    500: "failed inside the fleet; the message says where the log is",
    503: "no replica could answer; too much feedback waits to be written",
    504: "the budget ended before any work was done",
}


class ErrorResponses:
    """Makes a response of any error, counts it, and logs it where it is a fault of the fleet."""

    def __init__(self, outcomes: Outcomes, log_location: str, disconnects: tuple[type[Exception], ...]) -> None:
        """log_location: where people find the log. disconnects: errors which mean that the client disconnected."""
        self._outcomes = outcomes
        self._log_location = log_location
        self._disconnects = disconnects

    def of(self, request: Request, error: Exception) -> Response:
        """The response to an error, which is counted."""
        if isinstance(error, self._disconnects):
            error = ClientGone("the client went away")
        if isinstance(error, RankfleetError) and error.status != 500:
            self._outcomes.refused(error.code)
            return error_response(request, error)
        return error_response(request, self._internal(request, error))

    async def not_routed(self, request: Request, error: HTTPException) -> Response:
        """The response where no route has the path, or it does not take the method."""
        path = request.url.path[:200]
        if error.status_code != 405:
            return error_response(request, PathNotFound(f"there is nothing at {path}; GET / lists what there is"))
        refused = MethodNotAllowed(f"{path} does not take {request.method}; see /docs")
        return error_response(request, refused, error.headers)  # `Allow`

    def _internal(self, request: Request, error: Exception) -> RankfleetError:
        """A fault of the fleet: count it, log it, and say where to look."""
        request_id = request_id_of(request.scope)
        kind, what = RankfleetError, f"this request failed inside the fleet ({type(error).__name__})"
        if expected := isinstance(error, RankfleetError):
            kind, what = type(error), str(error)
        self._outcomes.failed(kind.code, expected)
        log.error("request %s failed: %s", request_id, error, exc_info=error)
        return kind(f"{what}; look for request {request_id} in {self._log_location}")


def error_response(request: Request, error: RankfleetError, headers: Mapping[str, str] | None = None) -> Response:
    """An error in the dialect of the request's path. headers: besides those of the dialect."""
    if isinstance(error, Overloaded):
        # Rounded up: a client that comes back too early is refused again. Some clients prefer milliseconds.
        seconds, milliseconds = math.ceil(error.retry_after_s), math.ceil(error.retry_after_s * 1e3)
        headers = {"Retry-After": str(max(1, seconds)), "retry-after-ms": str(milliseconds)}
    if isinstance(error, Unauthorized):
        headers = {"WWW-Authenticate": "Bearer"}
    dialect = dialect_of(request.scope["path"])
    status = dialect.status_of(error.status)
    return json_response(dialect.error(error, status, request_id_of(request.scope)), status, headers)


def documented_errors(*dialects: Dialect) -> dict[int | str, dict[str, Any]]:
    """The errors of a route on which these dialects may answer, for the OpenAPI page."""
    descriptions: dict[int | str, list[str]] = {}
    for dialect in dialects:
        for status, description in DESCRIPTIONS.items():
            descriptions.setdefault(dialect.status_of(status), []).append(description)
    # FastAPI makes a component of a `model`, which takes long. One per route is enough for the others to refer to.
    types = [*dict.fromkeys(dialect.error_type for dialect in dialects)]
    schema = {"anyOf": [{"$ref": f"#/components/schemas/{kind.__name__}"} for kind in types]}
    errors: dict[int | str, dict[str, Any]] = {
        status: {"description": "; or ".join(dict.fromkeys(each)), "content": {"application/json": {"schema": schema}}}
        for status, each in descriptions.items()
    }
    first = min(errors, key=int)
    errors[first] = {"description": errors[first]["description"], "model": reduce(or_, types)}
    return errors
