"""The contract of every wire format. A new dialect needs a `Client` here and nothing else."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import jsonschema
import pytest

from rankfleet.api.dialects.dialect import Dialect
from rankfleet.api.dialects.registry import DIALECTS
from rankfleet.api.headers import RequestHeaders
from rankfleet.core.messages import Chunk, ChunkScores
from rankfleet.estimates.latency import LatencyModel
from rankfleet.router.ledger import Entry
from tests.unit.fakes import FakeGroup, http_client, send, service
from tests.unit.openapi import check_documented, openapi_page

# The example of every rerank route asks this.
QUERY = "How do vaccines protect against disease?"
DOCUMENTS = [
    "The stock market closed higher on Friday after strong earnings.",
    "A vaccine trains the immune system to recognise a germ, so that it can fight the disease later.",
]
BEST_FIRST = [1, 0]  # FakeGroup scores by the number of tokens


@dataclass(frozen=True)
class Client:
    """How a client of a dialect reads its replies.

    order: indexes of the documents, best first.
    scores: in the same order.
    message: of an error.
    invalid: status of a body that is wrong.
    """

    order: Callable[[Any], list[int]]
    scores: Callable[[Any], list[float]]
    message: Callable[[Any], str]
    invalid: int


CLIENTS = {
    "native": Client(
        order=lambda reply: [result["index"] for result in reply["results"]],
        scores=lambda reply: [result["relevance_score"] for result in reply["results"]],
        message=lambda reply: reply["error"]["message"],
        invalid=422,
    )
}
RERANK = [pytest.param(dialect, route, id=route.path) for dialect in DIALECTS for route in dialect.rerank]
ROUTES = [pytest.param(dialect, route, id=route.path) for dialect in DIALECTS for route in dialect.routes]


def example(route: Any, **fields: Any) -> bytes:
    return json.dumps({**route.example, **fields}).encode()


async def post(path: str, content: bytes, group: FakeGroup | None = None) -> httpx.Response:
    async with http_client(service(group)) as http:
        return await http.post(path, content=content, headers={"x-request-id": "mine-1"})


async def page() -> dict[str, Any]:
    async with http_client(service()) as http:
        return await openapi_page(http)


def check_error(dialect: Dialect, reply: httpx.Response, status: int, message: str) -> None:
    """An error has its status, says what is wrong in the dialect's form, and names the request."""
    assert reply.status_code == status
    assert message in CLIENTS[dialect.name].message(reply.json())
    assert reply.headers.get_list("x-request-id") == ["mine-1"]
    assert reply.headers["content-type"] == "application/json"


@pytest.mark.parametrize(("dialect", "route"), RERANK)
def test_the_example_becomes_a_request(dialect: Dialect, route: Any) -> None:
    request = route.parse(example(route), RequestHeaders(request_id="mine-1")).request
    assert (request.query, request.documents, request.request_id) == (QUERY, DOCUMENTS, "mine-1")


@pytest.mark.parametrize(("dialect", "route"), RERANK)
def test_headers_give_what_the_body_does_not(dialect: Dialect, route: Any) -> None:
    body = {name: value for name, value in route.example.items() if name != "slo_ms"}
    headers = RequestHeaders(slo_ms=70.0, slo_class="fast", api_key="secret")
    request = route.parse(json.dumps(body).encode(), headers).request
    assert (request.slo_ms, request.slo_class, request.api_key) == (70.0, "fast", "secret")


@pytest.mark.parametrize(("dialect", "route"), RERANK)
async def test_a_reply_has_one_result_for_each_document_best_first(dialect: Dialect, route: Any) -> None:
    reply = await post(route.path, example(route))
    assert reply.status_code == 200
    client = CLIENTS[dialect.name]
    assert client.order(reply.json()) == BEST_FIRST
    scores = client.scores(reply.json())
    assert scores[0] > scores[1]
    check_documented(await page(), reply)


@pytest.mark.parametrize(("dialect", "route"), RERANK)
async def test_a_document_that_was_not_scored_has_a_result_too(dialect: Dialect, route: Any) -> None:
    one = service(candidates="ranked", quality={"retriever": 0.2})
    one.fleet.update_latency({tier: LatencyModel(500, 0, 0) for tier in ("small", "medium", "large")})
    async with http_client(one) as http:
        reply = await http.post(route.path, content=example(route), headers={"x-rankfleet-slo-ms": "5"})
    assert reply.status_code == 200
    assert CLIENTS[dialect.name].order(reply.json()) == [0, 1], "in the order sent"
    check_documented(await page(), reply)


@pytest.mark.parametrize(("dialect", "route"), RERANK)
async def test_no_documents_are_refused(dialect: Dialect, route: Any) -> None:
    names = [name for name, value in route.example.items() if value == DOCUMENTS]
    assert len(names) == 1
    reply = await post(route.path, example(route, **{names[0]: []}))
    check_error(dialect, reply, CLIENTS[dialect.name].invalid, "documents is empty")


@pytest.mark.parametrize("content", [b"", b"hello", b"[]", b"{}", b'{"query": "\xff"}', b"[" * 1500], ids=repr)
@pytest.mark.parametrize(("dialect", "route"), RERANK)
async def test_bodies_that_cannot_be_read_are_refused(dialect: Dialect, route: Any, content: bytes) -> None:
    reply = await post(route.path, content)
    check_error(dialect, reply, CLIENTS[dialect.name].invalid, "request body: ")
    check_documented(await page(), reply)


@pytest.mark.parametrize(("dialect", "route"), RERANK)
async def test_an_unknown_field_is_refused_by_name_and_null_is_not(dialect: Dialect, route: Any) -> None:
    reply = await post(route.path, example(route, colour="blue"))
    check_error(dialect, reply, CLIENTS[dialect.name].invalid, "'colour' is unknown")
    assert (await post(route.path, example(route, colour=None))).status_code == 200


@pytest.mark.parametrize(("dialect", "route"), RERANK)
async def test_a_field_in_the_query_string_is_refused(dialect: Dialect, route: Any) -> None:
    reply = await post(f"{route.path}?query=cat", example(route))
    check_error(dialect, reply, CLIENTS[dialect.name].invalid, "query is not read from the query string")


@pytest.mark.parametrize(("dialect", "route"), RERANK)
async def test_a_fault_of_the_fleet_has_the_form_of_the_dialect(dialect: Dialect, route: Any) -> None:
    class Broken(FakeGroup):
        async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
            raise ZeroDivisionError

    reply = await post(route.path, example(route), Broken())
    check_error(dialect, reply, 500, "look for request mine-1 in the router's log")
    check_documented(await page(), reply)


@pytest.mark.parametrize(("dialect", "route"), RERANK)
async def test_a_busy_fleet_says_when_to_retry(dialect: Dialect, route: Any) -> None:
    one = service(
        tiers={"only": {"model": "demo/small", "quality": 0.3}},
        groups={"demo": {"tiers": ["only"]}},
        slo_classes={"fast": {"slo_ms": 20, "when_none_fits": "refuse"}},
        default_slo_class="fast",
    )
    one.fleet.update_latency({"only": LatencyModel(5, 0, 0)})
    send(one, 1585.0)
    body = {name: value for name, value in route.example.items() if name != "slo_ms"}
    async with http_client(one) as http:
        reply = await http.post(route.path, json=body, headers={"x-request-id": "mine-1"})
    check_error(dialect, reply, 429, "retry later or allow more time")
    # 3 ms of overhead, 1,585 ahead and 5 to score are 1,573 ms more than the budget.
    assert (reply.headers["retry-after"], reply.headers["retry-after-ms"]) == ("2", "1573")
    check_documented(await page(), reply)


@pytest.mark.parametrize(("dialect", "route"), ROUTES)
async def test_other_methods_are_refused_in_the_form_of_the_dialect(dialect: Dialect, route: Any) -> None:
    async with http_client(service()) as http:
        reply = await http.get(route.path, headers={"x-request-id": "mine-1"})
    check_error(dialect, reply, 405, f"{route.path} does not take GET")
    assert reply.headers["allow"] == "POST"


async def test_an_unknown_path_is_answered_in_the_native_form() -> None:
    reply = await post("/v9/rerank", b"{}")
    assert reply.status_code == 404
    message = "there is nothing at /v9/rerank; GET / lists what there is"
    assert reply.json() == {"error": {"code": "not_found", "message": message, "request_id": "mine-1"}}


@pytest.mark.parametrize(("dialect", "route"), ROUTES)
async def test_the_openapi_page_describes_a_route_and_its_example_fits(dialect: Dialect, route: Any) -> None:
    operation = (await page())["paths"][route.path]["post"]
    content = operation["requestBody"]["content"]["application/json"]
    jsonschema.Draft202012Validator(content["schema"]).validate(content["example"])
    assert {"404", "408", "413", "422", "429", "500", "503", "504"} < operation["responses"].keys()


def test_no_two_dialects_have_the_same_path() -> None:
    paths = [route.path for dialect in DIALECTS for route in dialect.routes]
    assert len(paths) == len({*paths}), "give the path to one dialect, and let that one tell the bodies apart"
