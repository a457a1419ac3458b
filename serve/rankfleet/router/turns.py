"""Which work of a tenant may use the cores of a router now."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from rankfleet.core.cpus import usable_cpus
from rankfleet.router.tenants import TenantLimits

CORES = min(28, usable_cpus())  # that work in threads may use; an event loop has four threads more
T = TypeVar("T")


class Turns:
    """Shares the cores out that read long texts in threads: a tenant may use its share of them at a time, and at least
    one."""

    def __init__(self, limits: TenantLimits) -> None:
        self._limits = limits
        self._turns: dict[str, asyncio.Semaphore] = {}

    async def take(self, tenant: str | None, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of work that reads texts in threads. What has no tenant need not wait.

        Work that has begun goes on without its request, since no thread can be stopped, and keeps its turn so long.
        """
        if tenant is None:
            return await work()
        allowed = max(1, round(self._limits.share_of(tenant) * CORES))
        turn = self._turns.setdefault(tenant, asyncio.Semaphore(allowed))

        def ended(task: asyncio.Task[T]) -> None:
            turn.release()
            _ = task.cancelled() or task.exception()  # nobody may be there who asks for it

        await turn.acquire()
        task = asyncio.create_task(work())
        task.add_done_callback(ended)
        return await asyncio.shield(task)
