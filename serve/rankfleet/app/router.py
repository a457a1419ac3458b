"""The ingress deployment: HTTP in, rankings out."""

import asyncio
import logging
from pathlib import Path
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle

from rankfleet.app.api import build_api
from rankfleet.app.presence import running
from rankfleet.app.service import RankingService
from rankfleet.app.telemetry import Telemetry
from rankfleet.core.config import parse_config, parse_live
from rankfleet.core.errors import Unavailable
from rankfleet.core.messages import Chunk, ChunkScores
from rankfleet.engine.checkpoint import find_checkpoint
from rankfleet.engine.tokenizer import PairTokenizer
from rankfleet.retrieval.bm25 import Bm25Index
from rankfleet.routing.drain import drains_s
from rankfleet.routing.profile import read_profile
from rankfleet.scheduling.reports import of_router

WATCH_S = 0.25  # between looks at which groups run

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
        tokenizers: dict[str, PairTokenizer] = {}
        by_text: dict[str, PairTokenizer] = {}
        for name, tier in fleet.tiers.items():
            checkpoint = find_checkpoint(tier.model, tier.revision, weights=False)
            tokenizer = PairTokenizer.load(checkpoint)
            # Tiers of one family share a vocabulary: one tokenizer then serves all, and texts are encoded once.
            tokenizers[name] = by_text.setdefault(tokenizer.identity, tokenizer)
        self._handles = groups
        self._service = RankingService(
            fleet, tokenizers, {name: ServeGroup(name, handle) for name, handle in groups.items()}
        )
        if fleet.profile:
            self._service.fleet.learned(read_profile(fleet.profile))
        self._learning: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    def __serve_build_asgi_app__(self) -> Any:
        search = self._service.config.search
        return build_api(self._service, Telemetry(), Bm25Index.load(Path(search.index)) if search else None)

    async def reconfigure(self, live: dict[str, Any]) -> None:
        """Take new live settings. Raises ConfigError, and keeps the old ones, when they are wrong."""
        self._service.live = parse_live(live, self._service.config)
        if self._learning is None:
            self._learning = asyncio.create_task(self._learn())
            self._watching = asyncio.create_task(self._watch())

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Read by the autoscaling policy: what has been asked for, and the settings, which can change live."""
        service = self._service
        drains = drains_s(service.config, service.live, service.fleet.models)
        return of_router(service.demanded, drains, service.live.autoscaling)

    async def _watch(self) -> None:
        """Keep the fleet view told of which groups run."""
        while True:
            for name, handle in self._handles.items():
                self._service.fleet.runs(name, running(handle))
            await asyncio.sleep(WATCH_S)

    async def _learn(self) -> None:
        """Ask each group for its latency models, until all have answered."""
        fleet = self._service.fleet

        async def ask(name: str, handle: DeploymentHandle) -> None:
            while True:
                # A question would wake a group that has no replica.
                if fleet.awake(name):
                    try:
                        fleet.learned(await handle.latency.remote())
                    except Exception as error:  # still starting, or failed and being restarted
                        log.info("group %s has not reported yet: %s", name, type(error).__name__)
                    else:
                        return
                await asyncio.sleep(0.5)

        await asyncio.gather(*(ask(name, handle) for name, handle in self._handles.items()))
