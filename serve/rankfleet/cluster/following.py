"""How a deployment turns from one fleet file to the next while it serves."""

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from rankfleet.cluster.failures import OF_FILE
from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import ConfigError, RankfleetError
from rankfleet.core.fingerprint import settings_name
from rankfleet.core.fleet_file import parse_config

log = logging.getLogger("ray.serve")

FollowFile = Callable[[FleetConfig], Awaitable[None]]


async def nothing() -> None:
    """The clean-up of a deployment that needs none."""


class FleetFollower:
    """Follows the fleet files that Serve hands to one replica of a deployment.

    Serve calls `reconfigure` with every new `user_config`, and stops a replica that raises there. Only the first file
    may raise, because without it nothing can be served. A later file that is wrong or cannot be loaded changes nothing:
    what is served goes on, and `fault` and the log say why.
    """

    def __init__(
        self, deployment: str, start: FollowFile, change: FollowFile, clean_up: Callable[[], Awaitable[None]] = nothing
    ) -> None:
        """`deployment`: what the log calls it.
        `start`: loads the first file, before there is traffic. What it raises, `reconfigure` raises.
        `change`: loads a later file beside what is served and turns to it. A newer file cancels it.
        `clean_up`: runs after `change`, whether that succeeded or failed. A newer file cancels it.
        """
        self.newest = ""  # `settings_name` of the newest file that Serve has given, right or wrong
        self.fault = ""  # why the newest file is not followed; empty if it is, or is still loading
        self._deployment = deployment
        self._start = start
        self._change = change
        self._clean_up = clean_up
        self._started = False
        self._task: asyncio.Task[None] | None = None

    async def reconfigure(self, settings: dict[str, Any]) -> None:
        """Follow this fleet file, given as plain data. Returns when the first file is served; for a later one at once.

        Raises ConfigError and whatever `start` raises, for the first file only. A note of what Rankfleet raises names
        that file (`OF_FILE`), since Serve keeps the message when it deploys another one.
        """
        self.newest, self.fault = settings_name(settings), ""
        if not self._started:
            # What is imported and loaded here stays. Looking for garbage in it would take a seventh of the time now,
            # and would hold requests up later.
            gc.disable()
            try:
                await self._start(parse_config(settings))
            except RankfleetError as error:
                error.add_note(OF_FILE + self.newest)
                raise
            finally:
                gc.enable()
            gc.freeze()
            self._started = True
            return
        try:
            fleet = parse_config(settings)
        except ConfigError as error:  # a file that is still loading goes on loading
            self._report(error)
            return
        if self._task is not None:
            self._task.cancel()
        self._task = asyncio.create_task(self._follow(fleet))

    async def _follow(self, fleet: FleetConfig) -> None:
        try:
            await self._change(fleet)
        except Exception as error:
            self._report(error)
        await self._clean_up()

    def _report(self, error: Exception) -> None:
        reason = str(error) if isinstance(error, RankfleetError) else f"{type(error).__name__}: {error}"
        log.error("%s keeps the fleet file it has: %s", self._deployment, reason, exc_info=error)
        self.fault = self.fault or reason  # a newer file that is wrong has been reported already
