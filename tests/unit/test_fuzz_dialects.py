"""Whatever a client sends to a wire format, it gets an answer that the OpenAPI page describes, and no fault."""

import asyncio
import functools
import json
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from rankfleet.api.app import build_api
from rankfleet.api.dialects.registry import DIALECTS, SHARED
from rankfleet.api.headers import RequestHeaders
from rankfleet.core.errors import RequestError
from rankfleet.retrieval.bm25 import Hit
from tests.fuzzing import ODD_NUMBERS, ODD_TEXTS, fuzzed, nearly
from tests.unit.fakes import FakeMetrics, service
from tests.unit.openapi import check_documented

ROUTES = [pytest.param(route, id=route.path) for dialect in DIALECTS for route in dialect.routes]
FORMATS = {param.values[0].body: param for param in reversed(ROUTES)}  # one path of each


class OneDocument:
    def search(self, query: str, k: int) -> list[Hit]:
        return [Hit("a", "a cat", 1.0)][:k] if query.strip() else []


@functools.cache
def api() -> FastAPI:
    one = service(slo_classes={"fast": {"slo_ms": 20, "when_none_fits": "refuse"}}, search={"index": "index"})
    return build_api(one, FakeMetrics(), OneDocument())


def full(route: Any) -> dict[str, Any]:
    """The example of a route with every other field, mostly as null."""
    return dict.fromkeys(route.body.model_fields) | dict(route.example)


async def post(path: str, content: bytes, headers: dict[str, str]) -> httpx.Response:
    sent = [(name, value.encode("utf-8", "surrogatepass")) for name, value in headers.items()]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api()), base_url="http://test") as http:
        return await http.post(path, content=content, headers=sent)


@pytest.mark.parametrize("route", FORMATS.values())
def test_every_body_is_parsed_or_refused(route: Any) -> None:
    @fuzzed(30)
    @given(nearly(full(route)))
    def parse(body: bytes) -> None:
        try:
            route.parse(body, RequestHeaders())
        except RequestError as error:
            assert str(error)  # noqa: PT017 (most bodies are refused, and each has to be in its own way)

    parse()


@pytest.mark.parametrize("path", [*(param.values[0].path for param in ROUTES), *(shared.path for shared in SHARED)])
def test_every_request_has_an_answer_of_its_format(path: str) -> None:
    by_path = {param.values[0].path: param.values[0] for param in ROUTES}
    route = by_path.get(path) or next(iter(SHARED[0].routes.values()))
    names = st.sampled_from(
        ["x-slo-ms", "x-rankfleet-slo-ms", "x-rankfleet-slo-class", "x-request-id", "x-rankfleet-x"]
    )
    values = st.sampled_from([*ODD_TEXTS, *(str(number)[:50] for number in ODD_NUMBERS), "fast"])

    @fuzzed(8)
    @given(nearly(full(route)), st.dictionaries(names, values, max_size=1))
    def ask(body: bytes, headers: dict[str, str]) -> None:
        reply = asyncio.run(post(path, body, headers))
        assert reply.status_code < 500, reply.text
        check_documented(api().openapi(), reply)
        json.loads(reply.content, parse_constant=pytest.fail)  # NaN and infinity are not JSON

    ask()
