"""Request headers: budget, SLO class, user, session, request id."""

import re
import uuid
from collections.abc import Collection, Container, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from fastapi import Request

from rankfleet.core.errors import InvalidRequest, quote
from rankfleet.core.sections import check_slo_ms

REQUEST_ID = "x-request-id"
PREFIX = "x-rankfleet-"
SLO_MS, SLO_CLASS = "x-rankfleet-slo-ms", "x-rankfleet-slo-class"
USER, SESSION = "x-rankfleet-user", "x-rankfleet-session"
KNOWN = (SLO_MS, SLO_CLASS, USER, SESSION)
GATEWAY_SLO_MS = "x-slo-ms"  # in the manner of gateways that pass SLOs on in headers
VALID_ID = re.compile(r"[!-~]{1,128}")
NONE: Mapping[str, str] = MappingProxyType({})


class RequestHeaders(NamedTuple):
    """What a request's headers say. They are the same for every dialect, for clients that cannot change the body.

    slo_ms: `x-rankfleet-slo-ms`, else `x-slo-ms`. slo_class: `x-rankfleet-slo-class`. user, session:
    `x-rankfleet-user`, `x-rankfleet-session`. The body takes precedence.
    tenant: whose API key came with the request, as `api/gate.py` found; None if the fleet asks for none.
    units: by name, those that experiments assign arms by.
    """

    slo_ms: float | None = None
    slo_class: str | None = None
    tenant: str | None = None
    request_id: str = ""
    user: str | None = None
    session: str | None = None
    units: Mapping[str, str] = NONE


def request_headers(request: Request, fields: Container[str], units: Collection[str] = ()) -> RequestHeaders:
    """The headers of a request whose body has these fields. units: names of headers that experiments assign arms by.

    Raises InvalidRequest for an impossible budget, for an unknown header that begins with `x-rankfleet-`, for one that
    came twice, and for a field of the body in the query string, which is not read.
    """
    headers = request.headers
    names = headers.keys()
    for name in (*KNOWN, GATEWAY_SLO_MS, *units):
        if names.count(name) > 1:
            raise InvalidRequest(f"header {name} came {names.count(name)} times; send it once")
    for name in names:
        if name.startswith(PREFIX) and name not in KNOWN and name not in units:
            raise InvalidRequest(f"header {quote(name)} is unknown; there are {', '.join(KNOWN)}")
    if request.scope.get("query_string"):
        for name in request.query_params:
            if name in fields:
                raise InvalidRequest(f"{name} is not read from the query string; put it into the body")
    slo_ms = parse_slo_ms(SLO_MS if SLO_MS in headers else GATEWAY_SLO_MS, headers)
    tenant = request.scope["rankfleet.tenant"]
    named = {name: headers[name] for name in units if name in headers} if units else NONE
    ids = headers.get(USER), headers.get(SESSION)
    return RequestHeaders(slo_ms, headers.get(SLO_CLASS), tenant, request_id_of(request.scope), *ids, named)


def parse_slo_ms(name: str, headers: Mapping[str, str]) -> float | None:
    """Milliseconds of the header of that name; None without it. Raises InvalidRequest."""
    text = headers.get(name)
    if text is None:
        return None
    try:
        slo_ms = float(text.replace("_", "?"))  # Python would read 1_000 as 1000
    except ValueError:
        raise InvalidRequest(f"header {name}: {quote(text)} is not a number of milliseconds") from None
    try:
        return check_slo_ms(slo_ms)
    except ValueError as error:
        raise InvalidRequest(f"header {name}: {error}") from None


def request_id_of(scope: Mapping[str, Any]) -> str:
    """The client's `x-request-id` where it is safe to log, else a new id. Later calls return the same."""
    if "rankfleet.request_id" not in scope:
        sent = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), "")
        scope["rankfleet.request_id"] = sent if VALID_ID.fullmatch(sent) else uuid.uuid4().hex  # type: ignore[index]
    return str(scope["rankfleet.request_id"])
