"""The queue of a replica: chunks by deadline, and a batch whenever the device is free.

`@serve.batch` collects chunks as they come; what the device takes next, and with which tier, is decided by
`scheduling/binding.py` in the moment of taking. Work-conserving: while anything waits that can be in time, `take`
gives a batch.
"""

import itertools
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from rankfleet.core.config import Routing
from rankfleet.scheduling.binding import Bound, Waiting, bind
from rankfleet.scheduling.pace import Pace, PaceMeter

T = TypeVar("T")

IDLE: Bound[object] = Bound("", (), (), 0.0, 0.0, 0.0)
Bind = Callable[[list[Waiting[T]], Pace, Routing, int, float], "Bound[T]"]


@dataclass(frozen=True, slots=True)
class Taken(Generic[T]):
    """A batch and how it was chosen; hopeless: what was given up since it cannot be in time any more."""

    bound: "Bound[T]"
    batch: list[Waiting[T]]
    hopeless: list[Waiting[T]]


@dataclass
class TokenQueue(Generic[T]):
    """Chunks by deadline, then by order of arrival. max_tokens: most tokens in one batch; bind: the decision."""

    max_tokens: int
    rule: Routing = field(default_factory=Routing)
    bind: Bind[T] = bind
    _entries: list[tuple[float, int, Waiting[T]]] = field(default_factory=list)
    _order: "itertools.count[int]" = field(default_factory=itertools.count)
    _least_ms: float = 0.0

    def __post_init__(self) -> None:
        self._meter = PaceMeter(self.rule)

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, waiting: Waiting[T], now_s: float, idle: bool = False) -> None:
        """idle: whether the device is, so that the chunk meets nobody if nothing waits either."""
        self._meter.arrived((waiting.deadline_s - now_s) * 1e3, now_s, idle and not self._entries)
        insort(self._entries, (waiting.deadline_s, next(self._order), waiting))
        self._least_ms += waiting.least_ms

    @property
    def backlog_ms(self) -> float:
        """Device time of everything that waits, each at its cheapest tier."""
        return max(0.0, self._least_ms) if self._entries else 0.0

    def remove(self, gone: Callable[[T], bool]) -> None:
        """Forget chunks that nobody waits for any more."""
        self._entries = [entry for entry in self._entries if not gone(entry[2].item)]
        self._least_ms = sum(chunk.least_ms for _, _, chunk in self._entries)

    def take(self, now_s: float) -> Taken[T]:
        """The next batch, taken out together with what has become hopeless. The batch is empty only if nothing is
        left that can be in time. A chunk above the bound of tokens is taken alone."""
        chunks = [entry[2] for entry in self._entries]
        if not chunks:
            return Taken(IDLE, [], [])  # type: ignore[arg-type]
        bound = self.bind(chunks, self._meter.pace, self.rule, self.max_tokens, now_s)
        batch, hopeless = [chunks[i] for i in bound.batch], [chunks[i] for i in bound.hopeless]
        out = set(bound.batch).union(bound.hopeless)
        if len(out) == len(chunks):
            self._entries.clear()
            self._least_ms = 0.0
        else:
            self._entries = [entry for i, entry in enumerate(self._entries) if i not in out]
            self._least_ms -= sum(chunk.least_ms for chunk in itertools.chain(batch, hopeless))
        return Taken(bound, batch, hopeless)
