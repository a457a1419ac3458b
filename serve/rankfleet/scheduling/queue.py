"""The queue of a replica: earliest deadline first, in batches bounded by tokens.

`@serve.batch` collects chunks as they come; this queue decides which of them the device takes next. It is
work-conserving: whenever the device is free and something waits, there is a batch. What can no longer be in time
goes behind what still can: first in line it would only make others late as well.
"""

import heapq
import itertools
from collections import deque
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
    _late: "deque[Waiting[T]]" = field(default_factory=deque)
    _order: "itertools.count[int]" = field(default_factory=itertools.count)
    _predicted_ms: float = 0.0

    def __len__(self) -> int:
        return len(self._heap) + len(self._late)

    def put(self, waiting: Waiting[T]) -> None:
        heapq.heappush(self._heap, (waiting.deadline_s, next(self._order), waiting))
        self._predicted_ms += waiting.predicted_ms

    @property
    def backlog_ms(self) -> float:
        """Predicted device time of everything that waits."""
        return max(0.0, self._predicted_ms) if len(self) else 0.0

    def take(self, now_s: float) -> list[Waiting[T]]:
        """The next batch: the most urgent chunk that can still be in time, and behind it others of its tier in
        order of urgency while they fit. Late ones come when no other waits. Empty only if the queue is. A chunk
        above the bound is taken alone."""
        while self._heap and self._heap[0][0] < now_s + self._heap[0][2].predicted_ms / 1e3:
            self._late.append(heapq.heappop(self._heap)[2])
        batch = self._fill() if self._heap else self._fill_late()
        self._predicted_ms -= sum(waiting.predicted_ms for waiting in batch)
        return batch

    def _fill(self) -> list[Waiting[T]]:
        batch: list[Waiting[T]] = []
        passed: list[tuple[float, int, Waiting[T]]] = []
        tokens = 0
        while self._heap and tokens < self.max_tokens:
            entry = heapq.heappop(self._heap)
            if self._joins(entry[2], batch, tokens):
                batch.append(entry[2])
                tokens += entry[2].tokens
            else:
                passed.append(entry)
        for entry in passed:
            heapq.heappush(self._heap, entry)
        return batch

    def _fill_late(self) -> list[Waiting[T]]:
        batch: list[Waiting[T]] = []
        tokens = 0
        while self._late and self._joins(self._late[0], batch, tokens):
            batch.append(self._late.popleft())
            tokens += batch[-1].tokens
        return batch

    def _joins(self, waiting: Waiting[T], batch: list[Waiting[T]], tokens: int) -> bool:
        """Whether a chunk may go into a batch of so many tokens: always the first, else of the same tier and
        within the bound."""
        return not batch or (waiting.tier == batch[0].tier and tokens + waiting.tokens <= self.max_tokens)
