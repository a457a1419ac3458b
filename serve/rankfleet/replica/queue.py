"""The queue of a replica: which chunks wait, in which order, and which leave it.

What leaves next is decided by `replica/batching.py` at the moment of `take`. The rules of the queue itself, each held
by a test:

- Work-conserving: while a feasible chunk waits, `take` returns a batch.
- Earliest deadline first, then order of arrival. Best-effort chunks (no deadline) come last; while they wait they
  accrue a share of the device's time as a deficit (`next_deficit_ms`), so that no load starves them.
- What is above its tenant's share is best-effort as well, but keeps its deadline, and comes behind all else.
- An infeasible chunk leaves as soon as its latest start has passed, also while the device is busy (`expire`), and a
  cancelled one at once (`cancel`). Neither costs device time.
- The chunks of one request are adjacent, at the place of the first. If one of them is lost, all are.
"""

import itertools
import math
from bisect import bisect_left, insort
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from rankfleet.core.sections import Routing, Scheduling
from rankfleet.estimates.arrivals import ArrivalMeter, ArrivalStats
from rankfleet.replica.batching import BatchDecision, QueuedChunk, select_batch

T = TypeVar("T")

NOTHING_WAITS: BatchDecision = BatchDecision(None, (), ())
SelectBatch = Callable[[list[QueuedChunk[T]], ArrivalStats, Routing, int, float, float], BatchDecision]
# Whether it is above a share, deadline and first entry id of the request's first chunk, entry id of the chunk.
SortKey = tuple[bool, float, int, int]


@dataclass(frozen=True, slots=True)
class Taken(Generic[T]):
    """A batch that has left the queue, and the infeasible chunks that left with it.

    decision: how the batch was chosen. Its indices mean nothing any more.
    """

    decision: BatchDecision
    batch: list[QueuedChunk[T]]
    infeasible: list[QueuedChunk[T]]


def next_deficit_ms(deficit_ms: float, batch_ms: float, best_effort_ms: float, share: float) -> float:
    """The deficit of best-effort work after a batch: max(0, deficit + share · batch − best effort).

    batch_ms: time of the batch
    best_effort_ms: the part of it that best-effort chunks received
    share: of the device's time that they accrue while any of them waits

    Not below 0: time that they received beyond their share, because nothing else waited, does not count against them.
    """
    return max(0.0, deficit_ms + share * batch_ms - best_effort_ms)


@dataclass
class TokenQueue(Generic[T]):
    """Waiting chunks.

    max_tokens: of one batch
    select_batch: the decision; the simulator compares others
    deficit_ms: device time that best-effort work has accrued and not received
    """

    max_tokens: int
    routing: Routing = field(default_factory=Routing)
    select_batch: SelectBatch[T] = select_batch
    scheduling: Scheduling = field(default_factory=Scheduling)
    deficit_ms: float = 0.0
    _sorted: list[SortKey] = field(default_factory=list)  # may hold keys of chunks that have left
    _chunks: dict[int, QueuedChunk[T]] = field(default_factory=dict)  # entry id → chunk, in order of arrival
    _first_keys: dict[Hashable, SortKey] = field(default_factory=dict)  # request → key of its first chunk
    _entry_ids: "itertools.count[int]" = field(default_factory=itertools.count)
    _min_ms: float = 0.0

    def __post_init__(self) -> None:
        self._arrivals = ArrivalMeter(self.routing)

    def adjust(self, max_tokens: int, routing: Routing, scheduling: Scheduling) -> None:
        """Change the settings. They apply to the chunks that wait, too."""
        self.max_tokens, self.routing, self.scheduling = max_tokens, routing, scheduling
        self._arrivals.routing = routing

    def bound_typical_budget(self, default_slo_ms: float) -> None:
        """No more than the budget of the default SLO class is typical (`ArrivalMeter`)."""
        self._arrivals.default_slo_ms = default_slo_ms

    def __len__(self) -> int:
        return len(self._chunks)

    def __iter__(self) -> Iterator[QueuedChunk[T]]:
        """The waiting chunks, in order of arrival."""
        return iter(self._chunks.values())

    @property
    def backlog_ms(self) -> float:
        """Device time of all waiting chunks, each at its cheapest tier."""
        return max(0.0, self._min_ms) if self._chunks else 0.0

    def ahead_ms(self, deadlines_s: Iterable[float]) -> list[float]:
        """Device time of the waiting chunks that are within a share and due by each of these deadlines, each at its
        cheapest tier. For infinity, of those that have a deadline."""
        waiting = (self._chunks.get(entry_id) for *_, entry_id in self._sorted)
        before_ms = [0.0, *itertools.accumulate(0.0 if chunk is None else chunk.min_ms for chunk in waiting)]
        # A shorter key sorts before a longer one that begins alike, and so before all that have no deadline.
        places = ((False, at_s, math.inf) if at_s < math.inf else (False, at_s) for at_s in deadlines_s)
        return [before_ms[bisect_left(self._sorted, place)] for place in places]

    @property
    def latest_start_s(self) -> float:
        """When the next waiting chunk becomes infeasible; infinity if none ever does."""
        return min((chunk.latest_start_s for chunk in self._chunks.values()), default=math.inf)

    def put(self, chunk: QueuedChunk[T], now_s: float, device_idle: bool = False) -> int:
        """Add a chunk and return its entry id, for `cancel`."""
        found_idle = device_idle and not self._chunks
        if not chunk.over_share and chunk.request not in self._first_keys:  # a request counts once
            self._arrivals.arrived((chunk.deadline_s - now_s) * 1e3, now_s, chunk.tokens, found_idle, chunk.tenant)
        return self._insert(chunk)

    def put_back(self, rest: QueuedChunk[T], first_entry_id: int) -> int:
        """Add what is left of a chunk of which a part has been taken, at the place that the whole had, and return its
        entry id. first_entry_id: that of the whole."""
        return self._insert(rest, first_entry_id)

    def _insert(self, chunk: QueuedChunk[T], place: int | None = None) -> int:
        entry_id = next(self._entry_ids)
        own = (chunk.over_share, chunk.deadline_s, entry_id if place is None else place, entry_id)
        key = (*self._first_keys.get(chunk.request, own)[:3], entry_id)
        if chunk.request is not None:
            self._first_keys.setdefault(chunk.request, key)
        insort(self._sorted, key)
        self._chunks[entry_id] = chunk
        self._min_ms += chunk.min_ms
        return entry_id

    def take(self, now_s: float) -> Taken[T]:
        """Remove and return the next batch, and the chunks that are infeasible by now.

        The batch is empty only if no feasible chunk is left.
        """
        infeasible: list[QueuedChunk[T]] = []
        while self._chunks:
            if len(self._sorted) > len(self._chunks):
                self._sorted = [key for key in self._sorted if key[3] in self._chunks]
            entry_ids = [key[3] for key in self._sorted]
            waiting = [self._chunks[entry_id] for entry_id in entry_ids]
            decision = self.select_batch(
                waiting, self._arrivals.at(now_s), self.routing, self.max_tokens, now_s, self.deficit_ms
            )
            lost = self._remove_with_siblings([entry_ids[i] for i in decision.infeasible])
            infeasible += lost
            if decision.batch and len(lost) == len(decision.infeasible):
                self._account(decision, waiting)
                return Taken(decision, self._remove([entry_ids[i] for i in decision.batch]), infeasible)
            # A sibling of a lost chunk may be in the batch: decide anew for the chunks that are left.
        return Taken(NOTHING_WAITS, [], infeasible)

    def expire(self, now_s: float) -> list[QueuedChunk[T]]:
        """Remove and return the chunks that would be late even if the device were free, and their siblings."""
        expired = [entry_id for entry_id, chunk in self._chunks.items() if chunk.is_infeasible(now_s)]
        return self._remove_with_siblings(expired)

    def cancel(self, entry_id: int) -> None:
        """Remove a chunk whose client has gone. Does nothing if it has left already."""
        if entry_id in self._chunks:
            self._remove([entry_id])

    def remove_request(self, request: Hashable) -> list[QueuedChunk[T]]:
        """Remove and return all chunks of a request."""
        return self._remove([entry_id for entry_id, chunk in self._chunks.items() if chunk.request == request])

    def _account(self, decision: BatchDecision, waiting: list[QueuedChunk[T]]) -> None:
        """Update the deficit of best-effort work, which is last in `waiting`, by a batch that is taken."""
        if not waiting[-1].is_best_effort:
            self.deficit_ms = 0.0
            return
        batch = [waiting[i] for i in decision.batch]
        best_effort_tokens = sum(chunk.tokens for chunk in batch if chunk.is_best_effort)
        share_of_batch = best_effort_tokens / max(1, sum(chunk.tokens for chunk in batch))
        self.deficit_ms = next_deficit_ms(
            self.deficit_ms,
            decision.predicted_ms,
            decision.predicted_ms * share_of_batch,
            self.scheduling.best_effort_share,
        )

    def _remove_with_siblings(self, entry_ids: Iterable[int]) -> list[QueuedChunk[T]]:
        """Remove chunks and all others of their requests: a ranking of a part of a request is of no use."""
        removed = set(entry_ids)
        if not removed:
            return []
        if self._first_keys and (requests := {self._chunks[entry_id].request for entry_id in removed} - {None}):
            removed.update(entry_id for entry_id, chunk in self._chunks.items() if chunk.request in requests)
        return self._remove(sorted(removed))

    def _remove(self, entry_ids: Iterable[int]) -> list[QueuedChunk[T]]:
        """Remove and return chunks. Their keys in `_sorted` go with the next `take`."""
        removed = [self._chunks.pop(entry_id) for entry_id in entry_ids]
        self._min_ms -= sum(chunk.min_ms for chunk in removed)
        if not self._chunks:
            self._sorted.clear()
            self._first_keys.clear()
            self._min_ms = 0.0
        elif self._first_keys:
            left = {chunk.request for chunk in self._chunks.values()}
            for request in {chunk.request for chunk in removed} - left:
                self._first_keys.pop(request, None)
        return removed
