"""The HTTP face of a router: routes, headers, errors."""

from typing import Any

import orjson
from fastapi import FastAPI, Request, Response

from rankfleet import __version__
from rankfleet.app.bodies import RerankBody, error_reply, parse_body, ranking_reply, server_timing
from rankfleet.app.service import RankingService
from rankfleet.app.telemetry import Telemetry
from rankfleet.core.config import AUTO
from rankfleet.core.errors import InvalidRequest, Overloaded, RankfleetError, TooLarge

RERANK_SCHEMA = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": RerankBody.model_json_schema()}},
    }
}


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


def build_api(service: RankingService, telemetry: Telemetry) -> FastAPI:
    """The routes over one router's service."""
    api = FastAPI(title="Rankfleet", version=__version__, description="Reranking within a latency budget.")

    @api.exception_handler(RankfleetError)
    async def refuse(_: Request, error: RankfleetError) -> Response:
        headers = {}
        if isinstance(error, Overloaded):
            headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
        telemetry.refused(error.code)
        return json_response(error_reply(error.code, str(error)), error.status, headers)

    @api.exception_handler(Exception)
    async def fail(_: Request, error: Exception) -> Response:
        telemetry.refused("internal")
        message = f"this request failed inside the fleet ({type(error).__name__}); the router's log has the details"
        return json_response(error_reply("internal", message), 500)

    @api.exception_handler(404)
    async def not_found(request: Request, _: Exception) -> Response:
        message = f"there is nothing at {request.url.path}; see /docs for what there is"
        return json_response(error_reply("not_found", message), 404)

    @api.exception_handler(405)
    async def wrong_method(request: Request, _: Exception) -> Response:
        message = f"{request.url.path} does not take {request.method}; see /docs"
        return json_response(error_reply("method_not_allowed", message), 405)

    @api.post("/v1/rerank", openapi_extra=RERANK_SCHEMA, summary="Rank documents for a query")
    async def rerank(request: Request) -> Response:
        arrived_s = service.clock()
        body = parse_body(await read_body(request, service.config.limits.max_body_bytes))
        asked = body.to_request(header_budget(request))
        ranking = await service.rank(asked, arrived_s)
        telemetry.answered(ranking)
        reply = ranking_reply(ranking, bool(body.return_documents))
        return json_response(reply, headers={"Server-Timing": server_timing(ranking)})

    @api.get("/v1/models", summary="Tiers and SLO classes of this fleet")
    async def models() -> Response:
        config, live = service.config, service.live
        data: list[dict[str, Any]] = [{"id": AUTO, "object": "model", "kind": "planner"}]
        for name, tier in config.tiers.items():
            data.append(
                {
                    "id": name,
                    "object": "model",
                    "kind": "tier",
                    "model": tier.model,
                    "quality": tier.quality,
                    "group": config.group_of(name),
                }
            )
        for name, slo in live.slo_classes.items():
            data.append({"id": name, "object": "model", "kind": "slo_class", "slo_ms": slo.slo_ms})
        return json_response({"object": "list", "data": data})

    @api.get("/healthz", summary="Whether this router is alive")
    async def healthz() -> Response:
        return json_response({"status": "ok"})

    @api.get("/readyz", summary="Whether every group has a replica that scores")
    async def readyz() -> Response:
        ready = service.fleet.ready
        return json_response({"status": "ready" if ready else "starting"}, 200 if ready else 503)

    return api


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body. Raises TooLarge as soon as it is known to pass `limit` bytes."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise TooLarge(f"the request body is longer than the {limit} bytes allowed; send fewer documents")
    return bytes(body)


def header_budget(request: Request) -> float | None:
    """The budget of `x-rankfleet-slo-ms`, for clients that cannot change the body."""
    text = request.headers.get("x-rankfleet-slo-ms")
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise InvalidRequest(f"header x-rankfleet-slo-ms: {text!r} is not a positive number of milliseconds")
    return value
