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
from rankfleet.estimates.arrivals import Pace, PaceMeter
from rankfleet.replica.batching import Bound, Waiting, bind

T = TypeVar("T")

IDLE: Bound[object] = Bound("", (), (), 0.0, 0.0, 0.0)
Bind = Callable[[list[Waiting[T]], Pace, Routing, int, float, float], "Bound[T]"]
Place = tuple[float, int, int]  # deadline and order of arrival of the request's first chunk, order of arrival


@dataclass(frozen=True, slots=True)
class Taken(Generic[T]):
    """A batch and how it was chosen; hopeless: what was given up since it cannot be in time any more."""

    bound: "Bound[T]"
    batch: list[Waiting[T]]
    hopeless: list[Waiting[T]]


def owed(owed_ms: float, ms: float, patient_ms: float, share: float) -> float:
    """Device time owed to work without a deadline after a batch of `ms` in which it had `patient_ms`, while it
    waited: `share` of all time, of which it has had some. Time that it had beyond that is no debt."""
    return max(0.0, owed_ms + share * ms - patient_ms)


@dataclass
class TokenQueue(Generic[T]):
    """Chunks by deadline, then by order of arrival. max_tokens: most tokens in one batch; bind: the decision."""

    max_tokens: int
    rule: Routing = field(default_factory=Routing)
    bind: Bind[T] = bind
    settings: Scheduling = field(default_factory=Scheduling)
    owed_ms: float = 0.0
    _line: list[Place] = field(default_factory=list)
    _chunks: dict[int, Waiting[T]] = field(default_factory=dict)
    _firsts: dict[Hashable, Place] = field(default_factory=dict)
    _order: "itertools.count[int]" = field(default_factory=itertools.count)
    _least_ms: float = 0.0

    def __post_init__(self) -> None:
        self._meter = PaceMeter(self.rule)

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
        ticket = next(self._order)
        deadline_s, first, _ = self._firsts.get(waiting.request, (waiting.deadline_s, ticket, ticket))
        place = (deadline_s, first, ticket)
        if waiting.request is not None:
            self._firsts.setdefault(waiting.request, place)
        insort(self._line, place)
        self._chunks[ticket] = waiting
        self._least_ms += waiting.least_ms
        return ticket

    @property
    def backlog_ms(self) -> float:
        """Device time of everything that waits, each at its cheapest tier."""
        return max(0.0, self._least_ms) if self._chunks else 0.0

    @property
    def last_start_s(self) -> float:
        """When the first of those that wait becomes hopeless; infinity for never."""
        return min((chunk.last_start_s for chunk in self._chunks.values()), default=float("inf"))

    def cancel(self, ticket: int) -> None:
        """Forget a chunk that nobody waits for any more; nothing happens where it has left already."""
        if ticket in self._chunks:
            self._out([ticket])

    def drop(self, request: Hashable) -> list[Waiting[T]]:
        """Take out all chunks of a request."""
        return self._out([ticket for ticket, chunk in self._chunks.items() if chunk.request == request])

    def expire(self, now_s: float) -> list[Waiting[T]]:
        """Take out what could not be in time even if the device were free, and what belongs to it."""
        return self._lose([ticket for ticket, chunk in self._chunks.items() if chunk.is_hopeless(now_s)])

    def take(self, now_s: float) -> Taken[T]:
        """The next batch, taken out together with what has become hopeless. The batch is empty only if nothing is
        left that can be in time. A chunk above the bound of tokens is taken alone."""
        hopeless: list[Waiting[T]] = []
        while self._chunks:
            if len(self._line) > len(self._chunks):
                self._line = [place for place in self._line if place[2] in self._chunks]
            tickets = [place[2] for place in self._line]
            chunks = [self._chunks[ticket] for ticket in tickets]
            bound = self.bind(chunks, self._meter.pace, self.rule, self.max_tokens, now_s, self.owed_ms)
            lost = self._lose([tickets[i] for i in bound.hopeless])
            hopeless += lost
            if bound.batch and len(lost) == len(bound.hopeless):
                self._settle(bound, chunks)
                return Taken(bound, self._out([tickets[i] for i in bound.batch]), hopeless)
            # Some of the batch may have belonged to a request that has just been lost: decide anew for the others.
        return Taken(IDLE, [], hopeless)  # type: ignore[arg-type]

    def _settle(self, bound: "Bound[T]", chunks: list[Waiting[T]]) -> None:
        """Book what the batch gives to work without a deadline, which stands last in line."""
        if not chunks[-1].is_patient:
            self.owed_ms = 0.0
            return
        batch = [chunks[i] for i in bound.batch]
        part = sum(chunk.tokens for chunk in batch if chunk.is_patient) / max(1, sum(chunk.tokens for chunk in batch))
        self.owed_ms = owed(self.owed_ms, bound.ms, bound.ms * part, self.settings.patient_share)

    def _lose(self, tickets: Iterable[int]) -> list[Waiting[T]]:
        """Take these out, and what belongs to the same requests: a ranking of a part is of no use to anybody."""
        gone = set(tickets)
        if not gone:
            return []
        if self._firsts and (requests := {self._chunks[ticket].request for ticket in gone} - {None}):
            gone.update(ticket for ticket, chunk in self._chunks.items() if chunk.request in requests)
        return self._out(sorted(gone))

    def _out(self, tickets: Iterable[int]) -> list[Waiting[T]]:
        out = [self._chunks.pop(ticket) for ticket in tickets]
        self._least_ms -= sum(chunk.least_ms for chunk in out)
        if not self._chunks:
            self._line.clear()
            self._firsts.clear()
            self._least_ms = 0.0
        elif self._firsts:
            left = {chunk.request for chunk in self._chunks.values()}
            for request in {chunk.request for chunk in out} - left:
                self._firsts.pop(request, None)
        return out
