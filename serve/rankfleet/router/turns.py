"""Which work of a tenant may use the threads of a router now."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from rankfleet.router.tenants import TenantLimits

THREADS = min(32, (os.cpu_count() or 1) + 4)  # of an event loop, for calls that would block it
T = TypeVar("T")


class Turns:
    """Shares the threads out that read long texts: a tenant may use its share of them at a time, and at least one."""

    def __init__(self, limits: TenantLimits) -> None:
        self._limits = limits
        self._turns: dict[str, asyncio.Semaphore] = {}

    async def take(self, tenant: str | None, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of work that reads texts in threads. What has no tenant need not wait.

        Work that has begun goes on without its request, since no thread can be stopped, and keeps its turn so long.
        """
        if tenant is None:
            return await work()
        allowed = max(1, int(self._limits.share_of(tenant) * (THREADS - 1)))
        turn = self._turns.setdefault(tenant, asyncio.Semaphore(allowed))

        def ended(task: asyncio.Task[T]) -> None:
            turn.release()
            _ = task.cancelled() or task.exception()  # nobody may be there who asks for it

        await turn.acquire()
        task = asyncio.create_task(work())
        task.add_done_callback(ended)
        return await asyncio.shield(task)
