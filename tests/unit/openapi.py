"""Check replies against the OpenAPI page."""

from typing import Any

import httpx
import jsonschema


async def openapi_page(http: httpx.AsyncClient) -> dict[str, Any]:
    return dict((await http.get("/openapi.json")).json())


def check_documented(page: dict[str, Any], reply: httpx.Response) -> None:
    """Fails unless the reply is what the page says of its path, method and status."""
    check_json(page, reply.request.method, reply.request.url.path, reply.status_code, reply.json())


def check_json(page: dict[str, Any], method: str, path: str, status: int, content: Any) -> None:
    """Fails unless the JSON is what the page says, with no field that the page does not name."""
    schema = page["paths"][path][method.lower()]["responses"][str(status)]["content"]["application/json"]["schema"]
    components = {
        name: component | ({"additionalProperties": False} if "properties" in component else {})
        for name, component in page["components"]["schemas"].items()
    }
    jsonschema.Draft202012Validator({"components": {"schemas": components}, **schema}).validate(content)
