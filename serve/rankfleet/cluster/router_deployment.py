"""The router: Serve's ingress deployment, HTTP in, rankings out."""

import asyncio
import itertools
import logging
import socket
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import TaskCancelledError
from ray.serve.handle import DeploymentHandle
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from rankfleet.api.admission import Admission
from rankfleet.api.app import HostProcess, build_api
from rankfleet.api.keys import KeyRing
from rankfleet.api.recent import Recent
from rankfleet.autoscaler.drain import drain_times_s
from rankfleet.autoscaler.reports import router_report
from rankfleet.autoscaler.sharing import Resources
from rankfleet.cluster.decision_file import DecisionFile
from rankfleet.cluster.envelope import ledger_of
from rankfleet.cluster.evidence import Evidence
from rankfleet.cluster.fleet_board import BoardReader
from rankfleet.cluster.fleet_files import FleetFiles
from rankfleet.cluster.following import FleetFollower
from rankfleet.cluster.group_deployment import ReplicaGroup
from rankfleet.cluster.http_server import CLOSE_AFTER_S
from rankfleet.cluster.in_router import InRouterGroup
from rankfleet.cluster.telemetry import RouterTelemetry
from rankfleet.cluster.transport import ServeGroupClient
from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import ConfigError
from rankfleet.core.fingerprint import settings_name
from rankfleet.engine.text.text_encoder import encode_on_calling_threads
from rankfleet.estimates.latency import LatencyModel
from rankfleet.router.health import RouterHealth
from rankfleet.router.rollover import Rollover, Version
from rankfleet.router.service import RankingService

LATENCY_PERIOD_S = 2.0  # how often a group is asked for its latency models
LATENCY_TIMEOUT_S = 60.0  # how long its answer is waited for
HOSTED_PERIOD_S = 0.1  # how often it is checked whether replicas host the next version
KEYS_PERIOD_S = 1.0  # how often it is checked whether the file of API keys has changed
LOG_PERIOD_S = 10.0  # how often the log says that they do not

log = logging.getLogger("ray.serve")


def log_location() -> str:
    """File and host to which this process writes its log, for messages."""
    for handler in log.handlers:
        file_handler = getattr(handler, "target", None) or handler  # Serve buffers lines before it writes them
        if path := getattr(file_handler, "baseFilename", None):
            return f"{path} on {socket.gethostname()}"
    return f"the router's log on {socket.gethostname()}"


def listed(groups: Mapping[str, bool]) -> str:
    """Names of groups, for messages. groups: whether each is in the router."""
    return ", ".join(f"{name} (in_router)" if in_router else name for name, in_router in groups.items())


class FleetApp:
    """One version of the fleet as it is served: the service and its HTTP app."""

    def __init__(self, service: RankingService, api: FastAPI, keys: KeyRing | None) -> None:
        self.service, self.api, self.keys = service, api, keys


@serve.ingress()
class Router:
    """One replica of the router."""

    def __init__(
        self,
        hosted: Mapping[str, Callable[[str], ReplicaGroup]] = MappingProxyType({}),
        /,
        **groups: DeploymentHandle,
    ) -> None:
        """hosted: by the name of each group that is hosted here, what makes its replica from its name.
        groups: the handles of the others, by name."""
        encode_on_calling_threads()
        self._name = serve.get_replica_context().replica_id.unique_id
        self._telemetry = RouterTelemetry()
        self._ledgers = {name: ledger_of(name) for name in (*groups, *hosted)}
        self._hosted = {
            name: InRouterGroup(name, self._ledgers[name], self._name, new_replica(name))
            for name, new_replica in hosted.items()
        }
        self._clients: dict[str, ServeGroupClient | InRouterGroup] = {
            **{name: ServeGroupClient(name, handle) for name, handle in groups.items()},
            **self._hosted,
        }
        self._decisions = DecisionFile(f"decisions-{self._name}")
        self._evidence = Evidence(self._name, self._telemetry)
        self._rollover: Rollover[FleetApp] = Rollover(lambda name, models: self._ledgers[name].hosting(models))
        self._follower = FleetFollower("the router", self._start, self._turn_to)
        self._admission = Admission(0)
        self._health = RouterHealth(self._probe)
        self._recent = Recent()
        self._board = BoardReader()
        self._tasks: set[asyncio.Task[None]] = set()
        self._report_numbers = itertools.count(1)
        self._settings = ""  # `settings_name` of what replicas of groups get from the newest file
        self._logged_s = 0.0

    def __serve_build_asgi_app__(self) -> Any:
        async def current_app(scope: Scope, receive: Receive, send: Send) -> None:
            """Pass each request to the version that is served now. Serve sends requests only once there is one."""
            if scope["type"] == "lifespan":
                while True:
                    kind = (await receive())["type"]
                    if ends := kind == "lifespan.shutdown":
                        await self._evidence.stop()
                    await send({"type": f"{kind}.complete"})
                    if ends:
                        return
            await self._now.api(scope, receive, send)

        return current_app

    @property
    def _now(self) -> FleetApp:
        if self._rollover.now is None:
            raise RuntimeError("Serve has not configured this router")
        return self._rollover.now.serving

    async def _probe(self) -> None:
        await self._now.service.probe()

    async def check_health(self) -> None:
        """Called by Serve, which replaces a router that raises here."""
        if self._rollover.now is not None:
            await self._health.check()
            for group in self._hosted.values():
                await group.check_health()

    async def reconfigure(self, settings: dict[str, Any]) -> None:
        """Serve what the fleet file says; see `FleetFollower`."""
        await self._follower.reconfigure(settings)

    async def _start(self, fleet: FleetConfig) -> None:
        for client in self._clients.values():
            client.start()
        await self._turn_to(fleet)
        self._tasks |= {asyncio.create_task(self._poll_latency(name)) for name in self._clients}
        self._tasks.add(asyncio.create_task(self._poll_keys()))
        self._tasks.add(asyncio.create_task(self._evidence.run()))

    async def _turn_to(self, fleet: FleetConfig) -> None:
        """Prepare a version and serve it as soon as replicas host its models. Raises what is wrong with it."""
        started_for = {name: name in self._hosted for name in self._clients}
        if (in_file := {name: group.in_router for name, group in fleet.groups.items()}) != started_for:
            raise ConfigError(
                f"the file has groups {listed(in_file)}, but this router was started for {listed(started_for)}; give "
                "Serve the whole config, as `rankfleet apply` and `k8s render` do"
            )
        self._settings = settings_name(fleet.for_groups)
        before = self._rollover.now
        files = await asyncio.to_thread(FleetFiles, fleet)
        await self._evidence.prepare(fleet)
        for group in self._hosted.values():
            await group.follow(fleet)
        service = RankingService(
            fleet,
            files.tokenizers,
            self._clients,
            self._ledgers,
            models=files.models,
            before=before.serving.service if before else None,
            on_decision=self._decisions.write,
            on_lost=self._telemetry.lost,
            on_event=self._evidence.on_event(fleet),
            on_shadow=self._evidence.on_shadow(fleet),
            experiment_states=self._evidence.states,
        )
        service.fleet.use_profile(files.profile)
        api = build_api(
            service,
            self._telemetry,
            files.index,
            self._health,
            self._admission,
            HostProcess(
                log_location=log_location(),
                adds_request_id=False,  # Serve does
                disconnects=(ClientDisconnect, TaskCancelledError),
                update_faults=self._faults,
                close_after_s=CLOSE_AFTER_S,
                name=self._name,
                board=self._board.read,
            ),
            files.keys,
            self._recent,
            self._evidence.on_feedback(fleet),
        )
        version = Version(fleet, files.models, FleetApp(service, api, files.keys))
        self._rollover.offer(version, time.monotonic())
        try:
            while not await self._can_serve(version):
                await asyncio.sleep(HOSTED_PERIOD_S)
        except BaseException:
            self._rollover.drop(version)
            raise
        self._rollover.switch()
        service.take_over()
        self._evidence.follow(fleet)
        self._decisions.adjust(fleet.decision_log)
        self._admission.max_bytes = fleet.limits.max_bytes_in_flight

    async def _can_serve(self, version: Version[FleetApp]) -> bool:
        """Whether replicas host the models of a version and have reported their latency models."""
        service = version.serving.service
        for group in self._hosted.values():
            group.publish()
        if missing := self._rollover.missing(time.monotonic()):
            if (now := time.monotonic()) - self._logged_s > LOG_PERIOD_S:
                self._logged_s = now
                log.info("waiting for groups %s to host %s", ", ".join(missing), dict(version.models))
            return False
        for name in version.config.groups:
            if service.fleet.awake(name):
                try:
                    service.fleet.update_latency(await self._latency_of(name))
                except Exception as error:  # the replica has just gone, or is too busy; another one may answer
                    log.info("group %s has not reported its latency: %s", name, type(error).__name__)
                    return False
                await self._warm_up(service, name)
        return service.fleet.ready and not self._rollover.missing(time.monotonic())

    async def state(self) -> dict[str, Any]:
        """What this router serves, for `rankfleet apply`.

        `config`: the whole fleet file that is served; None before the first.
        `next`: the groups that a newer file waits for; None if there is no newer file.
        `newest`: `settings_name` of the newest file that Serve has given to this router, right or wrong.
        `faults`: why that one cannot be served, by this router or by replicas.
        """
        rollover = self._rollover
        return {
            "router": self._name,
            "config": rollover.now.config.model_dump(mode="json") if rollover.now else None,
            "next": rollover.missing(time.monotonic()) if rollover.next else None,
            "newest": self._follower.newest,
            "faults": self._faults(),
        }

    def _faults(self) -> list[str]:
        """Why the newest fleet file is not served, by this router or by replicas of groups."""
        faults = {fault for ledger in self._ledgers.values() for of, fault in ledger.faults if of == self._settings}
        return sorted(faults | ({self._follower.fault} if self._follower.fault else set()))

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve, which passes the result on to the autoscaling policy: the offered load, and the settings,
        which can change live."""
        if self._rollover.now is None:
            return {}
        for group in self._hosted.values():
            group.record_load()
        service = self._now.service
        drains = drain_times_s(service.config, service.live, service.fleet.models)
        units = {name: Resources(group.gpus, group.cpus) for name, group in service.config.groups.items()}
        now_s = service.clock()
        ejected = {name: sum(gone for *_, gone in ledger.loads(now_s)) for name, ledger in self._ledgers.items()}
        settings = service.live.autoscaling
        number = next(self._report_numbers)
        return router_report(number, service.offered, drains, settings, units, ejected, self._recent.not_served)

    async def _latency_of(self, group: str) -> dict[str, LatencyModel]:
        """Latency models of a group, by fingerprint. Raises TimeoutError and what Serve raises."""
        async with asyncio.timeout(LATENCY_TIMEOUT_S):
            return await self._clients[group].latency()

    async def _poll_latency(self, group: str) -> None:
        """Keep asking a group for its latency models: what batches take changes with the load of the machine, and
        admission depends on it."""
        while True:
            await asyncio.sleep(LATENCY_PERIOD_S)
            service = self._now.service
            # A call would wake a group that has no replica.
            if group in service.config.groups and service.fleet.awake(group):
                try:
                    models = await self._latency_of(group)
                    self._now.service.fleet.update_latency(models)
                except Exception as error:  # it is starting, or has failed and is being restarted
                    log.info("group %s has not reported its latency: %s", group, type(error).__name__)

    async def _poll_keys(self) -> None:
        """Read the file of API keys again whenever it changes, so that keys come and go without a restart."""
        while True:
            await asyncio.sleep(KEYS_PERIOD_S)
            if self._now.keys is not None:
                await asyncio.to_thread(self._now.keys.refresh)

    async def _warm_up(self, service: RankingService, group: str) -> None:
        try:
            await service.warm_up(service.config.groups[group].tiers[0])
        except Exception as error:  # the first client's request opens the connections then
            log.info("the connection to group %s was not warmed up: %s", group, type(error).__name__)
