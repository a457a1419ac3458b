"""A timer for the moment at which the next waiting chunk becomes infeasible.

Its sender need not wait until the batch on the device ends to hear that its budget has: it can still answer with the
order as given, or try elsewhere.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Protocol

MARGIN_S = 1e-4  # after the latest start, so that rounding leaves no doubt that it has passed


class TimerHandle(Protocol):
    """What `call_later` returns: `asyncio.TimerHandle`, or a fake."""

    def cancel(self) -> None: ...


CallLater = Callable[[float, Callable[[], None]], TimerHandle]  # seconds from now, and what to call then


class ExpiryTimer:
    """Calls `expire` once the earliest latest start that it was given has passed."""

    def __init__(
        self, expire: Callable[[], None], clock: Callable[[], float], call_later: CallLater | None = None
    ) -> None:
        """call_later: the running loop's if None."""
        self._expire = expire
        self._clock = clock
        self._call_later = call_later
        self._due_s = math.inf
        self._handle: TimerHandle | None = None

    def at(self, latest_start_s: float) -> None:
        """Fire after this time, unless the timer fires earlier anyway. Infinity: no need to fire."""
        if latest_start_s >= self._due_s:
            return
        if self._handle is not None:
            self._handle.cancel()
        call_later = self._call_later or asyncio.get_running_loop().call_later
        self._due_s = latest_start_s
        self._handle = call_later(max(0.0, latest_start_s - self._clock()) + MARGIN_S, self._fire)

    def _fire(self) -> None:
        self._due_s, self._handle = math.inf, None
        self._expire()
