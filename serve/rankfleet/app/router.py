"""The ingress deployment: HTTP in, rankings out."""

import asyncio
import logging
from pathlib import Path
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle

from rankfleet.app.api import build_api
from rankfleet.app.service import RankingService
from rankfleet.app.telemetry import Telemetry
from rankfleet.app.texts import load_tokenizers
from rankfleet.core.config import parse_config, parse_live
from rankfleet.core.errors import Unavailable
from rankfleet.core.messages import Chunk, ChunkScores
from rankfleet.retrieval.bm25 import Bm25Index
from rankfleet.routing.profile import read_profile

log = logging.getLogger("ray.serve")


class ServeGroup:
    """A replica group behind its deployment handle."""

    def __init__(self, name: str, handle: DeploymentHandle) -> None:
        self._name = name
        self._handle = handle

    async def score(self, chunk: Chunk) -> ChunkScores:
        """Serve does not retry what was in flight on a replica that died; scoring twice does no harm, so a
        chunk gets a second chance. Raises Unavailable when that is lost too."""
        for _ in range(2):
            try:
                return await self._handle.score.remote(chunk)
            except RayActorError as error:
                log.warning("a replica of group %s died with a chunk: %s", self._name, type(error).__name__)
        raise Unavailable(f"replicas of group {self._name} keep dying; see their logs (`ray logs`), then retry")


@serve.ingress()
class Router:
    """One replica of the router."""

    def __init__(self, config: dict[str, Any], **groups: DeploymentHandle) -> None:
        fleet = parse_config(config)
        self._handles = groups
        self._service = RankingService(
            fleet, load_tokenizers(fleet.tiers), {name: ServeGroup(name, handle) for name, handle in groups.items()}
        )
        if fleet.profile:
            self._service.fleet.learned(read_profile(fleet.profile))
        self._learning: asyncio.Task[None] | None = None

    def __serve_build_asgi_app__(self) -> Any:
        search = self._service.config.search
        return build_api(self._service, Telemetry(), Bm25Index.load(Path(search.index)) if search else None)

    async def reconfigure(self, live: dict[str, Any]) -> None:
        """Take new live settings. Raises ConfigError, and keeps the old ones, when they are wrong."""
        self._service.live = parse_live(live, set(self._service.config.tiers))
        if self._learning is None:
            self._learning = asyncio.create_task(self._learn())

    async def _learn(self) -> None:
        """Ask each group for its latency models, until all have answered."""
        fleet = self._service.fleet

        async def ask(name: str, handle: DeploymentHandle, least: int) -> None:
            while True:
                # A question would wake a group that may have no replica: wait until requests have done so.
                if least > 0 or fleet.heard_of(name):
                    try:
                        fleet.learned(await handle.latency.remote())
                    except Exception as error:  # still starting, or failed and being restarted
                        log.info("group %s has not reported yet: %s", name, type(error).__name__)
                    else:
                        return
                await asyncio.sleep(0.5)

        groups = self._service.config.groups
        await asyncio.gather(*(ask(n, h, groups[n].replicas.min) for n, h in self._handles.items()))
