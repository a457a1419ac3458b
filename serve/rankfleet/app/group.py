"""A replica of a group, as Ray Serve runs it: collects chunks, hands them to its worker, reports."""

import asyncio
import inspect
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from ray import serve

from rankfleet.app.health import Entrance, check
from rankfleet.app.telemetry import GroupTelemetry
from rankfleet.app.worker import Model, Worker, submit_each
from rankfleet.core.config import FleetConfig, parse_config
from rankfleet.core.errors import CheckpointError
from rankfleet.core.fingerprint import fingerprint, model_name
from rankfleet.core.messages import Chunk, ChunkScores
from rankfleet.routing.latency import LatencyModel, fit
from rankfleet.routing.profile import read_profile
from rankfleet.routing.quality import quality_table
from rankfleet.scheduling.reports import of_replica

if TYPE_CHECKING:
    from rankfleet.engine.scorer import Scorer

P = ParamSpec("P")
R = TypeVar("R")

# The engine's thread needs the interpreter for moments between long native calls. By default it would wait 5 ms for
# each of them while requests come in; so much longer would every batch take.
SWITCH_S = 2e-4
WARM_UP_S = 5.0  # most time spent on measuring one tier before the replica takes traffic


def signed(function: Callable[P, R]) -> Callable[P, R]:
    """With its signature at hand: `serve.batch` asks for it at every call, and working it out each time took a
    twentieth of the replica's Python."""
    function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return function


class ReplicaGroup:
    """The deployment behind one group of the fleet."""

    def __init__(self, name: str, config: dict[str, object]) -> None:
        import torch

        from rankfleet.engine.checkpoint import find_checkpoint
        from rankfleet.engine.scorer import Scorer

        fleet = parse_config(config)
        group = fleet.groups[name]
        torch.set_num_threads(group.threads)
        sys.setswitchinterval(SWITCH_S)
        scorers, models = {}, {}
        for tier in group.tiers:
            settings = fleet.tiers[tier]
            try:
                checkpoint = find_checkpoint(settings.model, settings.revision)
                scorers[tier] = Scorer.load(checkpoint, group.dtype)
            except CheckpointError as error:
                raise CheckpointError(f"tier {tier}: {error}") from error
            named = model_name(settings, group.dtype, checkpoint.description)
            models[tier] = Model(named, fingerprint(named, checkpoint.weights_digest, scorers[tier].dtype))
        self._latency = warm_up(fleet, scorers)
        self._telemetry = GroupTelemetry(name)
        self._entrance = Entrance()
        self._worker = Worker(
            serve.get_replica_context().replica_id.unique_id,
            scorers,
            self._latency,
            quality_table(fleet).tiers,
            group.batch_tokens,
            ThreadPoolExecutor(1, thread_name_prefix="engine"),
            self._telemetry.batch,
            rule=fleet.routing,
            settings=fleet.scheduling,
            models=models,
        )

    async def latency(self) -> dict[str, LatencyModel]:
        """Of each tier hosted, on this device, as batches take now."""
        return self._worker.models

    async def score(self, chunk: Chunk) -> ChunkScores:
        """Raw logits of a chunk. Raises what the future of `Worker.submit` does."""
        scores = await self._entrance.through(self._collect(chunk))
        return await scores

    @serve.batch(max_batch_size=1024, batch_wait_timeout_s=0.0)
    @signed
    async def _collect(self, chunks: list[Chunk]) -> list["asyncio.Future[ChunkScores]"]:
        """Concurrent chunks into the queue. Gives back futures, so that no chunk waits for its neighbours:
        the order of work is the queue's to decide."""
        return submit_each(self._worker.submit, chunks)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Read by the autoscaling policy."""
        self._telemetry.load(self._worker.load)
        return of_replica(self._worker.load)

    async def check_health(self) -> None:
        """Serve replaces a replica that raises here."""
        await check(self._worker, self._entrance)


def warm_up(fleet: FleetConfig, scorers: "dict[str, Scorer]") -> dict[str, LatencyModel]:
    """One latency model per tier: the stored profile's where there is one, else measured here and now. Either
    way every tier has scored before the replica takes traffic."""
    from rankfleet.engine.measure import QUICK, measure

    stored = read_profile(fleet.profile) if fleet.profile else {}
    models = {}
    for tier, scorer in scorers.items():
        repeats, most_s = (1, 1.0) if tier in stored else (8, WARM_UP_S)
        samples = list(
            measure(scorer, min(fleet.tiers[tier].max_tokens or 512, scorer.max_pair), QUICK, repeats, most_s)
        )
        models[tier] = stored.get(tier) or fit(samples)
    return models
