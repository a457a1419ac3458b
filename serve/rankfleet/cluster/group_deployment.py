"""A replica of a group, as Ray Serve runs it: collects chunks, hands them to its worker, reports."""

import asyncio
import inspect
import logging
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ray import serve

from rankfleet.autoscaler.reports import replica_report
from rankfleet.cluster.telemetry import GroupTelemetry
from rankfleet.core.config import FleetConfig, parse_config
from rankfleet.core.errors import CheckpointError, ConfigError
from rankfleet.core.fingerprint import fingerprint, model_name, settings_name
from rankfleet.core.messages import Chunk, ChunkScores
from rankfleet.estimates.latency import LatencyModel, Sample, fit
from rankfleet.estimates.profile import read_profile
from rankfleet.estimates.quality import quality_table
from rankfleet.replica.collector import CollectorWatchdog, submit_each
from rankfleet.replica.health import check
from rankfleet.replica.hosting import HostedModel
from rankfleet.replica.worker import Worker

if TYPE_CHECKING:
    from rankfleet.engine.runtime.scorer import Scorer

P = ParamSpec("P")
R = TypeVar("R")

# The engine's thread needs the interpreter for moments between long native calls. By default it would wait 5 ms for
# each of them while requests come in; so much longer would every batch take.
SWITCH_S = 2e-4
WARM_UP_S = 5.0  # most time spent on measuring one tier before it takes traffic
UNUSED_S = 30.0  # a model that is no longer in the fleet file goes when nobody has asked for it for so long

log = logging.getLogger("ray.serve")


def signed(function: Callable[P, R]) -> Callable[P, R]:
    """With its signature at hand: `serve.batch` asks for it at every call, and working it out each time took a
    twentieth of the replica's Python."""
    function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return function


class ReplicaGroup:
    """The deployment behind one group of the fleet."""

    def __init__(self, name: str) -> None:
        sys.setswitchinterval(SWITCH_S)
        self._name = name
        self._engine = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._telemetry = GroupTelemetry(name)
        self._collector = CollectorWatchdog()
        self._worker: Worker | None = None
        self._following: asyncio.Task[None] | None = None
        self._wanted: frozenset[str] = frozenset()  # fingerprints, by the last settings that could be followed
        self._settings = ""  # by name, of the last that came
        self._fault = ""

    async def reconfigure(self, settings: dict[str, Any]) -> None:
        """Host what the fleet file says (`FleetConfig.for_groups`). At first before any traffic; later beside it, while
        what is hosted already goes on, so this returns at once. What is wrong then changes nothing; routing stats and
        the log say so: Serve would stop a replica that raises here."""
        self._settings, self._fault = settings_name(settings), ""
        if self._worker is None:
            self._worker = await self._started(parse_config(settings))
            self._wanted = self._worker.hosts
            return
        try:
            fleet = parse_config(settings)
        except ConfigError as error:
            self._failed(error)
            return
        if self._following is not None:
            self._following.cancel()
        self._following = asyncio.create_task(self._follow(fleet))

    async def _started(self, fleet: FleetConfig) -> Worker:
        group = fleet.groups[self._name]
        await self._set_threads(group.threads)
        worker = Worker(
            serve.get_replica_context().replica_id.unique_id,
            {},
            quality_table(fleet).tiers,
            group.batch_tokens,
            self._engine,
            self._telemetry.batch,
            routing=fleet.routing,
            scheduling=fleet.scheduling,
        )
        for tier in group.tiers:
            worker.host(*await self._loaded(fleet, tier))
        return worker

    async def _follow(self, fleet: FleetConfig) -> None:
        """Load what is new, go by the new settings, and forget in time what is no longer wanted."""
        worker = self._worker
        assert worker is not None
        try:
            group = fleet.groups[self._name]
            wanted = {}
            for tier in group.tiers:
                wanted[await self._in_loader(named, fleet, tier)] = tier
            for name, tier in wanted.items():
                if name not in worker.hosts:
                    worker.host(*await self._loaded(fleet, tier))
            worker.name({tier: name for name, tier in wanted.items()})
            await self._set_threads(group.threads)
            worker.adjust(quality_table(fleet).tiers, group.batch_tokens, fleet.routing, fleet.scheduling)
            self._wanted = frozenset(wanted)
        except Exception as error:
            self._failed(error)
        while worker.hosts - self._wanted:
            await asyncio.sleep(UNUSED_S / 10)
            for name in worker.forget(self._wanted, UNUSED_S):
                log.info("model %s is no longer hosted", name)

    def _failed(self, error: Exception) -> None:
        self._fault = f"{type(error).__name__}: {error}" if not isinstance(error, CheckpointError) else str(error)
        log.error("group %s goes on with what it hosts: %s", self._name, self._fault, exc_info=error)

    async def _loaded(self, fleet: FleetConfig, tier: str) -> tuple[str, HostedModel]:
        """Fingerprint and model of a tier, which has scored. Raises CheckpointError that names the tier."""
        name, scorer, weights = await self._in_loader(load, fleet, tier)
        stored = read_profile(fleet.profile) if fleet.profile else {}
        samples = [sample async for sample in measured(fleet, tier, scorer, self._engine, tier in stored)]
        return name, HostedModel(tier, scorer, stored.get(tier) or fit(samples), weights)

    async def _in_loader(self, call: Callable[[FleetConfig, str], R], fleet: FleetConfig, tier: str) -> R:
        """In a thread that batches do not wait for."""
        return await asyncio.get_running_loop().run_in_executor(self._loader, call, fleet, tier)

    async def _set_threads(self, threads: int) -> None:
        """For both threads that compute: OpenMP asks each for its own number."""
        import torch

        loop = asyncio.get_running_loop()
        for executor in (self._engine, self._loader):
            await loop.run_in_executor(executor, torch.set_num_threads, threads)

    @property
    def _ready(self) -> Worker:
        if self._worker is None:
            raise RuntimeError("Serve has not configured this replica")
        return self._worker

    async def latency(self) -> dict[str, LatencyModel]:
        """Of each model hosted, by fingerprint, on this device, as batches take now."""
        return self._ready.models

    async def score(self, chunk: Chunk) -> ChunkScores:
        """Raw logits of a chunk. Raises what the future of `Worker.submit` does."""
        scores = await self._collector.watch(self._collect(chunk))
        return await scores

    @serve.batch(max_batch_size=1024, batch_wait_timeout_s=0.0)
    @signed
    async def _collect(self, chunks: list[Chunk]) -> list["asyncio.Future[ChunkScores]"]:
        """Concurrent chunks into the queue. Gives back futures, so that no chunk waits for its neighbours:
        the order of work is the queue's to decide."""
        return submit_each(self._ready.submit, chunks)

    def record_routing_stats(self) -> dict[str, Any]:
        """Read by routers, which send a replica only what it hosts: fingerprints of models and of their weights; and
        why it cannot follow its last settings, empty where it can."""
        worker = self._worker
        if worker is None:
            return {}
        return {"hosts": sorted(worker.hosts | worker.weights), "settings": self._settings, "fault": self._fault}

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Read by the autoscaling policy."""
        if self._worker is None:
            return {}
        self._telemetry.load(self._worker.load)
        return replica_report(self._worker.load)

    async def check_health(self) -> None:
        """Serve replaces a replica that raises here."""
        if self._worker is not None:
            await check(self._worker, self._collector)


def named(fleet: FleetConfig, tier: str) -> str:
    """The fingerprint of a tier's model. Raises CheckpointError that names the tier."""
    from rankfleet.engine.checkpoint.files import find_checkpoint

    settings = fleet.tiers[tier]
    try:
        checkpoint = find_checkpoint(settings.model, settings.revision)
    except CheckpointError as error:
        raise CheckpointError(f"tier {tier}: {error}") from error
    return model_name(tier, settings, fleet.groups[fleet.group_of(tier)].dtype, checkpoint.description)


def load(fleet: FleetConfig, tier: str) -> "tuple[str, Scorer, str]":
    """Fingerprint of a tier's model, the model, and the fingerprint of its weights. Raises CheckpointError that names
    the tier."""
    from rankfleet.engine.checkpoint.files import find_checkpoint
    from rankfleet.engine.runtime.scorer import Scorer

    settings, group = fleet.tiers[tier], fleet.groups[fleet.group_of(tier)]
    name = named(fleet, tier)
    try:
        checkpoint = find_checkpoint(settings.model, settings.revision)
        scorer = Scorer.load(checkpoint, group.dtype)
    except CheckpointError as error:
        raise CheckpointError(f"tier {tier}: {error}") from error
    return name, scorer, fingerprint(name, checkpoint.weights_digest, scorer.dtype)


async def measured(
    fleet: FleetConfig, tier: str, scorer: "Scorer", executor: Executor, known: bool
) -> AsyncIterator[Sample]:
    """Timed batches of a tier, in between those of others. known: whether its latency is, so that it need only have
    scored."""
    from rankfleet.engine.runtime.measure import QUICK, measure

    repeats, max_s = (1, 1.0) if known else (8, WARM_UP_S)
    longest = min(fleet.tiers[tier].max_tokens or 512, scorer.max_pair)
    samples = measure(scorer, longest, QUICK, repeats, max_s)
    loop = asyncio.get_running_loop()
    while (sample := await loop.run_in_executor(executor, next, samples, None)) is not None:
        yield sample
