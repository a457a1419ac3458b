"""Which replica of a group gets a chunk: the one with the least work, as far as the sender knows.

Counted from the moment of choosing, not of sending: chunks of one request are placed in the same instant, and by
counts that are a moment old they would meet on one replica as often as not.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Out:
    """What one sender has at one replica. ms: predicted device time."""

    chunks: int = 0
    ms: float = 0.0


@dataclass
class Books:
    """What one sender has out. Entries of one request at one replica may be closed in any order."""

    _by_replica: dict[str, Out] = field(default_factory=lambda: defaultdict(Out))
    _entries: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    _turn: int = 0

    def choose(self, replicas: Sequence[str], ongoing: Sequence[int | None]) -> int:
        """The place of the replica with the least predicted time out; of those alike, the ones take turns.

        ongoing: chunks at each replica, whoever sent them, as it last said (None: not known). Those of other senders
        are taken to be as long as the mean of one's own.
        """
        sent = [self._by_replica.get(replica, Out()) for replica in replicas]
        chunks = sum(out.chunks for out in sent)
        mean_ms = sum(out.ms for out in sent) / chunks if chunks else 0.0
        self._turn += 1

        def work(place: int) -> tuple[float, int, int]:
            others = max(0, (ongoing[place] or 0) - sent[place].chunks)
            total = sent[place].chunks + others
            return sent[place].ms + others * mean_ms, total, (place - self._turn) % len(replicas)

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
