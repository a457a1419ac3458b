"""What all routes share: reading bodies and headers, writing JSON."""

import asyncio
import contextlib
import json
import math
import re
import uuid
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import Request, Response

from rankfleet.api.bytes_in_flight import Hold, reading_bytes
from rankfleet.core.errors import InvalidRequest, Overloaded, RankfleetError, SlowSender, TooLarge, quote
from rankfleet.core.sections import BYTES_PER_BODY_BYTE, check_slo_ms

READ_S = 30.0  # for a whole body; HAProxy waits as long for what fits into its buffer (`cluster/environment.py`)
BOM = b"\xef\xbb\xbf"
REQUEST_ID = "x-request-id"
SLO_MS, SLO_CLASS = "x-rankfleet-slo-ms", "x-rankfleet-slo-class"
VISIBLE = re.compile(r"[!-~]{1,128}")


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    try:
        body = orjson.dumps(content)
    except TypeError:  # whole numbers beyond 64 bits, which documents may hold
        body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(body, status, headers, media_type="application/json")


def error_response(error: RankfleetError, request_id: str) -> Response:
    headers = {}
    if isinstance(error, Overloaded):
        # Rounded up: who comes back sooner is refused again. Some clients read milliseconds, which say more.
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
        headers["retry-after-ms"] = str(math.ceil(error.retry_after_s * 1e3))
    return json_response(error_reply(error.code, str(error), request_id), error.status, headers)


def error_reply(code: str, message: str, request_id: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "request_id": request_id}}


def hold_of(request: Request) -> Hold:
    """What the request has of the bytes in flight, from its first byte until the reply is sent (`api/app.py`)."""
    hold = request.scope["rankfleet.hold"]
    assert isinstance(hold, Hold)
    return hold


async def read_body(request: Request, limit: int, timeout_s: float) -> bytes:
    """The whole body, without a byte-order mark. Raises TooLarge as soon as it is known to pass `limit` bytes,
    SlowSender where it does not come in time, and Overloaded where others leave no memory for it."""
    body, hold = bytearray(), hold_of(request)
    with contextlib.suppress(ValueError):
        if int(request.headers.get("content-length", "0")) > limit:
            raise too_long(limit)
    try:
        async with asyncio.timeout(timeout_s):
            async for part in request.stream():
                body += part
                if len(body) > limit:
                    raise too_long(limit)
                hold.resize(BYTES_PER_BODY_BYTE * len(body))
    except TimeoutError:
        why = f"the body did not come within {timeout_s:.0f} s"
        raise SlowSender(f"{why}; split the documents over several requests") from None
    hold.resize(reading_bytes(body))
    return bytes(body).removeprefix(BOM)


def too_long(limit: int) -> TooLarge:
    return TooLarge(f"the request body is longer than the {limit} bytes allowed; send fewer documents")


@dataclass(frozen=True)
class RequestHeaders:
    """What headers say, for clients that cannot change the body: `x-rankfleet-slo-ms`, `x-rankfleet-slo-class`, and
    the key of `Authorization: Bearer`, `x-api-key` or `api-key`."""

    slo_ms: float | None = None
    slo_class: str | None = None
    api_key: str | None = None
    request_id: str = ""


def request_headers(request: Request, fields: Container[str]) -> RequestHeaders:
    """fields: of the body. Raises InvalidRequest for a budget that cannot be, a header of ours that is unknown, and for
    a field in the query string, where nothing is read."""
    headers = request.headers
    for name in headers:
        if name.startswith("x-rankfleet-") and name not in (SLO_MS, SLO_CLASS):
            raise InvalidRequest(f"header {quote(name)} is unknown; there are {SLO_MS} and {SLO_CLASS}")
    if request.scope.get("query_string"):
        for name in request.query_params:
            if name in fields:
                raise InvalidRequest(f"{name} is not read from the query string; put it into the body")
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    key = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", headers.get("api-key"))
    return RequestHeaders(header_budget(headers.get(SLO_MS)), headers.get(SLO_CLASS), key, request_id_of(request.scope))


def header_budget(text: str | None) -> float | None:
    """Milliseconds. Raises InvalidRequest."""
    if text is None:
        return None
    try:
        slo_ms = float(text.replace("_", "?"))  # which Python takes for a separator
    except ValueError:
        raise InvalidRequest(f"header {SLO_MS}: {quote(text)} is not a number of milliseconds") from None
    try:
        return check_slo_ms(slo_ms)
    except ValueError as error:
        raise InvalidRequest(f"header {SLO_MS}: {error}") from None


def request_id_of(scope: Mapping[str, Any]) -> str:
    """The client's own `x-request-id` where it can stand in a log, else a new one. The same at each call."""
    if "rankfleet.request_id" not in scope:
        given = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), "")
        scope["rankfleet.request_id"] = given if VISIBLE.fullmatch(given) else uuid.uuid4().hex  # type: ignore[index]
    return str(scope["rankfleet.request_id"])
