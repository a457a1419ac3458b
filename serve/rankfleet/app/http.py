"""What all routes share: reading bodies and headers, writing JSON."""

from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import Request, Response
from pydantic import BaseModel

from rankfleet.core.errors import InvalidRequest, TooLarge


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


def error_reply(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """For the OpenAPI page: bodies are parsed by us, in one step from bytes, so FastAPI does not see them."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}}


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body. Raises TooLarge as soon as it is known to pass `limit` bytes."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise TooLarge(f"the request body is longer than the {limit} bytes allowed; send fewer documents")
    return bytes(body)


@dataclass(frozen=True)
class Wishes:
    """What headers say, for clients that cannot change the body: `x-rankfleet-slo-ms`, `x-rankfleet-slo-class`, and
    the key of `Authorization: Bearer` or `x-api-key`."""

    slo_ms: float | None = None
    slo_class: str | None = None
    api_key: str | None = None


def wishes(request: Request) -> Wishes:
    """Raises InvalidRequest for a budget that is none."""
    headers = request.headers
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    key = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key")
    return Wishes(header_budget(headers.get("x-rankfleet-slo-ms")), headers.get("x-rankfleet-slo-class"), key)


def header_budget(text: str | None) -> float | None:
    """Milliseconds. Raises InvalidRequest."""
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise InvalidRequest(f"header x-rankfleet-slo-ms: {text!r} is not a positive number of milliseconds")
    return value
