"""A timer for the moment at which the next waiting chunk becomes infeasible.

Its sender need not wait until the batch on the device ends to hear that its budget has: it can still answer with the
order as given, or try elsewhere.
"""

import asyncio
import math
from collections.abc import Callable

MARGIN_S = 1e-4  # after the latest start, so that rounding leaves no doubt that it has passed


class ExpiryTimer:
    """Calls `expire` once the earliest latest start that it was given has passed."""

    def __init__(self, expire: Callable[[], None], clock: Callable[[], float]) -> None:
        self._expire = expire
        self._clock = clock
        self._due_s = math.inf
        self._handle: asyncio.TimerHandle | None = None

    def at(self, latest_start_s: float) -> None:
        """Fire after this time, unless the timer fires earlier anyway. Infinity: no need to fire."""
        if latest_start_s >= self._due_s:
            return
        if self._handle is not None:
            self._handle.cancel()
        self._due_s = latest_start_s
        delay_s = max(0.0, latest_start_s - self._clock()) + MARGIN_S
        self._handle = asyncio.get_running_loop().call_later(delay_s, self._fire)

    def _fire(self) -> None:
        self._due_s, self._handle = math.inf, None
        self._expire()
