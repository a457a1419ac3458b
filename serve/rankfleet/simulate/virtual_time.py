"""An asyncio event loop on a virtual clock: whoever waits for a time gets it at once, in order of time.

The simulator runs the coroutines that serve traffic on it, with all their timers, and an hour takes seconds. Time
passes only while nothing is ready to run. The same calls in the same order give the same result. Nothing outside the
process can be waited for: no threads, no sockets.
"""

import asyncio
import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


class Timer:
    """A call at some time. `cancel` keeps it from being made."""

    __slots__ = ("args", "callback", "context", "is_cancelled", "when_s")

    def __init__(
        self, when_s: float, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> None:
        self.when_s, self.callback, self.args = when_s, callback, args
        self.context = copy_context() if context is None else context  # an empty one is false
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
        self.faults: list[dict[str, Any]] = []  # errors that nobody waited for

    def time(self) -> float:
        """Seconds of virtual time."""
        return self._now_s

    def run_until_complete(self, future: Coroutine[Any, Any, T]) -> T:  # type: ignore[override]
        """Run until this coroutine ends. Other tasks go on with the next call.

        Raises what the coroutine raises; RuntimeError if it waits for something that no timer brings about, if a task
        nobody waited for has failed, or if an event loop is running already.
        """
        if asyncio._get_running_loop() is not None:
            future.close()
            raise RuntimeError("an event loop is running in this thread; run the simulation in another one")
        asyncio._set_running_loop(self)
        try:
            self._run_until_done(task := self.create_task(future))
        finally:
            asyncio._set_running_loop(None)
        result = task.result()
        if self.faults:
            raise RuntimeError(f"a task failed: {self.faults[0]}") from self.faults[0].get("exception")
        return result

    def cancel_tasks(self) -> None:
        """Cancel what is left, and run until that has ended."""
        if left := asyncio.all_tasks(self):
            for each in left:
                each.cancel()
            self.run_until_complete(asyncio.wait(left))

    def _run_until_done(self, task: asyncio.Task[Any]) -> None:
        ready = self._ready
        while not task.done():
            if not ready:
                self._advance()
            handle = ready.popleft()
            if not handle.is_cancelled:
                handle.context.run(handle.callback, *handle.args)

    def stall(self, seconds: float) -> None:
        """Let time pass in which nothing runs: timers that are due then are late."""
        self._now_s += seconds

    def _advance(self) -> None:
        """Let time pass until the next timer, and make all that are due then ready."""
        while self._timers and self._timers[0][2].is_cancelled:
            heapq.heappop(self._timers)
        if not self._timers or self._timers[0][0] == math.inf:
            raise RuntimeError("everything waits, and no timer is set")
        self._now_s = max(self._now_s, self._timers[0][0])
        while self._timers and self._timers[0][0] <= self._now_s:
            self._ready.append(heapq.heappop(self._timers)[2])

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Any:
        handle = Timer(self._now_s, callback, args, context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Any:
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Any:
        handle = Timer(max(when, self._now_s), callback, args, context)
        heapq.heappush(self._timers, (handle.when_s, next(self._numbers), handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        """options: those of `asyncio.Task` in the Python that runs."""
        return asyncio.Task(coro, loop=self, **options)

    def _no_threads(self, *args: object, **options: object) -> NoReturn:
        raise RuntimeError("a virtual loop has no threads: what they did would take no virtual time")

    call_soon_threadsafe = run_in_executor = _no_threads

    def is_running(self) -> bool:
        return asyncio._get_running_loop() is self

    def is_closed(self) -> bool:
        return False

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.faults.append(context)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a new virtual loop, and then cancel what it has left behind. `asyncio.get_running_loop().time`
    is its clock. Raises as `VirtualLoop.run_until_complete`."""
    loop = VirtualLoop()  # type: ignore[abstract]
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.cancel_tasks()
