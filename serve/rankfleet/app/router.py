"""The ingress deployment: HTTP in, rankings out."""

import asyncio
import logging
from functools import partial
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from rankfleet.app.api import build_api
from rankfleet.app.roster import roster_of
from rankfleet.app.service import RankingService
from rankfleet.app.telemetry import Telemetry
from rankfleet.app.texts import load_tokenizers
from rankfleet.app.transport import ServeGroup
from rankfleet.core.config import parse_config, parse_live
from rankfleet.retrieval.bm25 import Bm25Index
from rankfleet.routing.profile import read_profile

log = logging.getLogger("ray.serve")


@serve.ingress()
class Router:
    """One replica of the router."""

    def __init__(self, config: dict[str, Any], **groups: DeploymentHandle) -> None:
        fleet = parse_config(config)
        self._handles = groups
        self._telemetry = Telemetry()
        clients = {name: ServeGroup(name, h, roster_of(name), self._telemetry.lost) for name, h in groups.items()}
        self._service = RankingService(fleet, load_tokenizers(fleet.tiers), clients)
        for name in groups:
            roster_of(name).listen(partial(self._service.fleet.runs, name))
        if fleet.profile:
            self._service.fleet.learned(read_profile(fleet.profile))
        self._learning: asyncio.Task[None] | None = None

    def __serve_build_asgi_app__(self) -> Any:
        search = self._service.config.search
        return build_api(self._service, self._telemetry, Bm25Index.load(Path(search.index)) if search else None)

    async def reconfigure(self, settings: dict[str, Any]) -> None:
        """Take new live settings, and how many replicas are kept. Raises ConfigError, and keeps the old ones, when
        they are wrong."""
        live, bounds = dict(settings), settings.get("replicas", {})
        live.pop("replicas", None)
        self._service.live = parse_live(live, set(self._service.config.tiers))
        for group, replicas in bounds.items():
            self._service.fleet.kept(group, replicas["min"])
        if self._learning is None:
            self._learning = asyncio.create_task(self._learn())

    async def _learn(self) -> None:
        """Ask each group for its latency models, until all have answered."""
        fleet = self._service.fleet

        async def ask(name: str, handle: DeploymentHandle) -> None:
            while True:
                # A question would wake a group that may have no replica: wait until requests have done so.
                if fleet.stands(name):
                    try:
                        fleet.learned(await handle.latency.remote())
                    except Exception as error:  # still starting, or failed and being restarted
                        log.info("group %s has not reported yet: %s", name, type(error).__name__)
                    else:
                        return
                await asyncio.sleep(0.5)

        await asyncio.gather(*(ask(name, handle) for name, handle in self._handles.items()))
