"""The ingress deployment: HTTP in, rankings out."""

import asyncio
import logging
import socket
import time
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import TaskCancelledError
from ray.serve.handle import DeploymentHandle
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from rankfleet.api.app import build_api
from rankfleet.api.bytes_in_flight import BytesInFlight
from rankfleet.autoscaler.drain import drain_times_s
from rankfleet.autoscaler.reports import router_report
from rankfleet.autoscaler.sharing import Resources
from rankfleet.cluster.telemetry import Telemetry
from rankfleet.cluster.transport import ServeGroup
from rankfleet.core.config import FleetConfig, parse_config
from rankfleet.core.errors import ConfigError
from rankfleet.core.fingerprint import settings_name
from rankfleet.engine.text.tokenizer import PairTokenizer
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.profile import read_profile
from rankfleet.retrieval.bm25 import Bm25Index
from rankfleet.router.health import RouterHealth
from rankfleet.router.replica_view import replica_view_of
from rankfleet.router.rollover import Rollover, Version
from rankfleet.router.service import RankingService
from rankfleet.router.tokenize import load_tokenizers, model_names

LEARN_S = 2.0  # between questions to a group how fast it is
LOOK_S = 0.1  # between looks whether replicas host the next version
LOG_S = 10.0  # between lines in the log that say that they do not
PATIENCE_S = 60.0

log = logging.getLogger("ray.serve")


def log_place() -> str:
    """Where this process writes its log, for messages: file and host."""
    for handler in log.handlers:
        written = getattr(handler, "target", None) or handler  # Serve collects lines before it writes them
        if path := getattr(written, "baseFilename", None):
            return f"{path} on {socket.gethostname()}"
    return f"the router's log on {socket.gethostname()}"


class Serving:
    """What serves one version of the fleet."""

    def __init__(self, service: RankingService, api: FastAPI) -> None:
        self.service, self.api = service, api


class Prepared:
    """What a version needs that takes time to load. Raises what its parts raise."""

    def __init__(self, fleet: FleetConfig) -> None:
        self.tokenizers: dict[str, PairTokenizer] = load_tokenizers(fleet.tiers)
        self.models = model_names(fleet)
        self.profile: dict[str, LatencyModel] = read_profile(fleet.profile) if fleet.profile else {}
        self.index = Bm25Index.load(Path(fleet.search.index)) if fleet.search else None


@serve.ingress()
class Router:
    """One replica of the router."""

    def __init__(self, **groups: DeploymentHandle) -> None:
        self._handles = groups
        self._telemetry = Telemetry()
        self._clients = {
            name: ServeGroup(name, handle, replica_view_of(name), self._telemetry.lost)
            for name, handle in groups.items()
        }
        self._rollover: Rollover[Serving] = Rollover(lambda name, models: replica_view_of(name).hosting(models))
        self._in_flight = BytesInFlight(0)
        self._health = RouterHealth(self._probe)
        self._tasks: set[asyncio.Task[None]] = set()
        self._turning: asyncio.Task[None] | None = None
        self._settings = ""  # of groups, by name, that are to be served
        self._logged_s = 0.0

    def __serve_build_asgi_app__(self) -> Any:
        async def to_version(scope: Scope, receive: Receive, send: Send) -> None:
            """To the one that serves now. Serve sends requests only when there is one."""
            if scope["type"] == "lifespan":
                while True:
                    kind = (await receive())["type"]
                    await send({"type": f"{kind}.complete"})
                    if kind == "lifespan.shutdown":
                        return
            await self._now.api(scope, receive, send)

        return to_version

    @property
    def _now(self) -> Serving:
        if self._rollover.now is None:
            raise RuntimeError("Serve has not configured this router")
        return self._rollover.now.serving

    async def _probe(self) -> None:
        await self._now.service.probe()

    async def check_health(self) -> None:
        """Serve replaces a router that raises here."""
        if self._rollover.now is not None:
            await self._health.check()

    async def reconfigure(self, settings: dict[str, Any]) -> None:
        """Serve what the fleet file says. At first before any traffic, when replicas host its models; later what is
        served already goes on until they do, so this returns at once. What is wrong then changes nothing, and `state`
        and the log say so: Serve would stop a replica that raises here."""
        self._rollover.fault = ""
        if self._rollover.now is None:
            for handle in self._handles.values():
                if not handle.is_initialized:
                    handle._init()  # or nobody would say which replicas run before the first request
            await self._follow(parse_config(settings))
            self._tasks |= {asyncio.create_task(self._learn(name, handle)) for name, handle in self._handles.items()}
            return
        try:
            fleet = parse_config(settings)
        except ConfigError as error:
            self._failed(error)
            return
        if self._turning is not None:
            self._turning.cancel()
        self._turning = asyncio.create_task(self._turn_to(fleet))

    async def _turn_to(self, fleet: FleetConfig) -> None:
        try:
            await self._follow(fleet)
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        log.error("the router goes on with the fleet as it was: %s", error, exc_info=error)
        self._rollover.refuse(str(error))

    async def _follow(self, fleet: FleetConfig) -> None:
        """Prepare a version, and turn to it when replicas host its models. Raises what is wrong with it."""
        if fleet.groups.keys() != self._handles.keys():
            raise ConfigError(
                f"the file has groups {', '.join(fleet.groups)}, and this router was started for "
                f"{', '.join(self._handles)}: hand Serve the whole config, as `rankfleet apply` and `k8s render` do"
            )
        self._settings = settings_name(fleet.for_groups)
        before = self._rollover.now
        prepared = await asyncio.to_thread(Prepared, fleet)
        service = RankingService(
            fleet,
            prepared.tokenizers,
            self._clients,
            models=prepared.models,
            before=before.serving.service if before else None,
        )
        service.fleet.use_profile(prepared.profile)
        # Serve puts the request's id into the reply's headers itself.
        api = build_api(
            service,
            self._telemetry,
            prepared.index,
            self._health,
            log_place(),
            adds_request_id=False,
            in_flight=self._in_flight,
            gone=(ClientDisconnect, TaskCancelledError),
            not_changed=self._not_changed,
        )
        version = Version(fleet, prepared.models, Serving(service, api))
        self._rollover.offer(version, time.monotonic())
        try:
            while not await self._can_serve(version):
                await asyncio.sleep(LOOK_S)
        except BaseException:
            self._rollover.drop(version)
            raise
        self._rollover.switch()
        service.take_over()
        self._in_flight.max_bytes = fleet.limits.max_bytes_in_flight
        for name in fleet.groups:
            replica_view_of(name).listen(partial(service.fleet.set_running, name))

    async def _can_serve(self, version: Version[Serving]) -> bool:
        """Whether replicas host the models of a version, and have said how fast they are."""
        service = version.serving.service
        if missing := self._rollover.missing(time.monotonic()):
            if (now := time.monotonic()) - self._logged_s > LOG_S:
                self._logged_s = now
                log.info("waiting for groups %s to host %s", ", ".join(missing), dict(version.models))
            return False
        for name in version.config.groups:
            if service.fleet.awake(name):
                try:
                    async with asyncio.timeout(PATIENCE_S):
                        service.fleet.update_latency(await self._handles[name].latency.remote())
                except Exception as error:  # it has just gone, or is too busy; another may answer
                    log.info("group %s has not said how fast it is: %s", name, type(error).__name__)
                    return False
                await self._rehearse(service, name)
        return service.fleet.ready and not self._rollover.missing(time.monotonic())

    async def state(self) -> dict[str, Any]:
        """What this router serves: `config`, a whole fleet file; `next`: the groups that another one waits for, None
        where none does; `faults`: why that cannot be served, as this router or replicas say."""
        rollover = self._rollover
        return {
            "router": serve.get_replica_context().replica_id.unique_id,
            "config": rollover.now.config.model_dump(mode="json") if rollover.now else None,
            "next": rollover.missing(time.monotonic()) if rollover.next else None,
            "faults": self._not_changed(),
        }

    def _not_changed(self) -> list[str]:
        """Why the newest fleet file is not served, as this router or replicas say."""
        faults = {fault for name in self._handles for of, fault in replica_view_of(name).faults if of == self._settings}
        return sorted(faults | ({self._rollover.fault} if self._rollover.fault else set()))

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Read by the autoscaling policy: what has been asked for, and the settings, which can change live."""
        if self._rollover.now is None:
            return {}
        service = self._now.service
        drains = drain_times_s(service.config, service.live, service.fleet.models)
        units = {name: Resources(group.gpus, group.cpus) for name, group in service.config.groups.items()}
        return router_report(service.offered, drains, service.live.autoscaling, units)

    async def _learn(self, name: str, handle: DeploymentHandle) -> None:
        """Ask a group for its latency models, again and again: what batches take changes with the load of the machine,
        and admission has to know."""
        while True:
            await asyncio.sleep(LEARN_S)
            service = self._now.service
            # A question would wake a group that has no replica.
            if name in service.config.groups and service.fleet.awake(name):
                try:
                    async with asyncio.timeout(PATIENCE_S):
                        models = await handle.latency.remote()
                    self._now.service.fleet.update_latency(models)
                except Exception as error:  # still starting, or failed and being restarted
                    log.info("group %s has not reported: %s", name, type(error).__name__)

    async def _rehearse(self, service: RankingService, group: str) -> None:
        try:
            await service.warm_up(service.config.groups[group].tiers[0])
        except Exception as error:  # then the first client pays
            log.info("group %s was not rehearsed: %s", group, type(error).__name__)
