"""The OpenAPI page and the page of the API at /docs."""

import re
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest

from rankfleet.api.dialects.registry import DIALECTS
from rankfleet.api.docs_page import type_html
from tests.unit.fakes import http_client, service
from tests.unit.openapi import openapi_page


class Links(HTMLParser):
    """What a page refers to, its ids, and how deep it ends in elements that were not closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.targets += [value or "" for name, value in attributes if name in ("href", "src", "action")]
        self.ids += [value or "" for name, value in attributes if name == "id"]
        self.open += [tag] if tag != "meta" else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


async def test_the_page_of_the_api_loads_nothing_from_another_host() -> None:
    async with http_client(service()) as http:
        page = (await http.get("/docs")).text
        for other in ("/redoc", "/docs/oauth2-redirect"):
            assert (await http.get(other)).status_code == 404
    assert not re.search(r"https?:|//\w|@import|url\(", page)
    links = Links(page)
    assert links.open == []
    assert all(re.match(r"#|/(?!/)", target) for target in links.targets)
    assert {target[1:] for target in links.targets if target[0] == "#"} <= {*links.ids}, "a type is not there"


async def test_the_page_of_the_api_has_every_path_field_and_status() -> None:
    async with http_client(service()) as http:
        page, openapi = (await http.get("/docs")).text, await openapi_page(http)
    assert Links(page).targets.count("/v2/rerank") == 1
    for path in openapi["paths"]:
        assert f"<code>{path}</code>" in page
    for name in ("relevance_score", "slo_ms", "x-rankfleet-slo-class", "request_id"):
        assert f"<code>{name}</code>" in page
    assert (
        "sends more than its rate; <code>Retry-After</code> and <code>retry-after-ms</code> say when to retry" in page
    )
    assert "<td>429</td>" in page


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "string"}, "string"),
        ({"type": ["number", "null"]}, "number or null"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "integer or null"),
        ({"type": "array", "items": {"$ref": "#/components/schemas/Row"}}, 'list of <a href="#Row">Row</a>'),
        ({"enum": ["a", "b"]}, "<code>&quot;a&quot;</code> or <code>&quot;b&quot;</code>"),
        ({"const": 1}, "<code>1</code>"),
        ({"type": "object", "properties": {"text": {"type": "string"}}}, "object with <code>text</code> (string)"),
        ({}, "anything"),
    ],
)
def test_types_in_words(schema: dict[str, Any], text: str) -> None:
    assert type_html(schema) == text


async def test_every_header_of_a_plan_is_described() -> None:
    async with http_client(service(candidates="ranked")) as http:
        page = await openapi_page(http)
        for path in (route.path for dialect in DIALECTS if dialect.base for route in dialect.rerank):
            operation = page["paths"][path]["post"]
            body = operation["requestBody"]["content"]["application/json"]["example"]
            for budget in ("500", "3"):  # ranked, and left as given
                reply = await http.post(path, json=body, headers={"x-slo-ms": budget})
                told = {name for name in reply.headers if name.startswith("x-rankfleet-")}
                assert len(told) > 5
                assert told <= operation["responses"]["200"]["headers"].keys()
            assert operation["responses"]["429"]["headers"].keys() == {"Retry-After", "retry-after-ms"}


async def test_a_body_is_one_component_and_headers_are_parameters() -> None:
    async with http_client(service()) as http:
        page = await openapi_page(http)
    schemas = {
        path: page["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        for path in ("/v1/rerank", "/v1/plan", "/rerank")
    }
    assert schemas["/v1/rerank"] == schemas["/v1/plan"] == {"$ref": "#/components/schemas/RerankBody"}
    names = ["TeiBody", "VllmRerankBody"]
    assert schemas["/rerank"] == {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in names]}
    parameters = page["paths"]["/v1/rerank"]["post"]["parameters"]
    own = ["slo-ms", "slo-class", "user", "session"]
    assert [one["name"] for one in parameters] == [*(f"x-rankfleet-{name}" for name in own), "x-request-id"]
    assert "partial(" not in httpx.Response(200, json=page).text, "a description of Python in place of one's own"
