"""The HTTP API over a router with a fake group."""

import asyncio
import gzip
import json
import re
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openapi_spec_validator
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from rankfleet.api.app import HostProcess, build_api
from rankfleet.api.dialects.native import RerankBody, SearchBody
from rankfleet.api.headers import GATEWAY_SLO_MS, REQUEST_ID, SESSION, SLO_CLASS, SLO_MS, USER
from rankfleet.core.errors import RequestError, ScoringFailed
from rankfleet.core.messages import Chunk, ChunkScores, Ranking
from rankfleet.core.timing import CLOCK
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.precision import Precision
from rankfleet.router.replica_record import Entry
from rankfleet.router.service import RankingService
from tests.unit.fakes import FakeClock, FakeGroup, FakeMetrics, http_client, on_virtual_time, send, service
from tests.unit.openapi import check_documented, check_json, openapi_page

API_PAGE = (Path(__file__).parents[2] / "docs/api.md").read_text()


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    one = service(slo_classes={"fast": {"slo_ms": 20, "when_none_fits": "refuse"}}, limits={"max_body_bytes": 2000})
    one.fleet.update_latency({n: LatencyModel(ms, 0, 0) for n, ms in (("small", 10), ("medium", 40), ("large", 160))})
    async with http_client(one) as http:
        yield http


BODY = {"query": "cat", "documents": ["a dog", {"text": "a dog is an animal"}]}


async def test_a_ranking_has_scores_documents_tier_and_timing(client: httpx.AsyncClient) -> None:
    reply = await client.post("/v1/rerank", json=BODY | {"return_documents": True})
    assert reply.status_code == 200
    body = reply.json()
    assert [r["index"] for r in body["results"]] == [1, 0]
    assert body["results"][0]["logit"] == 9.0
    assert body["results"][0]["relevance_score"] == pytest.approx(0.99987661)
    assert body["results"][0]["document"] == {"text": "a dog is an animal"}
    assert body["model"] == "large"
    assert body["rankfleet"]["tier"] == "large"
    assert set(body["rankfleet"]["timing_ms"]) == {
        *("read", "tokenize", "plan", "transfer", "queue", "infer", "reply", "total")
    }
    assert reply.headers["server-timing"].startswith("read;dur=")


async def test_what_a_request_waited_for_the_router_is_part_of_its_time() -> None:
    clock, named = FakeClock(), CLOCK
    api = build_api(service(clock=clock), FakeMetrics(), None, host=HostProcess())

    async def taken_up_late(scope: Scope, receive: Receive, send: Send) -> None:
        await api({**scope, "rankfleet.began": (named, clock() - 0.25)}, receive, send)

    transport = httpx.ASGITransport(taken_up_late)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        replies = [(await http.post("/v1/rerank", json=BODY | {"slo_ms": ms})).json()["rankfleet"] for ms in (400, 200)]
        refused = await http.post("/v1/rerank", json=BODY | {"model": "nobody"})
        named = b"that of another machine"
        passed_on = (await http.post("/v1/rerank", json=BODY)).json()["rankfleet"]
    in_time, late = replies
    assert in_time["timing_ms"]["read"] == pytest.approx(250.0)
    assert (in_time["slo"]["met"], in_time["tier"]) == (True, "large")
    assert late["slo"]["met"] is False
    assert (refused.status_code, refused.headers["server-timing"]) == (404, "total;dur=250.00")
    assert passed_on["timing_ms"]["read"] == 0.0


async def test_results_have_no_documents_by_default(client: httpx.AsyncClient) -> None:
    body = (await client.post("/v1/rerank", json=BODY)).json()
    assert all("document" not in result for result in body["results"])


@pytest.mark.parametrize(("threshold", "left"), [(None, [1, 0]), (0, [1, 0]), (0.998, [1]), (1.0, [])])
async def test_a_threshold_leaves_out_what_scores_lower(
    client: httpx.AsyncClient, threshold: float | None, left: list[int]
) -> None:
    # Logits of 9 and 6 are scores of 0.99988 and 0.99753.
    for top_n in (None, 2):
        body = BODY | {"score_threshold": threshold, "top_n": top_n}
        reply = (await client.post("/v1/rerank", json=body)).json()
        assert [result["index"] for result in reply["results"]] == left
        check_json(await openapi_page(client), "POST", "/v1/rerank", 200, reply)
    one = (await client.post("/v1/rerank", json=BODY | {"score_threshold": threshold, "top_n": 1})).json()
    assert [result["index"] for result in one["results"]] == left[:1]


@pytest.mark.parametrize("threshold", [b"-0.1", b"1.1", b"NaN", b'"0.5"'])
async def test_a_threshold_is_a_score(client: httpx.AsyncClient, threshold: bytes) -> None:
    content = b'{"query": "a", "documents": ["a"], "score_threshold": ' + threshold + b"}"
    reply = await client.post("/v1/rerank", content=content)
    assert (reply.status_code, "score_threshold: Input should be" in reply.json()["error"]["message"]) == (422, True)


async def test_headers_name_the_user_and_other_units_in_any_dialect() -> None:
    arms = {"a": {"weight": 1, "model": "small"}}
    experiments = {
        "by-device": {"unit": "header", "header": "x-device", "arms": arms},
        "by-user": {"arms": arms},
    }
    async with http_client(service(experiments=experiments)) as client:
        for headers, name in (({"X-Device": "d"}, "by-device"), ({"x-rankfleet-user": "u"}, "by-user")):
            native = await client.post("/v1/rerank", json=BODY, headers=headers)
            assert native.json()["rankfleet"]["experiment"] == {"name": name, "arm": "a"}
            cohere = await client.post("/v2/rerank", json=BODY | {"model": "auto"}, headers=headers)
            assert cohere.headers["x-rankfleet-tier"] == "small"


async def test_null_means_the_default(client: httpx.AsyncClient) -> None:
    nulls = dict.fromkeys(("model", "top_n", "return_documents", "slo_ms", "user", "session"))
    assert (await client.post("/v1/rerank", json=BODY | nulls)).status_code == 200


@pytest.mark.parametrize(
    ("body", "headers", "tier"),
    [({"slo_ms": 50}, {}, "medium"), ({}, {"x-rankfleet-slo-ms": "15"}, "small"), ({"model": "fast"}, {}, "small")],
)
async def test_body_header_and_class_give_a_budget(
    client: httpx.AsyncClient, body: dict, headers: dict, tier: str
) -> None:
    reply = (await client.post("/v1/rerank", json=BODY | body, headers=headers)).json()
    assert reply["rankfleet"]["tier"] == tier
    assert reply["rankfleet"]["slo"]["met"] is True
    assert reply["rankfleet"]["slo"]["degraded"] is False


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 422, "Invalid JSON"),
        (b"hello", 422, "Invalid JSON"),
        (b"[]", 422, "should be an object"),
        (b"[" * 1500, 422, "Invalid JSON"),
        (b'{"query": "a"}', 422, "documents: Field required"),
        (b'{"query": 1, "documents": ["a"]}', 422, "query: Input should be a valid string"),
        (b'{"query": "a", "documents": ["a", 5]}', 422, 'documents.1: must be a string or {"text": string}'),
        (b'{"query": "a", "documents": [{"txt": "a"}]}', 422, "documents.0: must be a string"),
        (b'{"query": "a", "documents": [null]}', 422, "documents.0: must be a string"),
        (b'{"query": "a", "documents": [NaN]}', 422, "documents.0: must be a string"),
        (b'{"query": "a", "documents": "a"}', 422, "documents: Input should be a valid array"),
        (b'{"query": "\xff\xfe", "documents": ["a"]}', 422, "invalid unicode"),
        (b'{"query": "a", "documents": ["\\ud800"]}', 422, "Invalid JSON"),
        (b'{"query": "a", "documents": ["a"], "slo_ms": NaN}', 422, "slo_ms: a budget is in milliseconds"),
        (
            b'{"query": "a", "documents": ["a"], "slo_ms": -5}',
            422,
            "in milliseconds, from 1 to 3600000, not -5",
        ),
        (b'{"query": "a", "documents": ["a"], "top_n": 0}', 422, "top_n: Input should be greater than or equal to 1"),
        (b'{"query": " ", "documents": ["a"]}', 422, "query is empty"),
        (b'{"query": "a", "documents": []}', 422, "documents is empty"),
        (b'{"query": "a", "documents": ["a"], "model": "gpt"}', 404, "no model 'gpt'"),
        (b'{"query": "a", "documents": ["' + b"x" * 3000 + b'"]}', 413, "longer than the 2000 bytes"),
    ],
)
async def test_bad_bodies_get_a_4xx_that_says_what_is_wrong(
    client: httpx.AsyncClient, content: bytes, status: int, message: str
) -> None:
    reply = await client.post("/v1/rerank", content=content)
    assert reply.status_code == status
    assert message in reply.json()["error"]["message"]
    assert (await client.post("/v1/rerank", json=BODY)).status_code == 200


@pytest.mark.parametrize("text", ["\0", "a\0b", "世界 мир عالم हिन्दी ไทย 😀", "\u202e abc", "\ufffd", " \t\n"])
async def test_odd_but_valid_text_is_ranked(client: httpx.AsyncClient, text: str) -> None:
    reply = await client.post("/v1/rerank", json={"query": "cat", "documents": [text, "a"]})
    assert reply.status_code == 200
    assert len(reply.json()["results"]) == 2


async def test_max_passage_reports_the_passages_of_each_document(client: httpx.AsyncClient) -> None:
    body = {"query": "cat", "documents": ["a dog " * 62, "a"], "long_documents": "max_passage"}
    reply = (await client.post("/v1/rerank", json=body)).json()
    assert {r["index"]: r["passages"] for r in reply["results"]} == {0: 4, 1: 1}
    assert reply["rankfleet"]["truncated"] == []
    reply = (await client.post("/v1/rerank", json=body | {"long_documents": None})).json()
    assert all("passages" not in r for r in reply["results"])
    assert reply["rankfleet"]["truncated"] == [0]
    wrong = await client.post("/v1/rerank", json=body | {"long_documents": "split"})
    assert wrong.status_code == 422
    assert "long_documents: Input should be 'truncate' or 'max_passage'" in wrong.json()["error"]["message"]


@pytest.mark.parametrize("value", ["abc", "-1", "nan", "inf", "0", ""])
async def test_a_budget_header_that_is_not_a_budget_is_refused(client: httpx.AsyncClient, value: str) -> None:
    reply = await client.post("/v1/rerank", json=BODY, headers={"x-rankfleet-slo-ms": value})
    assert reply.status_code == 422
    assert reply.json()["error"]["message"].startswith("header x-rankfleet-slo-ms: ")


async def test_a_refusal_for_load_says_when_to_retry() -> None:
    one = service(
        tiers={"only": {"model": "demo/small", "quality": 0.3}},
        groups={"demo": {"tiers": ["only"]}},
        slo_classes={"fast": {"slo_ms": 20, "when_none_fits": "refuse"}},
    )
    one.fleet.update_latency({"only": LatencyModel(5, 0, 0)})
    send(one, 1412.0)
    metrics = FakeMetrics()
    async with http_client(one, metrics) as http:
        reply = await http.post("/v1/rerank", json=BODY | {"model": "fast"})
    # 3 + 1412 + 5 ms are 1400 too many: rounded up, never down.
    assert (reply.status_code, reply.headers["retry-after"], reply.headers["retry-after-ms"]) == (429, "2", "1400")
    assert metrics.codes == ["overloaded"]


@pytest.mark.parametrize(
    ("headers", "closes"),
    [
        ({"content-length": "262144"}, False),
        ({"content-length": "262145"}, True),
        ({"content-length": "9" * 30}, True),
        ({"content-length": "no number"}, False),
        ({"transfer-encoding": "chunked"}, True),
    ],
)
async def test_a_refusal_ends_the_connection_if_the_body_may_still_arrive(
    client: httpx.AsyncClient, headers: dict[str, str], closes: bool
) -> None:
    reply = await client.post("/v1/rerank", content=b"{}", headers=headers | {"content-encoding": "gzip"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "invalid_request")
    assert (reply.headers.get("connection") == "close") == closes
    assert "server-timing" in reply.headers


@pytest.mark.parametrize("path", ["/healthz", "/v1/models", "/v1/rerank", "/nothing"])
async def test_a_long_query_string_is_refused_before_it_is_read(client: httpx.AsyncClient, path: str) -> None:
    for method in ("GET", "POST"):
        reply = await client.request(method, f"{path}?{'a&' * 3000}")
        assert (reply.status_code, "longer than 4096 bytes" in reply.text) == (422, True)


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"content-length": "2"}, 200), ({"content-length": "9" * 12}, 422), ({"transfer-encoding": "chunked"}, 422)],
)
async def test_a_long_body_where_none_is_read_is_refused(
    client: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    reply = await client.request("GET", "/health", content=b"{}", headers=headers)
    assert (reply.status_code, reply.headers.get("connection") == "close") == (status, status == 422)
    assert status == 200 or "GET takes no body" in reply.text


async def test_a_refusal_says_how_long_it_took() -> None:
    clock = FakeClock()
    one = service(clock=clock)

    async def body() -> AsyncIterator[bytes]:
        clock.now += 0.25
        yield b'{"query": "cat", "documents": []}'

    async with http_client(one) as http:
        reply = await http.post("/v1/rerank", content=body())
    assert (reply.status_code, reply.headers["server-timing"]) == (422, "total;dur=250.00")


async def test_a_refusal_of_an_idle_fleet_does_not_say_retry(client: httpx.AsyncClient) -> None:
    for body in ({"model": "fast", "slo_ms": 5}, {"min_quality": 0.9}, {"min_quality": 0.45, "slo_ms": 50}):
        reply = await client.post("/v1/rerank", json=BODY | body)
        message = reply.json()["error"]["message"]
        assert (reply.status_code, "retry" in message, "retry-after" in reply.headers) == (422, False, False), message


async def test_an_unreachable_min_quality_names_the_best_that_can_be_reached(client: httpx.AsyncClient) -> None:
    for body in ({}, {"slo_ms": 1000}, {"model": "small"}, {"model": "fast"}):
        reply = await client.post("/v1/rerank", json=BODY | body | {"min_quality": 0.9})
        best = "the best here is 0.3, by small" if body.get("model") == "small" else "the best here is 0.5, by large"
        assert reply.status_code == 422
        assert f"min_quality 0.9 is out of reach: {best}" in reply.json()["error"]["message"]


async def test_an_unexpected_error_is_a_500_that_names_the_log(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(FakeGroup):
        async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
            raise ZeroDivisionError("unexpected")

    host = HostProcess(log_location="/logs/router.log on host-1")
    async with http_client(service(Broken()), host=host) as http:
        reply = await http.post("/v1/rerank", json=BODY, headers={"x-request-id": "mine-1"})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["request_id"]) == (500, "internal", "mine-1")
    assert error["message"] == (
        "this request failed inside the fleet (ZeroDivisionError); "
        "look for request mine-1 in /logs/router.log on host-1"
    )
    assert "request mine-1 failed" in caplog.text
    assert caplog.text.count("Traceback (most recent call last):\n  File ") == 1


async def test_scores_that_are_not_finite_are_a_500_that_names_the_tier() -> None:
    async with http_client(service(FakeGroup(lambda ids: float("nan")))) as http:
        reply = await http.post("/v1/rerank", json=BODY)
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "scoring_failed")
    assert "tier large gave scores that are not finite" in reply.json()["error"]["message"]


async def test_an_error_of_the_metrics_does_not_fail_a_request() -> None:
    class Broken(FakeMetrics):
        def answered(self, ranking: Ranking) -> None:
            raise ValueError("value must be > 0, got 0")

        def refused(self, code: str) -> None:
            raise ValueError("value must be > 0, got 0")

    async with http_client(service(), Broken()) as http:
        assert (await http.post("/v1/rerank", json=BODY)).status_code == 200
        assert (await http.post("/v1/rerank", json={})).status_code == 422


async def test_every_reply_has_the_request_id(client: httpx.AsyncClient) -> None:
    for own, kept in (("abc-1", True), ("", False), ("a b", False), ("x" * 129, False)):
        for content, status in ((json.dumps(BODY).encode(), 200), (b"{", 422)):
            reply = await client.post("/v1/rerank", content=content, headers={"x-request-id": own})
            body = reply.json()
            named = body["id"] if status == 200 else body["error"]["request_id"]
            assert (reply.status_code, reply.headers.get_list("x-request-id")) == (status, [named])
            assert (named == own) is kept


async def test_unknown_paths_and_methods_are_refused(client: httpx.AsyncClient) -> None:
    assert "nothing at /nope" in (await client.get("/nope")).json()["error"]["message"]
    wrong = await client.get("/v1/rerank")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert "does not take GET" in wrong.json()["error"]["message"]


ROUTES = [
    *("/", "/cohere/v1/rerank", "/cohere/v2/rerank", "/health", "/healthz", "/infinity/rerank", "/infinity/v1/rerank"),
    *("/info", "/jina/rerank", "/jina/v1/rerank", "/nim/v1/ranking", "/readyz", "/rerank", "/score"),
    *("/sglang/v1/rerank", "/tei/info", "/tei/rerank", "/v1/feedback", "/v1/fleet", "/v1/models", "/v1/plan"),
    *("/v1/ranking", "/v1/rerank", "/v1/score", "/v1/search", "/v2/rerank", "/vllm/rerank", "/vllm/score"),
    *("/vllm/v1/rerank", "/vllm/v1/score", "/vllm/v2/rerank", "/voyage/rerank", "/voyage/v1/rerank"),
]


async def test_the_root_lists_all_paths(client: httpx.AsyncClient) -> None:
    reply = (await client.get("/")).json()
    assert sorted(reply["paths"]) == sorted([*ROUTES, "/console", "/docs"])


async def test_paths_may_end_in_a_slash(client: httpx.AsyncClient) -> None:
    for path in ("/v1/rerank/", "/v1/plan/", "/v1/rerank//"):
        assert (await client.post(path, json=BODY)).status_code == 200
    assert (await client.get("/v1/models/")).status_code == 200


@pytest.mark.parametrize("path", ["/", "/health", "/healthz", "/readyz"])
async def test_status_paths_take_head(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.head(path)).status_code == (await client.get(path)).status_code == 200


async def test_a_byte_order_mark_is_ignored(client: httpx.AsyncClient) -> None:
    content = b"\xef\xbb\xbf" + json.dumps(BODY).encode()
    assert (await client.post("/v1/rerank", content=content)).status_code == 200


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("modle", "did you mean model?"),
        ("top_k", "did you mean top_n?"),
        ("slo", "did you mean slo_ms?"),
        ("return_document", "did you mean return_documents?"),
        ("rank_field", "did you mean rank_fields?"),
        ("truncate", "did you mean truncation?"),
        ("instruct", "did you mean instruction?"),
        ("threshold", "did you mean score_threshold?"),
        ("max_chunks_per_doc", "did you mean max_tokens_per_doc?"),
        ("x" * 500, "…' is unknown; known are query, model, top_n"),
    ],
)
async def test_an_unknown_field_is_refused_with_the_nearest_name(
    client: httpx.AsyncClient, key: str, message: str
) -> None:
    for path in ("/v1/rerank", "/v1/plan"):
        reply = await client.post(path, json=BODY | {key: 3})
        assert reply.status_code == 422
        assert message in reply.json()["error"]["message"]
        assert len(reply.content) < 1000
        # Some clients send null for every field that they do not set.
        assert (await client.post(path, json=BODY | {key: None})).status_code == 200


async def test_unknown_headers_and_fields_in_the_query_string_are_refused(client: httpx.AsyncClient) -> None:
    header = await client.post("/v1/rerank", json=BODY, headers={"x-rankfleet-slo": "50"})
    known = "x-rankfleet-slo-ms, x-rankfleet-slo-class, x-rankfleet-user, x-rankfleet-session"
    message = f"header 'x-rankfleet-slo' is unknown; there are {known}"
    assert (header.status_code, header.json()["error"]["message"]) == (422, message)
    twice = await client.post("/v1/rerank", json=BODY, headers=[("x-slo-ms", "50"), ("X-SLO-ms", "90")])
    message = "header x-slo-ms came 2 times; send it once"
    assert (twice.status_code, twice.json()["error"]["message"]) == (422, message)
    query = await client.post("/v1/rerank?slo_ms=50", json=BODY)
    assert (query.status_code, "slo_ms is not read from the query" in query.json()["error"]["message"]) == (422, True)
    assert (await client.post("/v1/rerank?api-version=1", json=BODY)).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/rerank", b'{"queries": [1, 1, 1], "documents": ["a"]}'),
        ("/v1/rerank", b'{"query": "a", "documents": ["a"], "scores": ["", "", ""]}'),
        ("/v1/rerank", b'{"query": "a", "documents": ["a"], "rank_fields": [1, 1, 1]}'),
        ("/v1/score", b'{"text_1": [1, 1, 1], "text_2": "a"}'),
    ],
)
async def test_of_a_list_the_first_fault_is_named(client: httpx.AsyncClient, path: str, body: bytes) -> None:
    reply = await client.post(path, content=body)
    assert reply.status_code in (400, 422)
    assert reply.text.count("0: Input should be a valid") == 1
    assert "1: Input" not in reply.text


async def test_messages_cut_long_text_from_the_client(client: httpx.AsyncClient) -> None:
    for body in ({"model": "m" * 1500}, {"slo_class": "c" * 1500}):
        reply = await client.post("/v1/rerank", json=BODY | body)
        assert (reply.status_code, len(reply.content) < 500) == (404, True)


async def test_returned_documents_are_as_sent(client: httpx.AsyncClient) -> None:
    document = {"id": 7, "text": "a dog is", "n": 1.0, "big": 2**64 - 1, "tags": ["a", None, True], "in": {"x": -0.5}}
    body = {"query": "cat", "documents": [document, "a"], "return_documents": True}
    reply = await client.post("/v1/rerank", json=body)
    assert reply.status_code == 200
    assert f'"document":{json.dumps(document, separators=(",", ":"))}' in reply.text
    assert reply.json()["results"][1]["document"] == {"text": "a"}
    odd = await client.post("/v1/rerank", content=b'{"query": "a", "documents": [{"text": "a", "x": NaN}]}')
    assert (odd.status_code, "documents.0: NaN" in odd.json()["error"]["message"]) == (422, True)


BUDGETS = ["5e-324", "1e-310", "2.3e-308", "0.2", "0.999", "3600001", "1e308", "1e400", "-1", "-0.0"]


@pytest.mark.parametrize("budget", BUDGETS)
async def test_an_impossible_budget_is_refused_and_affects_no_other_request(
    client: httpx.AsyncClient, budget: str
) -> None:
    inside = b'{"query": "cat", "documents": ["a"], "slo_ms": ' + budget.encode() + b"}"
    for request in ({"content": inside}, {"json": BODY, "headers": {"x-rankfleet-slo-ms": budget}}):
        reply = await client.post("/v1/rerank", **request)  # type: ignore[arg-type]
        assert reply.status_code == 422
        assert "milliseconds, from 1 to 3600000" in reply.json()["error"]["message"]
        assert len(reply.content) < 400
    assert (await client.post("/v1/rerank", json=BODY | {"slo_ms": 200})).status_code == 200


async def test_a_budget_in_seconds_is_recognised(client: httpx.AsyncClient) -> None:
    reply = await client.post("/v1/rerank", json=BODY | {"slo_ms": 0.2})
    assert "not 0.2; 0.2 s are 200" in reply.json()["error"]["message"]


NUMBERS = st.one_of(
    st.floats(),
    st.integers(),
    st.sampled_from([5e-324, 1e-310, 0.2, 1.0, 6.0, 200.0, 3.6e6, 1e308, 2**63, 2**70, 0.3, 0.45, 1e-9]),
)


@given(
    st.lists(
        st.tuples(
            st.fixed_dictionaries({}, optional=dict.fromkeys(("slo_ms", "min_quality", "top_n"), NUMBERS)),
            st.none() | NUMBERS,
            st.integers(0, 3),
            st.floats(0, 2),
        ),
        max_size=8,
    )
)
@settings(max_examples=60, deadline=None)
def test_no_number_from_one_client_changes_the_reply_to_another(requests: list[Any]) -> None:
    async def play() -> None:
        one = service(slo_classes={"fast": {"slo_ms": 20, "when_none_fits": "refuse"}})
        one.fleet.update_latency(
            {n: LatencyModel(ms, 0, 0) for n, ms in (("small", 10), ("medium", 40), ("large", 160))}
        )
        ordinary = BODY | {"slo_ms": 200}
        async with http_client(one) as http:
            for _ in range(4 * len(requests) + 4):
                assert (await http.post("/v1/rerank", json=ordinary)).status_code == 200
            for fields, header, documents, passed_s in requests:
                one.clock.now += passed_s  # type: ignore[attr-defined]
                headers = {} if header is None else {"x-rankfleet-slo-ms": repr(header)}
                content = json.dumps({"query": "cat", "documents": ["a dog"] * documents} | fields).encode()
                reply = await http.post("/v1/rerank", content=content, headers=headers)
                assert reply.status_code in (200, 413, 422), reply.text
            again = (await http.post("/v1/rerank", json=ordinary)).json()["rankfleet"]
            ready = await http.get("/readyz")
        assert (again["tier"], again["slo"]["met"], ready.status_code) == ("large", True, 200)
        arrivals = one.fleet.snapshot(one.clock()).groups["demo"].arrivals
        assert arrivals.typical_budget_ms == 200.0
        assert all(0 <= rate < 1e6 for rate in arrivals.burst_rates_per_s)

    asyncio.run(play())


async def test_bodies_that_would_fill_the_memory_are_refused_before_parsing() -> None:
    # A megabyte of JSON that takes 50 as values, and far more if each value were reported as an error.
    for piece in (b"[],", b"{},", b"1,", b'{"a":1},'):
        content = b'{"query": "a", "documents": [' + piece * (1_000_000 // len(piece)) + b'"a"]}'
        limits = {"max_body_bytes": 1_200_000, "max_bytes_in_flight": 10_000_000}
        async with http_client(service(limits=limits)) as http:
            reply = await http.post("/v1/rerank", content=content)
            assert (reply.status_code, "send fewer documents" in reply.json()["error"]["message"]) == (413, True)
        async with http_client(service()) as http:
            tracemalloc.start()
            reply = await http.post("/v1/rerank", content=content)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert (reply.status_code, peak < 60e6) == (422, True), peak


class HeldGroup(FakeGroup):
    """Answers once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()

    async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
        await self.go.wait()
        return await super().score(chunk, entry)


async def scoring(one: RankingService) -> None:
    """Returns when a chunk is in flight."""
    while not one.fleet.busy:
        await asyncio.sleep(0)


@pytest.mark.parametrize("objects", [False, True])
@on_virtual_time
async def test_memory_of_requests_in_progress_is_bounded(objects: bool) -> None:
    group = HeldGroup()
    one = service(group, limits={"max_body_bytes": 40_000, "max_bytes_in_flight": 320_000})
    text = "a" * 39_000 + "😀"  # four bytes a character
    wide: dict[str, Any] = {"query": "cat", "documents": [text]}
    if objects:
        wide = {"query": "cat", "documents": [{"text": "a", "all": text}], "return_documents": True}
    async with http_client(one) as http:
        first = asyncio.create_task(http.post("/v1/rerank", json=wide))
        await scoring(one)
        for path in ("/v1/rerank", "/v1/plan"):
            full = await http.post(path, json=wide)
            assert (full.status_code, full.headers["retry-after-ms"]) == (429, "500")
        assert (await http.post("/v1/plan", json=BODY)).status_code == 200, "there is room for small ones"
        group.go.set()
        assert (await first).status_code == 200
        assert (await http.post("/v1/rerank", json=wide)).status_code == 200


@on_virtual_time
async def test_while_it_is_scored_a_request_holds_no_more_memory_than_its_texts() -> None:
    # Parsing could take six megabytes: what looks like JSON stands inside a text.
    body = {"query": "cat", "documents": [{"text": "{" * 39_000, "more": "not returned"}], "long_documents": "truncate"}
    group = HeldGroup()
    one = service(group, limits={"max_body_bytes": 40_000, "max_bytes_in_flight": 7_000_000})
    async with http_client(one) as http:
        first = asyncio.create_task(http.post("/v1/rerank", json=body))
        await scoring(one)
        second = asyncio.create_task(http.post("/v1/plan", json=body))
        assert (await second).status_code == 200
        group.go.set()
        assert (await first).status_code == 200


async def test_a_body_that_does_not_arrive_in_time_is_refused() -> None:
    async def half() -> AsyncIterator[bytes]:
        yield b'{"query": "a", '
        await asyncio.Event().wait()

    async with http_client(service(), host=HostProcess(read_timeout_s=0.0)) as http:
        reply = await http.post("/v1/rerank", content=half())
    assert (reply.status_code, reply.json()["error"]["code"]) == (408, "slow_sender")


async def test_models_lists_tiers_and_slo_classes(client: httpx.AsyncClient) -> None:
    data = (await client.get("/v1/models")).json()["data"]
    assert [(m["id"], m["kind"]) for m in data] == [
        ("auto", "planner"),
        ("small", "tier"),
        ("medium", "tier"),
        ("large", "tier"),
        ("fast", "slo_class"),
    ]


async def test_models_say_what_a_tier_is_computed_in_and_why() -> None:
    one, reason = service(), "the fastest here: float32 175, bfloat16 124 pairs/s"
    rates = {"float32": 175.0, "bfloat16": 124.0}
    one.fleet.ledgers["demo"].update(frozenset({"r1"}), precisions={"large": Precision("float32", reason, rates)})
    async with http_client(one) as http:
        told = {m["id"]: m.get("precision") for m in (await http.get("/v1/models")).json()["data"]}
    large = {"dtype": "float32", "reason": reason, "pairs_per_s": rates}
    assert told == {"auto": None, "small": None, "medium": None, "large": large}


async def test_a_router_is_healthy_at_once_and_ready_after_a_probe() -> None:
    group = FakeGroup()
    one = service(group)
    async with http_client(one) as http:
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get("/readyz")).status_code == 503
        one.fleet.update_latency({n: LatencyModel(1, 0, 0) for n in ("small", "medium", "large")})
        assert (await http.get("/readyz")).status_code == 200
        assert len(group.chunks) == 1, "a ranking was answered to say so"


async def test_readyz_says_why_a_newer_fleet_file_is_not_served() -> None:
    one = service()
    one.fleet.update_latency({n: LatencyModel(1, 0, 0) for n in ("small", "medium", "large")})
    why: list[str] = []
    async with http_client(one, host=HostProcess(update_faults=lambda: why)) as http:
        assert (await http.get("/readyz")).json() == {"status": "ready"}
        why.append("tiers: expected a mapping")
        assert (await http.get("/readyz")).json() == {"status": "ready", "not_changed": why}


async def test_a_router_without_replicas_is_not_ready() -> None:
    one = service()
    one.fleet.update_latency({n: LatencyModel(1, 0, 0) for n in ("small", "medium", "large")})
    one.fleet.ledgers["demo"].update(frozenset())
    async with http_client(one) as http:
        reply = await http.get("/readyz")
    assert (reply.status_code, "no replica runs" in reply.json()["reason"]) == (503, True)


async def test_an_overloaded_router_is_ready() -> None:
    one = service(
        tiers={"only": {"model": "demo/small", "quality": 0.3}},
        groups={"demo": {"tiers": ["only"]}},
        slo_classes={"fast": {"slo_ms": 20, "when_none_fits": "refuse"}},
        default_slo_class="fast",
    )
    one.fleet.update_latency({"only": LatencyModel(5, 0, 0)})
    send(one, 12_000.0)
    async with http_client(one) as http:
        assert (await http.get("/readyz")).status_code == 200


async def test_a_router_that_fails_to_rank_is_not_ready() -> None:
    class Broken(FakeGroup):
        async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
            raise ScoringFailed("the device is lost")

    one = service(Broken())
    one.fleet.update_latency({n: LatencyModel(1, 0, 0) for n in ("small", "medium", "large")})
    async with http_client(one) as http:
        reply = await http.get("/readyz")
    assert (reply.status_code, reply.json()["status"]) == (503, "failing")
    assert "the device is lost" in reply.json()["reason"]


async def test_the_openapi_page_is_valid_and_replies_match_it(client: httpx.AsyncClient) -> None:
    page = await openapi_page(client)
    assert page["openapi"].startswith("3.1")
    openapi_spec_validator.validate(page)
    assert sorted(page["paths"]) == ROUTES
    required = page["components"]["schemas"]["RerankBody"]["required"]
    assert required == ["documents"], "and either query or queries"
    objects = BODY | {"return_documents": True, "long_documents": "max_passage"}
    for reply in (
        await client.post("/v1/rerank", json=BODY),
        await client.post("/v1/rerank", json=objects | {"slo_ms": 200}),
        await client.post("/v1/rerank", json=BODY | {"slo_ms": 2}),
        await client.post("/v1/rerank", json=BODY | {"model": "fast", "slo_ms": 5}),
        await client.post("/v1/rerank", json={}),
        await client.post("/v1/rerank", json=BODY | {"model": "gpt"}),
        await client.post("/v1/plan", json=BODY | {"slo_ms": 50}),
        await client.post("/v1/plan", json=BODY | {"min_quality": 0.9}),
        *[await client.get(path) for path in ("/", "/health", "/healthz", "/readyz", "/v1/models")],
    ):
        check_documented(page, reply)


async def test_the_examples_in_the_docs_are_a_request_and_its_reply(client: httpx.AsyncClient) -> None:
    request = re.search(r"-d '(.*?)'\n", API_PAGE, re.DOTALL)
    reply = re.search(r"```json\n(.*?)```", API_PAGE, re.DOTALL)
    assert request is not None
    assert reply is not None
    assert (await client.post("/v1/rerank", content=request[1])).status_code == 200
    check_json(await openapi_page(client), "POST", "/v1/rerank", 200, json.loads(reply[1]))


def test_the_docs_name_every_field_header_and_error() -> None:
    fields = {*RerankBody.model_fields, *SearchBody.model_fields}
    codes = {error.code for error in RequestError.__subclasses__()} - {"client_gone"}  # nobody is there to read it
    headers = {SLO_MS, GATEWAY_SLO_MS, SLO_CLASS, USER, SESSION, REQUEST_ID}
    assert [name for name in sorted(fields | codes | headers) if f"`{name}`" not in API_PAGE] == []


async def test_a_client_that_goes_away_while_it_is_answered_is_no_fault_of_the_fleet() -> None:
    metrics = FakeMetrics()
    api = build_api(service(), metrics)
    scope = {"type": "http", "method": "POST", "path": "/v1/rerank", "headers": [], "query_string": b""}

    async def receive() -> Any:
        return {"type": "http.request", "body": json.dumps(BODY).encode(), "more_body": False}

    async def closed(message: Any) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

    await api(scope, receive, closed)
    assert metrics.codes == ["client_gone"]


@pytest.mark.parametrize("length", ["many", "-1", "9" * 5000])
async def test_a_length_that_is_no_number_is_not_gone_by(client: httpx.AsyncClient, length: str) -> None:
    reply = await client.post("/v1/rerank", json=BODY, headers={"content-length": length})
    assert reply.status_code in (200, 413)  # 413: more than this fleet takes


async def test_compressed_bodies_and_long_query_strings_are_refused_by_name(client: httpx.AsyncClient) -> None:
    reply = await client.post("/v1/rerank", content=gzip.compress(b"{}"), headers={"content-encoding": "GZip"})
    assert (reply.status_code, reply.json()["error"]["message"]) == (
        422,
        "header content-encoding: 'gzip' is not read; send the body as it is",
    )
    assert (await client.post("/v1/rerank", json=BODY, headers={"content-encoding": "identity"})).status_code == 200
    reply = await client.post("/v1/rerank?" + "a&" * 2049, json=BODY)
    assert (reply.status_code, "longer than 4096 bytes" in reply.text) == (422, True)
    assert (await client.post("/v1/rerank?" + "a&" * 2048, json=BODY)).status_code == 200
