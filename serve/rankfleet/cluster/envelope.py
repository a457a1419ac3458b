"""What a router's process shares with the request routers that Serve constructs in it: ledgers and envelopes.

Serve pickles the module of a request router by value, so that all that is defined there exists twice in the process
that loads it. This module is pickled by reference, and exists once.
"""

from typing import Any

from rankfleet.core.messages import Chunk
from rankfleet.router.ledger import Entry, Ledger

LEDGERS: dict[str, Ledger] = {}


def ledger_of(group: str) -> Ledger:
    """The ledger of a group in this process. To be called, since what a function refers to is pickled by value too."""
    return LEDGERS.setdefault(group, Ledger())


class Envelope:
    """A chunk on its way to a replica, with its entry in the ledger. The replica gets the chunk alone."""

    def __init__(self, chunk: Chunk, entry: Entry) -> None:
        self.chunk = chunk
        self.entry = entry

    def __reduce__(self) -> tuple[Any, tuple[Chunk]]:
        return unwrap, (self.chunk,)


def unwrap(chunk: Chunk) -> Chunk:
    return chunk
