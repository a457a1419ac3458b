"""The deployment of a replica group: collects chunks, hands them to the replica's worker, reports to Serve."""

import asyncio
import inspect
import itertools
import logging
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ray import serve

from rankfleet.autoscaler.reports import replica_report
from rankfleet.cluster.following import FleetFollower
from rankfleet.cluster.loading import check_room, load_model, measure_model, model_fingerprint, profiled_latency
from rankfleet.cluster.telemetry import GroupTelemetry
from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import CheckpointError
from rankfleet.core.fingerprint import settings_name
from rankfleet.core.messages import Chunk, ChunkScores
from rankfleet.estimates.latency import LatencyModel, fit
from rankfleet.estimates.precision import Precision
from rankfleet.estimates.quality import own_table
from rankfleet.replica.collector import CollectorWatchdog, submit_each
from rankfleet.replica.device import executor_scorer
from rankfleet.replica.health import check
from rankfleet.replica.hosting import HostedModel
from rankfleet.replica.worker import Worker

if TYPE_CHECKING:
    from rankfleet.engine.runtime.scorer import Scorer

P = ParamSpec("P")
R = TypeVar("R")

# Python's switch interval. The engine's thread needs the interpreter briefly between long native calls. At the default
# of 5 ms it would wait that long each time while requests come in, and every batch would take that much longer.
SWITCH_INTERVAL_S = 2e-4
UNUSED_S = 30.0  # a model that has left the fleet file is dropped once no chunk has asked for it for this long

log = logging.getLogger("ray.serve")


def cache_signature(function: Callable[P, R]) -> Callable[P, R]:
    """Store a function's signature on it. `serve.batch` asks for the signature at every call, and computing it each
    time took a twentieth of the replica's Python time."""
    function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return function


class ReplicaGroup:
    """One replica of a group: a replica of its deployment, or a part of a router (`cluster/in_router.py`)."""

    def __init__(
        self,
        name: str,
        fingerprint: Callable[[FleetConfig, str], str] = model_fingerprint,
        load: "Callable[[FleetConfig, str], tuple[str, Scorer, str, Precision]]" = load_model,
        check_room: Callable[[FleetConfig, str, Sequence[str]], None] = check_room,
    ) -> None:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._name = name
        self._fingerprint = fingerprint
        self._load = load
        self._check_room = check_room
        self._engine = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._telemetry = GroupTelemetry(name)
        self._collector = CollectorWatchdog()
        self._report_numbers = itertools.count(1)
        self._worker: Worker | None = None
        self._follower = FleetFollower(f"group {name}", self._start, self._change, self._drop_unused)
        self._wanted: frozenset[str] = frozenset()  # fingerprints of the models of the file that is followed
        self._settings = ""  # `settings_name` of the newest file

    async def reconfigure(self, settings: dict[str, Any]) -> None:
        """Host what the fleet file says (`FleetConfig.for_groups`); see `FleetFollower`."""
        self._settings = settings_name(settings)
        await self._follower.reconfigure(settings)

    async def _start(self, fleet: FleetConfig) -> None:
        group = fleet.groups[self._name]
        await self._set_threads(group.threads)
        worker = Worker(
            serve.get_replica_context().replica_id.unique_id,
            {},
            own_table(fleet).tiers,
            group.batch_tokens,
            executor_scorer(self._engine, time.perf_counter),
            time.perf_counter,
            self._telemetry.batch,
            routing=fleet.routing,
            scheduling=fleet.scheduling,
        )
        await self._host(worker, fleet, group.tiers)
        self._worker, self._wanted = worker, worker.hosts

    async def _change(self, fleet: FleetConfig) -> None:
        """Load the models that are new, then go by the new settings."""
        worker = self._ready
        group = fleet.groups[self._name]
        wanted = {await self._in_loader(self._fingerprint, fleet, tier): tier for tier in group.tiers}
        await self._host(worker, fleet, [tier for name, tier in wanted.items() if name not in worker.hosts])
        # After A → B → A the models of A are still hosted: nothing is loaded, but the names have to go back to them.
        worker.name({tier: name for name, tier in wanted.items()})
        await self._set_threads(group.threads)
        worker.adjust(own_table(fleet).tiers, group.batch_tokens, fleet.routing, fleet.scheduling)
        self._wanted = frozenset(wanted)

    async def _drop_unused(self) -> None:
        """Drop the models that the file does not name, each once no chunk has asked for it for UNUSED_S."""
        worker = self._ready
        while worker.hosts - self._wanted:
            await asyncio.sleep(UNUSED_S / 10)
            for name in worker.forget(self._wanted, UNUSED_S):
                log.info("model %s is no longer hosted", name)

    async def _host(self, worker: Worker, fleet: FleetConfig, tiers: Sequence[str]) -> None:
        """Load the models of these tiers. Raises CheckpointError, before the first is loaded if not all fit."""
        if tiers:
            await asyncio.get_running_loop().run_in_executor(self._loader, self._check_room, fleet, self._name, tiers)
        for tier in tiers:
            worker.host(*await self._load_measured(fleet, tier))

    async def _load_measured(self, fleet: FleetConfig, tier: str) -> tuple[str, HostedModel]:
        """A tier's model, which has scored its first batches, under its fingerprint. Raises CheckpointError that names
        the tier."""
        name, scorer, weights, precision = await self._in_loader(self._load, fleet, tier)
        profiled = profiled_latency(fleet, tier, precision.dtype)
        samples = [sample async for sample in measure_model(fleet, tier, scorer, self._engine, profiled is not None)]
        return name, HostedModel(tier, scorer, profiled or fit(samples), weights, precision)

    async def _in_loader(self, call: Callable[[FleetConfig, str], R], fleet: FleetConfig, tier: str) -> R:
        """Run in the loader's thread, so that batches do not wait for it. A CheckpointError names the tier."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._loader, call, fleet, tier)
        except CheckpointError as error:
            raise CheckpointError(f"tier {tier}: {error}") from error

    async def _set_threads(self, threads: int) -> None:
        """Set the number of torch threads in both threads that compute: OpenMP keeps one number per thread."""
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
        """Current latency model of each hosted model on this device, by fingerprint."""
        return self._ready.models

    def submit(self, chunk: Chunk) -> "asyncio.Future[ChunkScores]":
        """As `Worker.submit`, for a caller in this process."""
        return self._ready.submit(chunk)

    async def score(self, chunk: Chunk) -> ChunkScores:
        """Raw logits of a chunk. Raises what the future of `Worker.submit` raises."""
        scores = await self._collector.watch(self._collect(chunk))
        return await scores

    @serve.batch(max_batch_size=1024, batch_wait_timeout_s=0.0)
    @cache_signature
    async def _collect(self, chunks: list[Chunk]) -> list["asyncio.Future[ChunkScores]"]:
        """Put concurrent chunks into the worker's queue. Returns futures, so that no chunk waits for those it came
        with: the queue decides the order of work."""
        return submit_each(self.submit, chunks)

    def record_routing_stats(self) -> dict[str, Any]:
        """Called by Serve, which passes the result on to routers.

        `hosts`: fingerprints of the hosted models and of their weights; a router sends only chunks for these.
        `precisions`: of the hosted models, by fingerprint, as plain data.
        `settings`, `fault`: name of the newest settings, and why this replica cannot follow them; empty if it can.
        """
        worker = self._worker
        if worker is None:
            return {}
        return {
            "hosts": sorted(worker.hosts | worker.weights),
            "precisions": {name: precision.to_json() for name, precision in worker.precisions.items()},
            "settings": self._settings,
            "fault": self._follower.fault,
        }

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve, which passes the result on to the autoscaling policy."""
        if self._worker is None:
            return {}
        self._telemetry.load(self._worker.load)
        return replica_report(next(self._report_numbers), self._worker.load)

    async def check_health(self) -> None:
        """Called by Serve, which replaces a replica that raises here."""
        if self._worker is not None:
            await check(self._worker, self._collector)
