"""The ingress deployment: HTTP in, rankings out."""

import asyncio
import logging
from functools import partial
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from rankfleet.app.api import build_api
from rankfleet.app.balance import roster_of
from rankfleet.app.service import RankingService
from rankfleet.app.telemetry import Telemetry
from rankfleet.app.transport import ServeGroup
from rankfleet.core.config import parse_config, parse_live
from rankfleet.engine.checkpoint import find_checkpoint
from rankfleet.engine.tokenizer import PairTokenizer
from rankfleet.retrieval.bm25 import Bm25Index
from rankfleet.routing.profile import read_profile

ASK_S = 0.5  # between questions to a group that has not answered
LEARN_S = 2.0  # and to one that has
PATIENCE_S = 60.0

log = logging.getLogger("ray.serve")


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
        self._telemetry = Telemetry()
        clients = {name: ServeGroup(name, h, roster_of(name), self._telemetry.lost) for name, h in groups.items()}
        self._service = RankingService(fleet, tokenizers, clients)
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
        """Ask each group for its latency models, again and again: what batches take changes with the load of the
        machine, and admission has to know."""
        fleet = self._service.fleet

        async def ask(name: str, handle: DeploymentHandle) -> None:
            while True:
                pause_s = ASK_S
                # A question would wake a group that may have no replica: wait until requests have done so.
                if fleet.stands(name):
                    try:
                        async with asyncio.timeout(PATIENCE_S):
                            fleet.learned(await handle.latency.remote())
                        pause_s = LEARN_S
                    except Exception as error:  # still starting, or failed and being restarted
                        log.info("group %s has not reported: %s", name, type(error).__name__)
                await asyncio.sleep(pause_s)

        await asyncio.gather(*(ask(name, handle) for name, handle in self._handles.items()))
