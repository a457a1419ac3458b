"""The OpenAPI page of the API: what FastAPI does not see, because handlers read and write requests themselves."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI

from rankfleet.api.dialects.dialect import Dialect, Route, SharedRoute
from rankfleet.api.errors import documented_errors
from rankfleet.api.headers import REQUEST_ID, SESSION, SLO_CLASS, SLO_MS, USER
from rankfleet.core.sections import MAX_SLO_MS, MIN_SLO_MS

DESCRIPTION = "A latency budget comes by header, by API key, or as an SLO class in `model`."
BUDGET = {"type": "number", "minimum": MIN_SLO_MS, "maximum": MAX_SLO_MS}
TEXT = {"type": "string"}
PARAMETERS = [
    {"in": "header", "name": name, "required": False, "description": description, "schema": schema}
    for name, description, schema in (
        (SLO_MS, "latency budget in milliseconds; the body takes precedence", BUDGET),
        (SLO_CLASS, "an SLO class of the fleet; the body takes precedence", TEXT),
        (USER, "user id, for experiments that assign users to arms; the body takes precedence", TEXT),
        (SESSION, "session id, for experiments that assign sessions to arms; the body takes precedence", TEXT),
        (REQUEST_ID, "names the request in its reply and in logs", TEXT),
    )
]
# Of replies in a format whose body has no place for them (`dialects/rerank_reply.py`).
PLAN_HEADERS = {
    "tier": "the tier that answered; `none` where nothing was scored",
    "plan": "the stages, as in `small;candidates=100, large;candidates=20`",
    "reason": "why this plan",
    "quality": "expected nDCG@10",
    "predicted-ms": "predicted 99th percentile from arrival to reply",
    "budget-ms": "the budget",
    "met": "whether it was met: `true` or `false`",
    "fusion": "by what the ranking was fused, and with which weight",
    "degraded": "what was left out",
    "tokens": "tokens scored",
    "truncated": "number of documents that a stage did not read to the end",
}
WAIT_HEADERS = {"Retry-After": "seconds until a retry may pass", "retry-after-ms": "the same in milliseconds"}


class Api(FastAPI):
    """FastAPI, with request bodies among the components of its OpenAPI page, so that a client has one type for each."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            page = super().openapi()
            for operation in (path["post"] for path in page["paths"].values() if "post" in path):
                content = operation["requestBody"]["content"]["application/json"]
                bodies = content["schema"].get("anyOf", [content["schema"]])
                for body in bodies:
                    page["components"]["schemas"] |= body.pop("$defs", {}) | {body["title"]: dict(body)}
                refs = [{"$ref": f"#/components/schemas/{body['title']}"} for body in bodies]
                content["schema"] = refs[0] if len(refs) == 1 else {"anyOf": refs}
        return self.openapi_schema or {}


def documented(dialects: Sequence[Dialect], route: Route[Any, Any] | SharedRoute) -> dict[str, Any]:
    """What `FastAPI.post` has to be told of a route on which these dialects may answer."""
    body = {"schema": route.body_schema, "example": route.example}
    request = {"required": True, "content": {"application/json": body}}
    responses = documented_errors(*dialects)
    responses[429]["headers"] = described(WAIT_HEADERS)
    plan = {f"x-rankfleet-{name}": text for name, text in PLAN_HEADERS.items()}
    in_headers = any(dialect.base for dialect in dialects)  # the native format has it in the body
    responses[route.status] = {"model": route.reply_type} | ({"headers": described(plan)} if in_headers else {})
    ranks = route.status == 200
    return {
        "summary": route.summary,
        "description": DESCRIPTION if ranks else route.summary,
        "openapi_extra": {"requestBody": request, "parameters": PARAMETERS if ranks else []},
        "responses": responses,
        "status_code": route.status,
    }


def described(headers: dict[str, str]) -> dict[str, Any]:
    return {name: {"description": description, "schema": TEXT} for name, description in headers.items()}
