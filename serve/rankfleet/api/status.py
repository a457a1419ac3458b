"""What can be asked about a router and its fleet: health, readiness, models, paths. The same for every dialect."""

from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, Literal, NotRequired

from fastapi import FastAPI, Request, Response
from pydantic import Field
from typing_extensions import TypedDict

from rankfleet import __version__
from rankfleet.api.docs_page import docs_page
from rankfleet.api.http import json_response
from rankfleet.core.sections import AUTO
from rankfleet.router.health import RouterHealth
from rankfleet.router.service import RankingService

ABOUT = "Reranking within a latency budget."
Responses = dict[int | str, dict[str, Any]]


class PrecisionReply(TypedDict):
    dtype: Literal["float32", "bfloat16", "int8"]
    reason: str
    pairs_per_s: Annotated[
        dict[str, float], Field(description="on one thread, of each precision that was measured to choose one")
    ]


class ModelReply(TypedDict):
    id: Annotated[str, Field(description="what a request may name as `model`")]
    object: Literal["model"]
    kind: Literal["planner", "tier", "slo_class"]
    model: NotRequired[Annotated[str, Field(description="of a tier: its checkpoint")]]
    quality: NotRequired[Annotated[float, Field(description="of a tier: nDCG@10")]]
    group: NotRequired[Annotated[str, Field(description="of a tier: the group that hosts it")]]
    precision: NotRequired[
        Annotated[PrecisionReply, Field(description="of a tier that a replica hosts: what it is computed in, and why")]
    ]
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


def add_status_routes(
    api: FastAPI, service: RankingService, health: RouterHealth, update_faults: Callable[[], list[str]]
) -> None:
    """Add GET /, /docs, /healthz, /health, /readyz and /v1/models to the API.

    update_faults: why the newest fleet file is not served; empty where it is. Who has no key is not told reasons.
    """
    status: Responses = {200: {"model": StatusReply}}
    not_ready: Responses = {503: {"model": StatusReply}}

    @api.get("/v1/models", summary="List tiers and SLO classes", responses={200: {"model": ModelsReply}})
    async def models() -> Response:
        config, quality = service.config, service.fleet.own_quality
        data: list[dict[str, Any]] = [{"id": AUTO, "object": "model", "kind": "planner"}]
        data += [
            {
                "id": name,
                "object": "model",
                "kind": "tier",
                "model": tier.model,
                "quality": quality[name],
                "group": config.group_of(name),
            }
            | ({} if (precision := service.fleet.precision(name)) is None else {"precision": precision.to_json()})
            for name, tier in config.tiers.items()
        ]
        data += [
            {"id": name, "object": "model", "kind": "slo_class", "slo_ms": slo.slo_ms}
            for name, slo in config.slo_classes.items()
        ]
        return json_response({"object": "list", "data": data})

    @api.get("/", summary="List paths", responses={200: {"model": RootReply}})
    @api.head("/", include_in_schema=False)
    async def root() -> Response:
        paths = {
            path: operation["summary"]
            for path, operations in api.openapi()["paths"].items()
            for operation in operations.values()
        }
        about = {"name": "rankfleet", "version": __version__, "about": ABOUT}
        return json_response(about | {"paths": paths | {"/console": "Console", "/docs": "API page"}})

    @cache  # who has no key may ask for these as often as anybody
    def page() -> str:
        return docs_page(api.openapi())

    @cache
    def schema() -> bytes:
        return bytes(json_response(api.openapi()).body)

    @api.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return Response(schema(), media_type="application/json")

    @api.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(page(), media_type="text/html")

    @api.get("/health", summary="The same as /healthz", responses=status)
    @api.head("/health", include_in_schema=False)
    @api.get("/healthz", summary="Whether this router's process answers", responses=status)
    @api.head("/healthz", include_in_schema=False)
    async def alive() -> Response:
        return json_response({"status": "ok"})

    @api.get("/readyz", summary="Whether this router can rank", responses=status | not_ready)
    @api.head("/readyz", include_in_schema=False)
    async def ready(request: Request) -> Response:
        status, code = await readiness()
        kept = status if request.scope["rankfleet.known"] else {"status": status["status"]}
        return json_response(kept, code)

    async def readiness() -> tuple[dict[str, Any], int]:
        if not service.fleet.ready:
            reason = "not every group has reported its latency yet"
            return {"status": "starting", "reason": reason}, 503
        not_changed = {"not_changed": why} if (why := update_faults()) else {}
        if service.fleet.asleep:
            asleep = {"status": "asleep", "reason": "the next request starts a replica"}
            return asleep | not_changed, 200
        try:
            await health.ready()
        except RuntimeError as error:
            return {"status": "failing", "reason": str(error)}, 503
        return {"status": "ready"} | not_changed, 200
