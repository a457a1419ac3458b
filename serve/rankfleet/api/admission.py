"""Bounds on the requests in progress in one router, and on those of each tenant: how many, and how much memory they
take together."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import Request

from rankfleet.core.bounds import MAX_JSON_VALUES, MAX_REQUESTS
from rankfleet.core.errors import Overloaded, TooLarge
from rankfleet.core.sections import BYTES_PER_BODY_BYTE

RETRY_AFTER_S = 0.5  # about how long a router takes to finish the largest bodies
# Memory that parsing adds, measured at its peak: 34 bytes for each value in an array, 143 for an object with one key,
# and about the same for an array in an array. Commas, colons and brackets inside texts are counted too, so this
# estimates rather too much than too little.
VALUE_BYTES, NESTED_BYTES = 40, 150
READING_BYTES = 2  # for each byte of a body while it arrives: a growing buffer, and once it is whole its copy


def parsing_bytes(body: bytes | bytearray) -> int:
    """The most memory that parsing this JSON body takes: the body, its texts at four bytes a character, and its values,
    of which a few megabytes can hold millions. Raises TooLarge for more than MAX_JSON_VALUES."""
    letters = np.frombuffer(body, dtype=np.uint8)  # several times as fast as bytes.count
    values, *others = (int(np.count_nonzero(letters == ord(letter))) for letter in ",:[{")
    nested = sum(others)
    if nested + values > MAX_JSON_VALUES:
        raise TooLarge(f"the body has more than {MAX_JSON_VALUES} commas, colons and brackets; send fewer documents")
    return BYTES_PER_BODY_BYTE * len(body) + VALUE_BYTES * values + NESTED_BYTES * nested


def json_bytes(value: list[Any]) -> int:
    """Memory that a parsed JSON array takes: of a text one, two or four bytes a character, by the widest of them."""
    taken, left = sys.getsizeof(value), list[Any]([value])
    while left:
        each = left.pop()
        inside = [*each, *each.values()] if isinstance(each, dict) else each
        taken += sum(map(sys.getsizeof, inside))
        left += [other for other in inside if isinstance(other, list | dict)]
    return taken


@dataclass
class Held:
    """What the requests of one tenant hold. share: what they may, as part of all."""

    share: float = 1.0
    requests: int = 0
    bytes: int = 0


class Reservation:
    """The memory that one request has reserved."""

    def __init__(self, admission: "Admission") -> None:
        self._admission = admission
        self.bytes = 0
        self.held = Held()

    def count_for(self, tenant: str, share: float) -> None:
        """Let the request count as this tenant's, whose share this is. Raises Overloaded where the tenant has too many
        in progress."""
        held = self.held = self._admission.tenants.setdefault(tenant, Held())
        held.share = share
        held.requests += 1
        held.bytes += self.bytes
        if held.requests > max(1, share * MAX_REQUESTS):
            raise Overloaded(f"{held.requests - 1} requests of tenant {tenant} are under way; retry", RETRY_AFTER_S)

    def resize(self, to_bytes: int) -> None:
        """Reserve this much instead. Raises TooLarge where it is more than all requests may take together, and
        Overloaded where other requests leave too little, or those of its tenant too little of its share. A tenant may
        always have one."""
        admission = self._admission
        if to_bytes > admission.max_bytes:
            allowed = f"more than {admission.max_bytes}"
            raise TooLarge(f"reading this body takes about {to_bytes} bytes of memory, {allowed}; send fewer documents")
        if to_bytes > self.bytes and admission.reserved_bytes - self.bytes + to_bytes > admission.max_bytes:
            raise Overloaded("the requests under way leave no memory for this one; retry shortly", RETRY_AFTER_S)
        others = self.held.bytes - self.bytes
        if to_bytes > self.bytes and others > 0 and others + to_bytes > self.held.share * admission.max_bytes:
            raise Overloaded("the requests of this tenant leave no memory of its share; retry shortly", RETRY_AFTER_S)
        admission.reserved_bytes += to_bytes - self.bytes
        self.held.bytes += to_bytes - self.bytes
        self.bytes = to_bytes


class Admission:
    """The requests in progress in one router."""

    def __init__(self, max_bytes: int) -> None:
        """max_bytes: of memory that all of them may take together (`limits.max_bytes_in_flight`)."""
        self.max_bytes = max_bytes
        self.reserved_bytes = 0
        self.requests = 0
        self.tenants: dict[str, Held] = {}

    @contextlib.contextmanager
    def enter(self) -> Iterator[Reservation]:
        """Count a request, and free its reservation when it ends."""
        reservation = Reservation(self)
        self.requests += 1
        try:
            yield reservation
        finally:
            self.requests -= 1
            self.reserved_bytes -= reservation.bytes
            reservation.held.bytes -= reservation.bytes
            reservation.held.requests -= 1

    def check(self) -> None:
        """Raises Overloaded where too many requests are in progress."""
        if self.requests > MAX_REQUESTS:
            raise Overloaded(f"{MAX_REQUESTS} requests are under way; retry shortly", RETRY_AFTER_S)


def reservation_of(request: Request) -> Reservation:
    """The request's reservation, which it has until its reply is sent (`api/gate.py`)."""
    reservation: Reservation = request.scope["rankfleet.reservation"]
    return reservation
