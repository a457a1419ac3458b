"""What can be asked about a router and its fleet: health, readiness, models, paths. The same for every dialect."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal, NotRequired

from fastapi import FastAPI, Response
from pydantic import Field
from typing_extensions import TypedDict

from rankfleet import __version__
from rankfleet.api.http import json_response
from rankfleet.core.sections import AUTO
from rankfleet.router.health import RouterHealth
from rankfleet.router.service import RankingService

ABOUT = "Reranking within a latency budget."
Responses = dict[int | str, dict[str, Any]]


class ModelReply(TypedDict):
    id: Annotated[str, Field(description="what a request may name as `model`")]
    object: Literal["model"]
    kind: Literal["planner", "tier", "slo_class"]
    model: NotRequired[Annotated[str, Field(description="of a tier: its checkpoint")]]
    quality: NotRequired[Annotated[float, Field(description="of a tier: nDCG@10")]]
    group: NotRequired[Annotated[str, Field(description="of a tier: the group that hosts it")]]
    slo_ms: NotRequired[Annotated[float | None, Field(description="of an SLO class: its budget")]]


class ModelsReply(TypedDict):
    object: Literal["list"]
    data: list[ModelReply]


class StatusReply(TypedDict):
    status: Literal["ok", "ready", "asleep", "starting", "failing"]
    reason: NotRequired[str]
    not_changed: NotRequired[
        Annotated[list[str], Field(description="why the newest fleet file is not served; the one before it still is")]
    ]


class RootReply(TypedDict):
    name: Literal["rankfleet"]
    version: str
    about: str
    paths: Annotated[dict[str, str], Field(description="what is at each path")]


class StatusRoutes:
    """GET /, /healthz, /health, /readyz and /v1/models."""

    def __init__(
        self, api: FastAPI, service: RankingService, health: RouterHealth, update_faults: Callable[[], list[str]]
    ) -> None:
        """update_faults: why the newest fleet file is not served; empty where it is."""
        self._api = api
        self._service = service
        self._health = health
        self._update_faults = update_faults

    def add(self) -> None:
        """Add the routes to the API."""
        status: Responses = {200: {"model": StatusReply}}
        self._add("/v1/models", self.models, "List tiers and SLO classes", {200: {"model": ModelsReply}})
        self._add("/", self.root, "List paths", {200: {"model": RootReply}}, takes_head=True)
        self._add("/healthz", self.alive, "Whether this router's process answers", status, takes_head=True)
        self._add("/health", self.alive, "The same as /healthz", status, takes_head=True)
        not_ready: Responses = {503: {"model": StatusReply}}
        self._add("/readyz", self.ready, "Whether this router can rank", status | not_ready, takes_head=True)

    def _add(
        self,
        path: str,
        handler: Callable[[], Awaitable[Response]],
        summary: str,
        responses: Responses,
        takes_head: bool = False,
    ) -> None:
        self._api.get(path, summary=summary, responses=responses)(handler)
        if takes_head:
            self._api.head(path, include_in_schema=False)(handler)

    async def models(self) -> Response:
        config, live, quality = self._service.config, self._service.live, self._service.fleet.quality
        data: list[dict[str, Any]] = [{"id": AUTO, "object": "model", "kind": "planner"}]
        data += [
            {
                "id": name,
                "object": "model",
                "kind": "tier",
                "model": tier.model,
                "quality": quality.tiers[name],
                "group": config.group_of(name),
            }
            for name, tier in config.tiers.items()
        ]
        data += [
            {"id": name, "object": "model", "kind": "slo_class", "slo_ms": slo.slo_ms}
            for name, slo in live.slo_classes.items()
        ]
        return json_response({"object": "list", "data": data})

    async def root(self) -> Response:
        paths = {
            path: operation["summary"]
            for path, operations in self._api.openapi()["paths"].items()
            for operation in operations.values()
        }
        about = {"name": "rankfleet", "version": __version__, "about": ABOUT}
        return json_response(about | {"paths": paths | {"/docs": "API page"}})

    async def alive(self) -> Response:
        return json_response({"status": "ok"})

    async def ready(self) -> Response:
        if not self._service.fleet.ready:
            reason = "not every group has reported its latency yet"
            return json_response({"status": "starting", "reason": reason}, 503)
        not_changed = {"not_changed": why} if (why := self._update_faults()) else {}
        if self._service.fleet.asleep:
            asleep = {"status": "asleep", "reason": "the next request starts a replica"}
            return json_response(asleep | not_changed)
        try:
            await self._health.ready()
        except RuntimeError as error:
            return json_response({"status": "failing", "reason": str(error)}, 503)
        return json_response({"status": "ready"} | not_changed)
