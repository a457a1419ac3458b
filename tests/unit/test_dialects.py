"""The contract of every wire format. A new dialect needs a `Client` here and nothing else."""

import functools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from fastapi import FastAPI

from rankfleet.api.app import build_api
from rankfleet.api.dialects.dialect import Dialect
from rankfleet.api.dialects.registry import DIALECTS, SHARED
from rankfleet.api.headers import RequestHeaders
from rankfleet.api.keys import KeyRing, line_of
from rankfleet.core.messages import Chunk, ChunkScores
from rankfleet.estimates.latency import LatencyModel
from rankfleet.router.replica_record import Entry
from rankfleet.router.service import RankingService
from tests.unit.fakes import FakeGroup, FakeMetrics, http_client, send, service
from tests.unit.openapi import check_documented

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

    results: the rows of a ranking. score: name of their score.
    message: of an error.
    invalid, fault: statuses of a body that is wrong, and of a fault of the fleet.
    """

    results: Callable[[Any], list[dict[str, Any]]]
    score: str
    message: Callable[[Any], str]
    invalid: int
    fault: int = 500

    def best_first(self, reply: Any) -> list[dict[str, Any]]:
        """Rows by score; those of equal score in the order given."""
        return sorted(self.results(reply), key=lambda row: -row[self.score])

    def order(self, reply: Any) -> list[int]:
        return [row["index"] for row in self.best_first(reply)]


def below(*names: str) -> Callable[[Any], Any]:
    def read(reply: Any) -> Any:
        for name in names:
            reply = reply[name]
        return reply

    return read


CLIENTS = {
    "native": Client(below("results"), "relevance_score", below("error", "message"), 422),
    "cohere": Client(below("results"), "relevance_score", below("message"), 400),
    "jina": Client(below("results"), "relevance_score", below("detail"), 422),
    "voyage": Client(below("data"), "relevance_score", below("detail"), 400),
    "tei": Client(below(), "score", below("error"), 422, 424),
    "vllm": Client(below("results"), "relevance_score", below("error", "message"), 400),
    "infinity": Client(below("results"), "relevance_score", below("error", "message"), 422),
    "sglang": Client(below(), "score", below("message"), 400),
    "nim": Client(below("rankings"), "logit", below("message"), 400),
}
SCORES = Client(below("data"), "score", below("error", "message"), 400)  # of vLLM's second format
ROUTES = [pytest.param(dialect, route, id=route.path) for dialect in DIALECTS for route in dialect.routes]
FORMATS = {(dialect.name, route.body): (dialect, route) for dialect in DIALECTS for route in reversed(dialect.rerank)}
RERANK = [pytest.param(dialect, route, id=route.path) for dialect, route in FORMATS.values()]  # one path of each
DOCUMENT_FIELDS = {"documents", "texts", "text_2", "passages"}
TOP_FIELDS = {"top_n", "top_k"}


def client_of(dialect: Dialect, route: Any) -> Client:
    return SCORES if route.path.endswith("/score") else CLIENTS[dialect.name]


def example(route: Any, **fields: Any) -> bytes:
    return json.dumps({**route.example, **fields}).encode()


@functools.cache
def idle_fleet() -> FastAPI:
    return build_api(service(), FakeMetrics())


async def post(path: str, content: bytes, api: FastAPI | None = None, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api or idle_fleet()), base_url="http://test") as http:
        return await http.post(path, content=content, headers={"x-request-id": "mine-1", **headers})


def three_tiers(**changes: Any) -> RankingService:
    """Tiers that take 10, 40 and 160 ms, whatever they score."""
    one = service(**changes)
    one.fleet.update_latency({n: LatencyModel(ms, 0, 0) for n, ms in (("small", 10), ("medium", 40), ("large", 160))})
    return one


def tier_of(dialect: Dialect, reply: httpx.Response) -> str:
    assert reply.status_code == 200, reply.text
    return str(reply.json()["model"] if dialect.name == "native" else reply.headers["x-rankfleet-tier"])


def page() -> dict[str, Any]:
    return idle_fleet().openapi()


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
    headers = RequestHeaders(slo_ms=70.0, slo_class="fast", tenant="app")
    request = route.parse(json.dumps(body).encode(), headers).request
    assert (request.slo_ms, request.slo_class, request.tenant) == (70.0, "fast", "app")


@pytest.mark.parametrize(("dialect", "route"), RERANK)
async def test_a_reply_has_one_result_for_each_document_best_first(dialect: Dialect, route: Any) -> None:
    reply = await post(route.path, example(route))
    assert reply.status_code == 200
    client = client_of(dialect, route)
    assert client.order(reply.json()) == BEST_FIRST
    if client is not SCORES:
        assert client.results(reply.json()) == client.best_first(reply.json())
    first, second = (row[client.score] for row in client.best_first(reply.json()))
    assert first > second
    check_documented(page(), reply)


@pytest.mark.parametrize(("dialect", "route"), RERANK)
async def test_more_results_than_documents_are_all_and_fewer_are_the_best(dialect: Dialect, route: Any) -> None:
    for field in TOP_FIELDS & route.body.model_fields.keys():
        many, one = [await post(route.path, example(route, **{field: count})) for count in (99, 1)]
        assert CLIENTS[dialect.name].order(many.json()) == BEST_FIRST
        assert CLIENTS[dialect.name].order(one.json()) == BEST_FIRST[:1]


@pytest.mark.parametrize(("dialect", "route"), RERANK)
async def test_null_is_the_default_and_is_never_sent_for_a_document(dialect: Dialect, route: Any) -> None:
    nulls = dict.fromkeys(name for name, field in route.body.model_fields.items() if not field.is_required())
    nulls = dict.fromkeys(nulls.keys() - {"query"} | route.body.unsupported.keys())  # `queries` may replace it
    reply, plain = await post(route.path, example(route, **nulls)), await post(route.path, example(route))
    client = client_of(dialect, route)
    assert client.results(reply.json()) == client.results(plain.json())
    assert all(value is not None for row in client.results(reply.json()) for value in row.values())


@pytest.mark.parametrize(("dialect", "route"), RERANK)
async def test_what_is_not_supported_yet_is_refused_by_name(dialect: Dialect, route: Any) -> None:
    for name, same_as_left_out in route.body.unsupported.items():
        reply = await post(route.path, example(route, **{name: {"other": 1}}))
        check_error(dialect, reply, CLIENTS[dialect.name].invalid, f"'{name}' is not supported yet; leave it out")
        for value in same_as_left_out:
            assert (await post(route.path, example(route, **{name: value}))).status_code == 200


@pytest.mark.parametrize(("dialect", "route"), RERANK)
async def test_a_budget_reaches_every_dialect_by_header_key_and_model(
    dialect: Dialect, route: Any, tmp_path: Path
) -> None:
    body = {name: value for name, value in route.example.items() if name != "slo_ms"}
    classes = {"fast": {"slo_ms": 20}, "middle": {"slo_ms": 60}}
    tenants: dict[str, Any] = {"app": {}, "other": {"slo_classes": ["middle"]}}
    keys = tmp_path / "keys"
    keys.write_text("".join(f"{line_of(key, key)}\n" for key in tenants))
    fleet = three_tiers(slo_classes=classes, tenants=tenants)
    async with http_client(fleet, keys=KeyRing(str(keys), tenants)) as http:
        for headers, model, tier in (
            ({}, None, "large"),
            ({"x-slo-ms": "15"}, None, "small"),
            ({"x-rankfleet-slo-ms": "60", "x-slo-ms": "15"}, None, "medium"),
            ({"x-rankfleet-slo-class": "fast"}, None, "small"),
            ({"x-api-key": "other"}, None, "medium"),
            ({}, "fast", "small"),
            ({}, "medium", "medium"),
        ):
            reply = await http.post(route.path, json=body | {"model": model}, headers={"x-api-key": "app"} | headers)
            assert tier_of(dialect, reply) == tier, (headers, model)


@pytest.mark.parametrize(("dialect", "route"), RERANK)
async def test_impossible_budgets_and_unknown_models_are_refused(dialect: Dialect, route: Any) -> None:
    reply = await post(route.path, example(route), **{"x-slo-ms": "0.2"})
    check_error(dialect, reply, CLIENTS[dialect.name].invalid, "header x-slo-ms: a budget is in milliseconds")
    check_error(dialect, await post(route.path, example(route, model="gpt")), 404, "there is no model 'gpt'")


@pytest.mark.parametrize(("dialect", "route"), [param for param in ROUTES if param.values[1] in param.values[0].rerank])
async def test_every_path_ranks_with_a_version_in_front_too(dialect: Dialect, route: Any) -> None:
    client = client_of(dialect, route)
    for path in (route.path, re.sub("/v[12]/", lambda version: f"/v1{version[0]}", route.path)):
        assert client.order((await post(path, example(route))).json()) == BEST_FIRST


@pytest.mark.parametrize(("dialect", "route"), RERANK)
async def test_a_document_that_was_not_scored_has_a_result_too(dialect: Dialect, route: Any) -> None:
    one = service(candidates="ranked", quality={"retriever": 0.2})
    one.fleet.update_latency({tier: LatencyModel(500, 0, 0) for tier in ("small", "medium", "large")})
    async with http_client(one) as http:
        reply = await http.post(route.path, content=example(route), headers={"x-rankfleet-slo-ms": "5"})
    assert reply.status_code == 200
    client = client_of(dialect, route)
    assert [row["index"] for row in client.results(reply.json())] == [0, 1], "in the order sent"
    check_documented(page(), reply)


@pytest.mark.parametrize(("dialect", "route"), RERANK)
async def test_no_documents_are_refused(dialect: Dialect, route: Any) -> None:
    (name,) = DOCUMENT_FIELDS & route.example.keys()
    reply = await post(route.path, example(route, **{name: []}))
    check_error(dialect, reply, CLIENTS[dialect.name].invalid, "documents is empty")


@pytest.mark.parametrize("content", [b"", b"hello", b"[]", b"{}", b'{"query": "\xff"}', b"[" * 1500], ids=repr)
@pytest.mark.parametrize(("dialect", "route"), RERANK)
async def test_bodies_that_cannot_be_read_are_refused(dialect: Dialect, route: Any, content: bytes) -> None:
    reply = await post(route.path, content)
    check_error(dialect, reply, CLIENTS[dialect.name].invalid, "request body: ")
    check_documented(page(), reply)


@pytest.mark.parametrize(("dialect", "route"), RERANK)
async def test_an_unknown_field_is_refused_by_name_and_null_is_not(dialect: Dialect, route: Any) -> None:
    reply = await post(route.path, example(route, colour="blue"))
    check_error(dialect, reply, CLIENTS[dialect.name].invalid, "'colour' is unknown")
    assert (await post(route.path, example(route, colour=None))).status_code == 200


@pytest.mark.parametrize(("dialect", "route"), RERANK)
async def test_a_field_in_the_query_string_is_refused(dialect: Dialect, route: Any) -> None:
    name, *_ = route.example
    reply = await post(f"{route.path}?{name}=cat", example(route))
    check_error(dialect, reply, CLIENTS[dialect.name].invalid, f"{name} is not read from the query string")


@pytest.mark.parametrize(("dialect", "route"), RERANK)
async def test_a_fault_of_the_fleet_has_the_form_of_the_dialect(dialect: Dialect, route: Any) -> None:
    class Broken(FakeGroup):
        async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
            raise ZeroDivisionError

    reply = await post(route.path, example(route), build_api(service(Broken()), FakeMetrics()))
    check_error(dialect, reply, CLIENTS[dialect.name].fault, "look for request mine-1 in the router's log")
    check_documented(page(), reply)


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
    check_documented(page(), reply)


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
    operation = (page())["paths"][route.path]["post"]
    content = operation["requestBody"]["content"]["application/json"]
    schema = {"components": page()["components"], **content["schema"]}
    jsonschema.Draft202012Validator(schema).validate(content["example"])
    statuses = {str(dialect.status_of(status)) for status in (401, 403, 404, 408, 413, 422, 429, 500, 503, 504)}
    assert operation["responses"].keys() == statuses | {str(route.status)}


def test_no_two_dialects_have_the_same_path() -> None:
    paths = [served.path for dialect in DIALECTS for served in (*dialect.routes, *dialect.about)]
    paths += [shared.path for shared in SHARED]
    assert len(paths) == len({*paths}), "a shared path is a `SharedRoute`"


@pytest.mark.parametrize("dialect", [dialect for dialect in DIALECTS if dialect.base], ids=lambda dialect: dialect.name)
async def test_what_begins_with_a_base_path_belongs_to_its_dialect(dialect: Dialect) -> None:
    reply = await post(f"{dialect.base}/v9/rerank", b"{}")
    check_error(dialect, reply, 404, f"there is nothing at {dialect.base}/v9/rerank")
    async with http_client(service()) as http:
        for path in ("/health", "/v1/models"):
            assert (await http.get(dialect.base + path)).json() == (await http.get(path)).json()
