"""Read request bodies and write JSON responses, whatever the dialect."""

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import orjson
from fastapi import Request, Response

from rankfleet.api.admission import READING_BYTES, json_bytes, parsing_bytes, reservation_of
from rankfleet.api.dialects.dialect import ParsedRequest, Reply, Route, SharedRoute
from rankfleet.api.headers import RequestHeaders, request_headers
from rankfleet.core.bounds import READ_TIMEOUT_S
from rankfleet.core.errors import InvalidRequest, SlowSender, TooLarge, quote
from rankfleet.engine.text.inline import INLINE_ENCODED, run
from rankfleet.router.tenants import TenantLimits
from rankfleet.router.turns import Turns

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Of the event loop, from the socket to the body: 60 MiB take uvicorn and `read_body` 0.16 s (AMD EPYC). Counted by
# bytes, since others are served between the parts of a body, and what its sender breaks off has been received as well.
RECEIVED_S_PER_BYTE = 2.5e-9


class RequestReader:
    """Reads and parses requests, and keeps their memory reservation at what they take."""

    def __init__(
        self,
        max_body_bytes: int,
        limits: TenantLimits,
        turns: Turns,
        clock: Callable[[], float],
        timeout_s: float = READ_TIMEOUT_S,
        unit_headers: Collection[str] = (),
    ) -> None:
        """limits: of the time for which a tenant may block the router, by bodies that are received and parsed.
        turns: of parsing in threads. clock: seconds of a steady clock.
        timeout_s: in which the whole body has to arrive. unit_headers: those that experiments assign arms by."""
        self._max_body_bytes = max_body_bytes
        self._limits = limits
        self._turns = turns
        self._clock = clock
        self._timeout_s = timeout_s
        self._unit_headers = unit_headers

    async def read(self, request: Request, route: Route[Any, Any] | SharedRoute) -> tuple[Route[Any, Any], Any]:
        """The route, which is told by the body where dialects share a path, and the request, parsed by its dialect.

        Raises InvalidRequest, TooLarge if the reply would be longer than a body may be, RateLimited if the tenant has
        blocked the router for too long, and what `read_body` raises.
        """
        tenant = request.scope["rankfleet.tenant"]
        self._limits.check_blocking(tenant, self._clock())  # megabytes need not arrive to be refused
        body = await self.read_body(request)
        with self._blocking(tenant):
            reservation_of(request).resize(parsing_bytes(body))
            if isinstance(route, SharedRoute):
                route = route.told_by(body)
                request.scope["path"] = route.path  # errors from here on have the form of its dialect
            headers = request_headers(request, route.body.model_fields, self._unit_headers)
            parse = partial(self._parsed, route, body, headers)
            if not route.takes_long(body):
                return route, kept(request, *parse())

        async def in_thread() -> Any:
            with self._blocking(tenant):
                return await run(parse, len(body), INLINE_ENCODED)

        return route, kept(request, *await self._turns.take(tenant, in_thread))

    @contextmanager
    def _blocking(self, tenant: str | None) -> Iterator[None]:
        self._limits.check_blocking(tenant, self._clock())
        with self._limits.blocking(tenant, self._clock):
            yield

    def _parsed(self, route: Route[Any, Any], body: bytes, headers: RequestHeaders) -> tuple[Any, int | None]:
        """What was parsed, and the memory that is kept of it; None where it is no request to rank. Raises TooLarge if
        its reply would be longer than a body may be."""
        parsed = route.parse(body, headers)
        if not isinstance(parsed, ParsedRequest):
            return parsed, None
        if parsed.copies * len(body) > self._max_body_bytes:
            why = f"{parsed.copies} queries would each return the documents, more than the {self._max_body_bytes} bytes"
            raise TooLarge(f"{why} allowed; leave return_documents out, and take them by their index")
        return parsed, max(json_bytes(parsed.kept), (parsed.copies - 1) * len(body))

    async def read_body(self, request: Request) -> bytes:
        """The whole body, without a byte-order mark.

        Raises InvalidRequest for one that is compressed, TooLarge as soon as it is known to be too long, SlowSender
        where it does not arrive in time, and Overloaded where other requests leave no memory for it.
        """
        body, reservation, headers = bytearray(), reservation_of(request), request.headers
        tenant = request.scope["rankfleet.tenant"]
        if (encoding := headers.get("content-encoding", "identity").lower()) != "identity":
            raise InvalidRequest(f"header content-encoding: {quote(encoding)} is not read; send the body as it is")
        if (length := headers.get("content-length", "0")[:20]).isdecimal():
            self._check_length(int(length))
        try:
            async with asyncio.timeout(self._timeout_s):
                async for part in request.stream():
                    body += part
                    self._limits.take_blocking(tenant, RECEIVED_S_PER_BYTE * len(part))
                    self._check_length(len(body))
                    reservation.resize(READING_BYTES * len(body))
        except TimeoutError:
            why = f"the body did not arrive within {self._timeout_s:.0f} s"
            raise SlowSender(f"{why}; split the documents over several requests") from None
        return bytes(body).removeprefix(BYTE_ORDER_MARK)

    def _check_length(self, length: int) -> None:
        if length > self._max_body_bytes:
            allowed = f"the {self._max_body_bytes} bytes allowed"
            raise TooLarge(f"the request body is longer than {allowed}; send fewer documents")


def kept(request: Request, parsed: Any, kept_bytes: int | None) -> Any:
    """What was parsed. From now on the request takes no more memory than is kept of it."""
    reservation = reservation_of(request)
    if kept_bytes is not None:
        reservation.resize(min(kept_bytes, reservation.bytes))
    return parsed


def respond(request: Request, reply: Reply, status: int = 200) -> Response:
    """The response to a request; from now on the request takes no more memory than that."""
    response = json_response(reply.content, status, reply.headers)
    reservation_of(request).resize(len(response.body))
    return response


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, media_type="application/json")
