"""Which replica of a group gets a chunk: the one with the least work, as far as the sender knows.

Counted from the moment of choosing, not of sending: chunks of one request are placed in the same instant, and by
counts that are a moment old they would meet on one replica as often as not.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class BacklogReport:
    """What a replica said of its queue with an answer. backlog_s: all that waits; others_s: of which other senders'."""

    at_s: float
    backlog_s: float
    others_s: float = 0.0

    def left(self, now_s: float) -> float:
        """The share of it that is not done yet."""
        return max(0.0, 1.0 - (now_s - self.at_s) / self.backlog_s) if self.backlog_s > 0 else 0.0


@dataclass(slots=True)
class ReplicaInFlight:
    """What one sender has at one replica. ms: predicted device time."""

    chunks: int = 0
    ms: float = 0.0


@dataclass
class InFlight:
    """What one sender has out. Entries of one request at one replica may be closed in any order."""

    _by_replica: dict[str, ReplicaInFlight] = field(default_factory=lambda: defaultdict(ReplicaInFlight))
    _entries: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    _turn: int = 0

    def choose(self, replicas: Sequence[str], others_ms: Sequence[float]) -> int:
        """The place of the replica with the least predicted time out; of those alike, the ones with the fewest chunks
        take turns. others_ms: what each has to do for other senders, as far as is known."""
        sent = [self._by_replica.get(replica, ReplicaInFlight()) for replica in replicas]
        self._turn += 1

        def work(place: int) -> tuple[float, int, int]:
            out = sent[place]
            return out.ms + others_ms[place], out.chunks, (place - self._turn) % len(replicas)

        return min(range(len(replicas)), key=work)

    def add(self, replica: str, request: str, ms: float) -> None:
        """A chunk of a request is going to a replica."""
        self._entries.setdefault((replica, request), []).append(ms)
        out = self._by_replica[replica]
        out.chunks += 1
        out.ms += ms

    def close(self, replica: str, request: str) -> float:
        """It is there no more, whatever became of it. Returns its predicted time; 0 for one that is not known."""
        key = (replica, request)
        entries = self._entries.get(key)
        if not entries:
            return 0.0
        ms = entries.pop()
        if not entries:
            del self._entries[key]
        out = self._by_replica[replica]
        out.chunks -= 1
        out.ms -= ms
        if out.chunks == 0:
            del self._by_replica[replica]
        return ms
