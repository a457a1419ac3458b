"""The queue of a replica: earliest deadline first, in batches bounded by tokens.

`@serve.batch` collects chunks as they come; this queue decides which of them the device takes next. It is
work-conserving: whenever the device is free and something waits, there is a batch.
"""

import heapq
import itertools
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Waiting(Generic[T]):
    """One chunk in the queue. deadline_s: infinity for none; predicted_ms: its device time by the latency
    model; item: what the caller wants back."""

    tier: str
    tokens: int
    deadline_s: float
    predicted_ms: float
    item: T


@dataclass
class TokenQueue(Generic[T]):
    """Chunks by deadline, then by order of arrival. max_tokens: most tokens in one batch."""

    max_tokens: int
    _heap: list[tuple[float, int, Waiting[T]]] = field(default_factory=list)
    _order: "itertools.count[int]" = field(default_factory=itertools.count)

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, waiting: Waiting[T]) -> None:
        heapq.heappush(self._heap, (waiting.deadline_s, next(self._order), waiting))

    @property
    def backlog_ms(self) -> float:
        """Predicted device time of everything that waits."""
        return sum(waiting.predicted_ms for _, _, waiting in self._heap)

    def take(self) -> list[Waiting[T]]:
        """The next batch: the most urgent chunk, and behind it others of its tier in order of urgency while
        they fit. Empty only if the queue is. A chunk above the bound is taken alone."""
        batch: list[Waiting[T]] = []
        kept: list[tuple[float, int, Waiting[T]]] = []
        tokens = 0
        while self._heap and tokens < self.max_tokens:
            entry = heapq.heappop(self._heap)
            waiting = entry[2]
            if batch and (waiting.tier != batch[0].tier or tokens + waiting.tokens > self.max_tokens):
                kept.append(entry)
                continue
            batch.append(waiting)
            tokens += waiting.tokens
        for entry in kept:
            heapq.heappush(self._heap, entry)
        return batch
