"""Waking a group that has no replica: Serve starts one for a call that waits."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger("ray.serve")


class GroupWaker:
    """Starts a replica of a group that is asleep, one call per group at a time."""

    def __init__(self, call: Callable[[str], Awaitable[None]], before: "GroupWaker | None" = None) -> None:
        """call: asks a group, by name, for some work. before: the waker of the previous version of the fleet, whose
        calls still count."""
        self._call = call
        self._calls: dict[str, asyncio.Task[None]] = before._calls if before else {}

    def wake(self, group: str) -> None:
        """Return at once; a failure is logged."""
        if group not in self._calls:
            task = asyncio.get_running_loop().create_task(self._wait(group))
            task.add_done_callback(lambda _: self._calls.pop(group))
            self._calls[group] = task

    async def _wait(self, group: str) -> None:
        try:
            await self._call(group)
        except Exception as error:
            log.warning("group %s did not wake up: %s", group, error)
