"""How many requests are under way in this router, and how many bytes they take, bounded."""

import contextlib
import sys
from collections.abc import Iterable, Iterator

from rankfleet.core.errors import Overloaded, TooLarge
from rankfleet.core.sections import BYTES_PER_BODY_BYTE

MAX_REQUESTS = 4000  # HAProxy has as many connections
MAX_VALUES = 1_000_000  # of a body's JSON: reading more takes seconds, in which nobody else is answered
AGAIN_S = 0.5  # about what a router takes to be done with the largest bodies
# What parsing adds, measured as peak memory: 34 bytes for each value in an array, 143 for an object with one key, and
# about as much for an array in an array. Commas, colons and brackets in texts count as well: rather too much than too
# little.
VALUE_BYTES, NEST_BYTES = 40, 150


def reading_bytes(body: bytes | bytearray) -> int:
    """The most memory that reading this body takes: itself and its texts at four bytes a character, and the values of
    its JSON, of which a few megabytes may hold millions. Raises TooLarge for more than MAX_VALUES."""
    nested, values = body.count(b"[") + body.count(b"{") + body.count(b":"), body.count(b",")
    if nested + values > MAX_VALUES:
        raise TooLarge(f"the body has more than {MAX_VALUES} commas, colons and brackets; send fewer documents")
    return BYTES_PER_BODY_BYTE * len(body) + VALUE_BYTES * values + NEST_BYTES * nested


def text_bytes(texts: Iterable[str]) -> int:
    """Memory that texts take: one, two or four bytes a character, by the widest in each."""
    return sum(map(sys.getsizeof, texts))


class Hold:
    """What one request has of the bytes in flight."""

    def __init__(self, owner: "BytesInFlight") -> None:
        self._owner = owner
        self.bytes = 0

    def resize(self, to: int) -> None:
        """From now on the request takes so many bytes. Raises TooLarge where no router could ever hold them, Overloaded
        where it is the others that leave no room."""
        owner = self._owner
        if to > owner.max_bytes:
            raise TooLarge(
                f"reading this body takes about {to} bytes of memory, more than {owner.max_bytes}; send fewer documents"
            )
        if to > self.bytes and owner.taken - self.bytes + to > owner.max_bytes:
            raise Overloaded("the requests under way leave no memory for this one; retry shortly", AGAIN_S)
        owner.taken += to - self.bytes
        self.bytes = to


class BytesInFlight:
    """Of all requests of a router together."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.taken = 0
        self.requests = 0

    @contextlib.contextmanager
    def hold(self) -> Iterator[Hold]:
        """For as long as a request is under way."""
        hold = Hold(self)
        self.requests += 1
        try:
            yield hold
        finally:
            self.requests -= 1
            self.taken -= hold.bytes

    def admit(self) -> None:
        """Raises Overloaded where too many are under way."""
        if self.requests > MAX_REQUESTS:
            raise Overloaded(f"{MAX_REQUESTS} requests are under way; retry shortly", AGAIN_S)
