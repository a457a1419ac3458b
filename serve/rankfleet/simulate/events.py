"""The virtual clock of a simulation: events in order of time."""

import heapq
import itertools
from collections.abc import Callable


class EventQueue:
    """Calls to make at certain times. Events at the same time run in the order in which they were added."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = itertools.count()

    def at(self, time_s: float, act: Callable[[float], None]) -> None:
        """Call `act(time_s)` at this time."""
        heapq.heappush(self._heap, (time_s, next(self._numbers), act))

    def run_until(self, time_s: float) -> None:
        """Run all events up to and including this time, and those that they add."""
        while self._heap and self._heap[0][0] <= time_s:
            event_s, _, act = heapq.heappop(self._heap)
            act(event_s)
