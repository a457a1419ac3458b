"""An asyncio event loop on a virtual clock: whoever waits for a time gets it at once, in order of time.

The simulator runs the coroutines that serve traffic on it, with all their timers, and an hour takes seconds. The same
calls in the same order give the same result. Nothing outside the process can be waited for: no threads, no sockets.
"""

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, TypeVar

T = TypeVar("T")


class Timer:
    """A call at some time. `cancel` keeps it from being made."""

    __slots__ = ("args", "callback", "context", "is_cancelled", "when_s")

    def __init__(self, when_s: float, callback: Callable[..., object], args: tuple[Any, ...], context: Context) -> None:
        self.when_s, self.callback, self.args, self.context = when_s, callback, args, context
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def cancelled(self) -> bool:
        return self.is_cancelled

    def when(self) -> float:
        """When it is due, by the loop's clock."""
        return self.when_s


class VirtualLoop(asyncio.AbstractEventLoop):
    """Runs what is ready, and then sets its clock to the next timer. Begins at 0 s."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._ready: deque[Timer] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._running = False
        self.faults: list[dict[str, Any]] = []  # errors that nobody waited for

    def time(self) -> float:
        """Seconds of virtual time."""
        return self._now_s

    def run_until_complete(self, future: Coroutine[Any, Any, T]) -> T:  # type: ignore[override]
        """Run until this coroutine ends. Raises what it raises; RuntimeError if it waits for something that no timer
        brings about, or if a task nobody waited for has failed."""
        task = self.create_task(future)
        self._running = True
        asyncio._set_running_loop(self)
        try:
            while not task.done():
                if not self._ready:
                    self._advance()
                handle = self._ready.popleft()
                if not handle.is_cancelled:
                    handle.context.run(handle.callback, *handle.args)
        finally:
            asyncio._set_running_loop(None)
            self._running = False
        if self.faults:
            raise RuntimeError(f"a task failed: {self.faults[0]}") from self.faults[0].get("exception")
        return task.result()

    def stall(self, seconds: float) -> None:
        """Let time pass in which nothing runs: timers that are due then are late."""
        self._now_s += seconds

    def _advance(self) -> None:
        """Let time pass until the next timer, and make all that are due then ready."""
        while self._timers and self._timers[0][2].is_cancelled:
            heapq.heappop(self._timers)
        if not self._timers:
            raise RuntimeError("everything waits, and no timer is set")
        self._now_s = max(self._now_s, self._timers[0][0])
        while self._timers and self._timers[0][0] <= self._now_s:
            self._ready.append(heapq.heappop(self._timers)[2])

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Any:
        handle = Timer(self._now_s, callback, args, copy_context() if context is None else context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Any:
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Any:
        handle = Timer(max(when, self._now_s), callback, args, copy_context() if context is None else context)
        heapq.heappush(self._timers, (handle.when_s, next(self._numbers), handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return False

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.faults.append(context)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a new virtual loop; `asyncio.get_running_loop().time` is its clock."""
    return VirtualLoop().run_until_complete(coroutine)  # type: ignore[abstract]
