"""The ingress deployment: HTTP in, rankings out."""

import asyncio
import logging
import socket
from functools import partial
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from rankfleet.app.api import build_api
from rankfleet.app.health import RouterHealth
from rankfleet.app.roster import roster_of
from rankfleet.app.service import RankingService
from rankfleet.app.telemetry import Telemetry
from rankfleet.app.texts import load_tokenizers, model_names
from rankfleet.app.transport import ServeGroup
from rankfleet.core.config import parse_config, parse_live
from rankfleet.retrieval.bm25 import Bm25Index
from rankfleet.routing.drain import drains_s
from rankfleet.routing.profile import read_profile
from rankfleet.scheduling.reports import of_router
from rankfleet.scheduling.sharing import Unit

ASK_S = 0.5  # between questions to a group that has not answered
LEARN_S = 2.0  # and to one that has
PATIENCE_S = 60.0

log = logging.getLogger("ray.serve")


def log_place() -> str:
    """Where this process writes its log, for messages: file and host."""
    for handler in log.handlers:
        written = getattr(handler, "target", None) or handler  # Serve collects lines before it writes them
        if path := getattr(written, "baseFilename", None):
            return f"{path} on {socket.gethostname()}"
    return f"the router's log on {socket.gethostname()}"


@serve.ingress()
class Router:
    """One replica of the router."""

    def __init__(self, config: dict[str, Any], **groups: DeploymentHandle) -> None:
        fleet = parse_config(config)
        self._handles = groups
        self._telemetry = Telemetry()
        clients = {name: ServeGroup(name, h, roster_of(name), self._telemetry.lost) for name, h in groups.items()}
        self._service = RankingService(fleet, load_tokenizers(fleet.tiers), clients, models=model_names(fleet))
        self._health = RouterHealth(self._service.probe)
        for name in groups:
            roster_of(name).listen(partial(self._service.fleet.runs, name))
        if fleet.profile:
            self._service.fleet.learned(read_profile(fleet.profile))
        self._learning: asyncio.Task[None] | None = None
        self._units: dict[str, Unit] = {}

    def __serve_build_asgi_app__(self) -> Any:
        search = self._service.config.search
        index = Bm25Index.load(Path(search.index)) if search else None
        # Serve puts the request's id into the reply's headers itself.
        return build_api(self._service, self._telemetry, index, self._health, log_place(), adds_request_id=False)

    async def check_health(self) -> None:
        """Serve replaces a router that raises here."""
        await self._health.check()

    async def reconfigure(self, settings: dict[str, Any]) -> None:
        """Take new live settings, and what the replicas of each group are (`core/deployments.py`). Raises ConfigError,
        and keeps the old ones, when they are wrong."""
        live, groups = dict(settings), settings.get("groups", {})
        live.pop("groups", None)
        self._service.live = parse_live(live, self._service.config)
        self._units = {name: Unit(group["gpus"], group["cpus"]) for name, group in groups.items()}
        for name, group in groups.items():
            self._service.fleet.kept(name, group["least"])
        if self._learning is None:
            self._learning = asyncio.create_task(self._learn())

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Read by the autoscaling policy: what has been asked for, and the settings, which can change live."""
        service = self._service
        drains = drains_s(service.config, service.live, service.fleet.models)
        return of_router(service.demanded, drains, service.live.autoscaling, self._units)

    async def _rehearse(self, group: str) -> None:
        try:
            await self._service.rehearse(self._service.config.groups[group].tiers[0])
        except Exception as error:  # then the first client pays
            log.info("group %s was not rehearsed: %s", group, type(error).__name__)

    async def _learn(self) -> None:
        """Ask each group for its latency models, again and again: what batches take changes with the load of the
        machine, and admission has to know."""
        fleet = self._service.fleet

        for handle in self._handles.values():
            if not handle.is_initialized:
                handle._init()  # or nobody would say which replicas run before the first request, which may wake one

        async def ask(name: str, handle: DeploymentHandle) -> None:
            known = False
            while True:
                pause_s = ASK_S
                # A question would wake a group that has no replica.
                if fleet.awake(name):
                    try:
                        async with asyncio.timeout(PATIENCE_S):
                            models = await handle.latency.remote()
                            if not known:
                                await self._rehearse(name)
                            fleet.learned(models)
                        known, pause_s = True, LEARN_S
                    except Exception as error:  # still starting, or failed and being restarted
                        log.info("group %s has not reported: %s", name, type(error).__name__)
                await asyncio.sleep(pause_s)

        await asyncio.gather(*(ask(name, handle) for name, handle in self._handles.items()))
