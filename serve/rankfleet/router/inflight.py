"""Which replica of a group gets a chunk: the one with the least predicted work, as far as this router knows.

Work counts from the moment a replica is chosen, not from when the chunk is sent: the chunks of one request are placed
in the same instant, and by older counts they would often meet on one replica.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class BacklogReport:
    """The backlog that a replica reported with an answer. others_s: the part of it that other routers sent."""

    at_s: float
    backlog_s: float
    others_s: float = 0.0

    def left(self, now_s: float) -> float:
        """The share of it that is not done yet, 0 to 1."""
        return max(0.0, 1.0 - (now_s - self.at_s) / self.backlog_s) if self.backlog_s > 0 else 0.0


@dataclass(slots=True)
class ReplicaInFlight:
    """What this router has in flight at one replica. ms: predicted device time."""

    chunks: int = 0
    ms: float = 0.0


@dataclass
class InFlight:
    """What this router has in flight, by replica. The chunks of one request at one replica may end in any order."""

    _by_replica: dict[str, ReplicaInFlight] = field(default_factory=lambda: defaultdict(ReplicaInFlight))
    _entries: dict[tuple[str, str], list[float]] = field(default_factory=dict)  # (replica, request) → predicted ms
    _turn: int = 0

    def choose(self, replicas: Sequence[str], others_ms: Sequence[float]) -> int:
        """The place of the replica with the least predicted time in flight; if several are equal, of those with the
        fewest chunks the next in turn.

        others_ms: for each replica, the predicted time of other routers' work.
        """
        at = [self._by_replica.get(replica, ReplicaInFlight()) for replica in replicas]
        self._turn += 1

        def work(place: int) -> tuple[float, int, int]:
            return at[place].ms + others_ms[place], at[place].chunks, (place - self._turn) % len(replicas)

        return min(range(len(replicas)), key=work)

    def add(self, replica: str, request: str, ms: float) -> None:
        """A chunk of a request goes to a replica."""
        self._entries.setdefault((replica, request), []).append(ms)
        at = self._by_replica[replica]
        at.chunks += 1
        at.ms += ms

    def close(self, replica: str, request: str) -> float:
        """A chunk is no longer there, whatever became of it. Returns its predicted time in ms, 0 if it is not known."""
        key = (replica, request)
        entries = self._entries.get(key)
        if not entries:
            return 0.0
        ms = entries.pop()
        if not entries:
            del self._entries[key]
        at = self._by_replica[replica]
        at.chunks -= 1
        at.ms -= ms
        if at.chunks == 0:
            del self._by_replica[replica]
        return ms
