"""What a router's process shares with the request routers that Serve constructs in it: ledgers, what replicas report to
them, and envelopes.

Serve pickles the module of a request router by value, so that all that is defined there exists twice in the process
that loads it. This module is pickled by reference, and exists once.
"""

from collections.abc import Mapping
from typing import Any

from rankfleet.core.messages import Chunk
from rankfleet.estimates.precision import Precision
from rankfleet.router.ledger import Ledger
from rankfleet.router.replica_record import Entry

LEDGERS: dict[str, Ledger] = {}


def ledger_of(group: str) -> Ledger:
    """The ledger of a group in this process. To be called, since what a function refers to is pickled by value too."""
    return LEDGERS.setdefault(group, Ledger())


def publish(ledger: Ledger, running: frozenset[str], reports: Mapping[str, Mapping[str, Any]]) -> None:
    """Tell a ledger which replicas run, what they host and in which precision, and which cannot follow the fleet file.

    reports: by replica, as `ReplicaGroup.record_routing_stats` gives them; without replicas that have not started.
    """
    ledger.update(
        running,
        {name: frozenset(stats["hosts"]) for name, stats in reports.items()},
        [(stats["settings"], stats["fault"]) for stats in reports.values() if stats["fault"]],
        {name: Precision(**of) for stats in reports.values() for name, of in stats["precisions"].items()},
    )


class Envelope:
    """A chunk on its way to a replica, with its entry in the ledger. The replica gets the chunk alone."""

    def __init__(self, chunk: Chunk, entry: Entry) -> None:
        self.chunk = chunk
        self.entry = entry

    def __reduce__(self) -> tuple[Any, tuple[Chunk]]:
        return unwrap, (self.chunk,)


def unwrap(chunk: Chunk) -> Chunk:
    return chunk
