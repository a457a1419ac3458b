"""The queue of a replica: chunks by deadline, and a batch whenever the device is free.

`@serve.batch` collects chunks as they come; what the device takes next, and with which tier, is decided by
`replica/batching.py` in the moment of taking. The rules, each held by a test:

- Work-conserving: while anything waits that can be in time, `take` gives a batch.
- Earliest deadline first. Work without a deadline waits behind, but while it waits a share of the device's time is
  owed to it (`owed`), so that it starves under no load.
- What cannot be in time any more leaves as soon as that is certain, also while the device is busy (`expire`), and
  what nobody waits for leaves at once (`cancel`). Neither costs device time.
- Chunks of one request stand side by side at the place of the first, and when one of them is lost all are.
"""

import itertools
from bisect import insort
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from rankfleet.core.sections import Routing, Scheduling
from rankfleet.estimates.arrivals import ArrivalMeter, ArrivalStats
from rankfleet.replica.batching import BatchDecision, Waiting, select_batch

T = TypeVar("T")

NOTHING_TO_DO: BatchDecision[object] = BatchDecision("", (), (), 0.0, 0.0, 0.0)
SelectBatch = Callable[[list[Waiting[T]], ArrivalStats, Routing, int, float, float], "BatchDecision[T]"]
Place = tuple[float, int, int]  # deadline and order of arrival of the request's first chunk, order of arrival


@dataclass(frozen=True, slots=True)
class Taken(Generic[T]):
    """A batch and how it was chosen; hopeless: what was given up since it cannot be in time any more."""

    bound: "BatchDecision[T]"
    batch: list[Waiting[T]]
    infeasible: list[Waiting[T]]


def owed(deficit_ms: float, ms: float, best_effort_ms: float, share: float) -> float:
    """Device time owed to work without a deadline after a batch of `ms` in which it had `best_effort_ms`, while it
    waited: `share` of all time, of which it has had some. Time that it had beyond that is no debt."""
    return max(0.0, deficit_ms + share * ms - best_effort_ms)


@dataclass
class TokenQueue(Generic[T]):
    """Chunks by deadline, then by order of arrival. max_tokens: limit of one batch; select_batch: the decision."""

    max_tokens: int
    rule: Routing = field(default_factory=Routing)
    select_batch: SelectBatch[T] = select_batch
    settings: Scheduling = field(default_factory=Scheduling)
    deficit_ms: float = 0.0
    _line: list[Place] = field(default_factory=list)
    _chunks: dict[int, Waiting[T]] = field(default_factory=dict)
    _firsts: dict[Hashable, Place] = field(default_factory=dict)
    _order: "itertools.count[int]" = field(default_factory=itertools.count)
    _min_ms: float = 0.0

    def __post_init__(self) -> None:
        self._meter = ArrivalMeter(self.rule)

    def adjust(self, max_tokens: int, rule: Routing, settings: Scheduling) -> None:
        """Go on by other settings; what waits is decided by them too."""
        self.max_tokens, self.rule, self.settings = max_tokens, rule, settings
        self._meter.rule = rule

    def __len__(self) -> int:
        return len(self._chunks)

    def __iter__(self) -> Iterator[Waiting[T]]:
        """What waits, in order of arrival."""
        return iter(self._chunks.values())

    def put(self, waiting: Waiting[T], now_s: float, idle: bool = False) -> int:
        """Queue a chunk. Returns a ticket for `cancel`. idle: whether the device is, so that the chunk meets nobody
        if nothing waits either."""
        self._meter.arrived((waiting.deadline_s - now_s) * 1e3, now_s, idle and not self._chunks)
        entry_id = next(self._order)
        deadline_s, first, _ = self._firsts.get(waiting.request, (waiting.deadline_s, entry_id, entry_id))
        place = (deadline_s, first, entry_id)
        if waiting.request is not None:
            self._firsts.setdefault(waiting.request, place)
        insort(self._line, place)
        self._chunks[entry_id] = waiting
        self._min_ms += waiting.min_ms
        return entry_id

    @property
    def backlog_ms(self) -> float:
        """Device time of everything that waits, each at its cheapest tier."""
        return max(0.0, self._min_ms) if self._chunks else 0.0

    @property
    def last_start_s(self) -> float:
        """When the first of those that wait becomes hopeless; infinity for never."""
        return min((chunk.last_start_s for chunk in self._chunks.values()), default=float("inf"))

    def cancel(self, entry_id: int) -> None:
        """Forget a chunk that nobody waits for any more; nothing happens where it has left already."""
        if entry_id in self._chunks:
            self._out([entry_id])

    def drop(self, request: Hashable) -> list[Waiting[T]]:
        """Take out all chunks of a request."""
        return self._out([entry_id for entry_id, chunk in self._chunks.items() if chunk.request == request])

    def expire(self, now_s: float) -> list[Waiting[T]]:
        """Take out what could not be in time even if the device were free, and what belongs to it."""
        return self._lose([entry_id for entry_id, chunk in self._chunks.items() if chunk.is_infeasible(now_s)])

    def take(self, now_s: float) -> Taken[T]:
        """The next batch, taken out together with what has become hopeless. The batch is empty only if nothing is
        left that can be in time. A chunk above the bound of tokens is taken alone."""
        infeasible: list[Waiting[T]] = []
        while self._chunks:
            if len(self._line) > len(self._chunks):
                self._line = [place for place in self._line if place[2] in self._chunks]
            entry_ids = [place[2] for place in self._line]
            chunks = [self._chunks[entry_id] for entry_id in entry_ids]
            bound = self.select_batch(chunks, self._meter.arrivals, self.rule, self.max_tokens, now_s, self.deficit_ms)
            lost = self._lose([entry_ids[i] for i in bound.infeasible])
            infeasible += lost
            if bound.batch and len(lost) == len(bound.infeasible):
                self._settle(bound, chunks)
                return Taken(bound, self._out([entry_ids[i] for i in bound.batch]), infeasible)
            # Some of the batch may have belonged to a request that has just been lost: decide anew for the others.
        return Taken(NOTHING_TO_DO, [], infeasible)  # type: ignore[arg-type]

    def _settle(self, bound: "BatchDecision[T]", chunks: list[Waiting[T]]) -> None:
        """Book what the batch gives to work without a deadline, which stands last in line."""
        if not chunks[-1].is_best_effort:
            self.deficit_ms = 0.0
            return
        batch = [chunks[i] for i in bound.batch]
        part = sum(chunk.tokens for chunk in batch if chunk.is_best_effort) / max(
            1, sum(chunk.tokens for chunk in batch)
        )
        self.deficit_ms = owed(self.deficit_ms, bound.ms, bound.ms * part, self.settings.best_effort_share)

    def _lose(self, entry_ids: Iterable[int]) -> list[Waiting[T]]:
        """Take these out, and what belongs to the same requests: a ranking of a part is of no use to anybody."""
        gone = set(entry_ids)
        if not gone:
            return []
        if self._firsts and (requests := {self._chunks[entry_id].request for entry_id in gone} - {None}):
            gone.update(entry_id for entry_id, chunk in self._chunks.items() if chunk.request in requests)
        return self._out(sorted(gone))

    def _out(self, entry_ids: Iterable[int]) -> list[Waiting[T]]:
        out = [self._chunks.pop(entry_id) for entry_id in entry_ids]
        self._min_ms -= sum(chunk.min_ms for chunk in out)
        if not self._chunks:
            self._line.clear()
            self._firsts.clear()
            self._min_ms = 0.0
        elif self._firsts:
            left = {chunk.request for chunk in self._chunks.values()}
            for request in {chunk.request for chunk in out} - left:
                self._firsts.pop(request, None)
        return out
