"""The HTTP face over a service of fakes."""

import asyncio
import hashlib
import json
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jsonschema
import openapi_spec_validator
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankfleet.api.app import build_api
from rankfleet.api.bodies import sigmoid
from rankfleet.core.errors import ScoringFailed
from rankfleet.core.messages import Chunk, ChunkScores, Ranking
from rankfleet.estimates.latency import LatencyModel
from rankfleet.router.service import RankingService
from tests.unit.fakes import FakeGroup
from tests.unit.test_service import service


class FakeTelemetry:
    def __init__(self) -> None:
        self.rankings: list[Ranking] = []
        self.codes: list[str] = []

    def answered(self, ranking: Ranking) -> None:
        self.rankings.append(ranking)

    def refused(self, code: str) -> None:
        self.codes.append(code)


TELEMETRY = FakeTelemetry()


def http_of(one: RankingService) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(build_api(one, TELEMETRY)), base_url="http://test")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    one = service(slo_classes={"fast": {"slo_ms": 20, "when_none_fits": "refuse"}}, limits={"max_body_bytes": 2000})
    one.fleet.update_latency({n: LatencyModel(ms, 0, 0) for n, ms in (("small", 10), ("medium", 40), ("large", 160))})
    transport = httpx.ASGITransport(build_api(one, TELEMETRY), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield http


BODY = {"query": "cat", "documents": ["a dog", {"text": "a dog is an animal"}]}


async def test_a_ranking(client: httpx.AsyncClient) -> None:
    reply = await client.post("/v1/rerank", json=BODY | {"return_documents": True})
    assert reply.status_code == 200
    body = reply.json()
    assert [r["index"] for r in body["results"]] == [1, 0]
    assert body["results"][0]["logit"] == 9.0
    assert body["results"][0]["relevance_score"] == pytest.approx(0.99987661)
    assert body["results"][0]["document"] == {"text": "a dog is an animal"}
    assert body["model"] == "large"
    assert body["rankfleet"]["tier"] == "large"
    assert set(body["rankfleet"]["timing_ms"]) == {"tokenize", "queue", "infer", "total"}
    assert reply.headers["server-timing"].startswith("tokenize;dur=")


async def test_documents_are_left_out_unless_asked_for(client: httpx.AsyncClient) -> None:
    body = (await client.post("/v1/rerank", json=BODY)).json()
    assert all("document" not in result for result in body["results"])


async def test_nulls_mean_the_default(client: httpx.AsyncClient) -> None:
    nulls = dict.fromkeys(("model", "top_n", "return_documents", "slo_ms", "user", "session"))
    assert (await client.post("/v1/rerank", json=BODY | nulls)).status_code == 200


@pytest.mark.parametrize(
    ("body", "headers", "tier"),
    [({"slo_ms": 50}, {}, "medium"), ({}, {"x-rankfleet-slo-ms": "15"}, "small"), ({"model": "fast"}, {}, "small")],
)
async def test_three_ways_to_give_a_budget(client: httpx.AsyncClient, body: dict, headers: dict, tier: str) -> None:
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


async def test_the_reply_says_how_many_passages_a_document_was(client: httpx.AsyncClient) -> None:
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
async def test_a_header_that_is_no_budget(client: httpx.AsyncClient, value: str) -> None:
    reply = await client.post("/v1/rerank", json=BODY, headers={"x-rankfleet-slo-ms": value})
    assert reply.status_code == 422
    assert "x-rankfleet-slo-ms" in reply.json()["error"]["message"]


async def test_a_refusal_says_when_to_come_back() -> None:
    one = service(
        tiers={"only": {"model": "demo/small", "quality": 0.3}},
        groups={"demo": {"tiers": ["only"]}},
        slo_classes={"fast": {"slo_ms": 20, "when_none_fits": "refuse"}},
    )
    one.fleet.update_latency({"only": LatencyModel(5, 0, 0)})
    one.fleet.chunk_sent("demo", 1412.0, one.clock())
    async with http_of(one) as http:
        reply = await http.post("/v1/rerank", json=BODY | {"model": "fast"})
    # 3 + 1412 + 5 ms are 1400 too many: rounded up, never down.
    assert (reply.status_code, reply.headers["retry-after"], reply.headers["retry-after-ms"]) == (429, "2", "1400")
    assert TELEMETRY.codes[-1] == "overloaded"


async def test_on_an_idle_fleet_no_refusal_says_retry(client: httpx.AsyncClient) -> None:
    for body in ({"model": "fast", "slo_ms": 5}, {"min_quality": 0.9}, {"min_quality": 0.45, "slo_ms": 50}):
        reply = await client.post("/v1/rerank", json=BODY | body)
        message = reply.json()["error"]["message"]
        assert (reply.status_code, "retry" in message, "retry-after" in reply.headers) == (422, False, False), message


async def test_a_quality_out_of_reach_says_what_can_be_reached(client: httpx.AsyncClient) -> None:
    for body in ({}, {"slo_ms": 1000}, {"model": "small"}, {"model": "fast"}):
        reply = await client.post("/v1/rerank", json=BODY | body | {"min_quality": 0.9})
        best = "the best here is 0.3, by small" if body.get("model") == "small" else "the best here is 0.5, by large"
        assert reply.status_code == 422
        assert f"min_quality 0.9 is out of reach: {best}" in reply.json()["error"]["message"]


async def test_what_breaks_inside_is_a_500_that_says_where_to_look(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(FakeGroup):
        async def score(self, chunk: Chunk, predicted_s: float) -> ChunkScores:
            raise ZeroDivisionError("nobody has thought of this")

    api = build_api(service(Broken()), TELEMETRY, log_place="/logs/router.log on host-1")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test") as http:
        reply = await http.post("/v1/rerank", json=BODY, headers={"x-request-id": "mine-1"})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["request_id"]) == (500, "internal", "mine-1")
    assert error["message"] == (
        "this request failed inside the fleet (ZeroDivisionError); "
        "look for request mine-1 in /logs/router.log on host-1"
    )
    assert "request mine-1 failed" in caplog.text
    assert caplog.text.count("Traceback (most recent call last):\n  File ") == 1


async def test_scores_that_are_not_numbers_name_their_tier() -> None:
    async with http_of(service(FakeGroup(lambda ids: float("nan")))) as http:
        reply = await http.post("/v1/rerank", json=BODY)
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "scoring_failed")
    assert "tier large gave scores that are not finite" in reply.json()["error"]["message"]


async def test_figures_never_fail_a_request() -> None:
    class Broken(FakeTelemetry):
        def answered(self, ranking: Ranking) -> None:
            raise ValueError("value must be > 0, got 0")

        def refused(self, code: str) -> None:
            raise ValueError("value must be > 0, got 0")

    api = build_api(service(), Broken())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test") as http:
        assert (await http.post("/v1/rerank", json=BODY)).status_code == 200
        assert (await http.post("/v1/rerank", json={})).status_code == 422


async def test_every_reply_carries_the_id_of_its_request(client: httpx.AsyncClient) -> None:
    for own, kept in (("abc-1", True), ("", False), ("a b", False), ("x" * 129, False)):
        for content, status in ((json.dumps(BODY).encode(), 200), (b"{", 422)):
            reply = await client.post("/v1/rerank", content=content, headers={"x-request-id": own})
            body = reply.json()
            named = body["id"] if status == 200 else body["error"]["request_id"]
            assert (reply.status_code, reply.headers.get_list("x-request-id")) == (status, [named])
            assert (named == own) is kept


async def test_paths_and_methods_that_do_not_exist(client: httpx.AsyncClient) -> None:
    assert "nothing at /nope" in (await client.get("/nope")).json()["error"]["message"]
    wrong = await client.get("/v1/rerank")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert "does not take GET" in wrong.json()["error"]["message"]


ROUTES = ["/", "/health", "/healthz", "/readyz", "/v1/models", "/v1/plan", "/v1/rerank", "/v1/search"]


async def test_the_root_says_what_is_here(client: httpx.AsyncClient) -> None:
    reply = (await client.get("/")).json()
    assert sorted(reply["paths"]) == sorted([*ROUTES, "/docs"])


async def test_paths_may_end_in_a_slash(client: httpx.AsyncClient) -> None:
    for path in ("/v1/rerank/", "/v1/plan/", "/v1/rerank//"):
        assert (await client.post(path, json=BODY)).status_code == 200
    assert (await client.get("/v1/models/")).status_code == 200


@pytest.mark.parametrize("path", ["/", "/health", "/healthz", "/readyz"])
async def test_who_only_looks_may_ask_for_the_head(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.head(path)).status_code == (await client.get(path)).status_code == 200


async def test_a_byte_order_mark_is_no_part_of_the_body(client: httpx.AsyncClient) -> None:
    content = b"\xef\xbb\xbf" + json.dumps(BODY).encode()
    assert (await client.post("/v1/rerank", content=content)).status_code == 200


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("modle", "did you mean model?"),
        ("top_k", "did you mean top_n?"),
        ("slo", "did you mean slo_ms?"),
        ("return_document", "did you mean return_documents?"),
        ("rank_fields", "'rank_fields' is unknown"),
        ("truncate_prompt_tokens", "'truncate_prompt_tokens' is unknown"),
        ("truncation_side", "'truncation_side' is unknown"),
        ("max_tokens_per_doc", "'max_tokens_per_doc' is unknown"),
        ("max_chunks_per_doc", "'max_chunks_per_doc' is unknown"),
        ("instruction", "'instruction' is unknown; "),
        ("x" * 500, "…' is unknown; known are query, model, top_n"),
    ],
)
async def test_a_wish_that_is_not_understood_is_refused_by_name(
    client: httpx.AsyncClient, key: str, message: str
) -> None:
    for path in ("/v1/rerank", "/v1/plan"):
        reply = await client.post(path, json=BODY | {key: 3})
        assert reply.status_code == 422
        assert message in reply.json()["error"]["message"]
        assert len(reply.content) < 1000
        # Clients that send null for all they do not set ask for nothing.
        assert (await client.post(path, json=BODY | {key: None})).status_code == 200


async def test_wishes_in_other_places_are_refused_too(client: httpx.AsyncClient) -> None:
    header = await client.post("/v1/rerank", json=BODY, headers={"x-rankfleet-slo": "50"})
    assert (header.status_code, "x-rankfleet-slo-ms" in header.json()["error"]["message"]) == (422, True)
    query = await client.post("/v1/rerank?slo_ms=50", json=BODY)
    assert (query.status_code, "slo_ms is not read from the query" in query.json()["error"]["message"]) == (422, True)
    assert (await client.post("/v1/rerank?api-version=1", json=BODY)).status_code == 200


async def test_what_a_message_repeats_is_cut(client: httpx.AsyncClient) -> None:
    for body in ({"model": "m" * 1500}, {"slo_class": "c" * 1500}):
        reply = await client.post("/v1/rerank", json=BODY | body)
        assert (reply.status_code, len(reply.content) < 500) == (404, True)


async def test_documents_come_back_as_they_were_sent(client: httpx.AsyncClient) -> None:
    document = {"id": 7, "text": "a dog is", "n": 1.0, "big": 2**70, "tags": ["a", None, True], "in": {"x": -0.5}}
    body = {"query": "cat", "documents": [document, "a"], "return_documents": True}
    reply = await client.post("/v1/rerank", json=body)
    assert reply.status_code == 200
    assert f'"document":{json.dumps(document, separators=(",", ":"))}' in reply.text
    assert reply.json()["results"][1]["document"] == {"text": "a"}
    odd = await client.post("/v1/rerank", content=b'{"query": "a", "documents": [{"text": "a", "x": NaN}]}')
    assert (odd.status_code, "documents.0: NaN" in odd.json()["error"]["message"]) == (422, True)


@pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key"])
async def test_three_headers_for_a_key(header: str) -> None:
    digest = hashlib.sha256(b"secret").hexdigest()
    classes = {"fast": {"slo_ms": 20, "api_key_sha256": [digest]}, "slow": {"slo_ms": 1000}}
    key = {header: "Bearer secret" if header == "authorization" else "secret"}
    async with http_of(service(slo_classes=classes, default_slo_class="slow")) as http:
        reply = await http.post("/v1/rerank", json=BODY, headers=key)
    assert reply.json()["rankfleet"]["slo"]["class"] == "fast"


BUDGETS = ["5e-324", "1e-310", "2.3e-308", "0.2", "0.999", "3600001", "1e308", "1e400", "-1", "-0.0"]


@pytest.mark.parametrize("budget", BUDGETS)
async def test_a_budget_that_cannot_be_meant_is_refused_and_harms_nobody(
    client: httpx.AsyncClient, budget: str
) -> None:
    inside = b'{"query": "cat", "documents": ["a"], "slo_ms": ' + budget.encode() + b"}"
    for request in ({"content": inside}, {"json": BODY, "headers": {"x-rankfleet-slo-ms": budget}}):
        reply = await client.post("/v1/rerank", **request)  # type: ignore[arg-type]
        assert reply.status_code == 422
        assert "milliseconds, from 1 to 3600000" in reply.json()["error"]["message"]
        assert len(reply.content) < 400
    assert (await client.post("/v1/rerank", json=BODY | {"slo_ms": 200})).status_code == 200


async def test_seconds_are_told_from_milliseconds(client: httpx.AsyncClient) -> None:
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
def test_no_number_that_one_client_sends_steers_what_another_gets(requests: list[Any]) -> None:
    async def play() -> None:
        one = service(slo_classes={"fast": {"slo_ms": 20, "when_none_fits": "refuse"}})
        one.fleet.update_latency(
            {n: LatencyModel(ms, 0, 0) for n, ms in (("small", 10), ("medium", 40), ("large", 160))}
        )
        ordinary = BODY | {"slo_ms": 200}
        async with http_of(one) as http:
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
        assert 0 <= arrivals.burst_rate_per_s < 1e6

    asyncio.run(play())


async def test_bodies_that_would_fill_the_memory_are_refused_before_they_are_read() -> None:
    # A megabyte that becomes 50 as values, and far more where each of them is an error of its own.
    for piece in (b"[],", b"{},", b"1,", b'{"a":1},'):
        content = b'{"query": "a", "documents": [' + piece * (1_000_000 // len(piece)) + b'"a"]}'
        limits = {"max_body_bytes": 1_200_000, "max_bytes_in_flight": 10_000_000}
        async with http_of(service(limits=limits)) as http:
            reply = await http.post("/v1/rerank", content=content)
            assert (reply.status_code, "send fewer documents" in reply.json()["error"]["message"]) == (413, True)
        async with http_of(service()) as http:
            tracemalloc.start()
            reply = await http.post("/v1/rerank", content=content)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert (reply.status_code, peak < 60e6) == (422, True), peak


@pytest.mark.parametrize("objects", [False, True])
async def test_bytes_in_flight_are_bounded(objects: bool) -> None:
    class Held(FakeGroup):
        def __init__(self) -> None:
            super().__init__()
            self.go = asyncio.Event()

        async def score(self, chunk: Chunk, predicted_s: float) -> ChunkScores:
            await self.go.wait()
            return await super().score(chunk, predicted_s)

    group = Held()
    one = service(group, limits={"max_body_bytes": 40_000, "max_bytes_in_flight": 320_000})
    wide: dict[str, Any] = {"query": "cat", "documents": ["a" * 39_000 + "😀"]}  # four bytes a character
    if objects:
        wide = {"query": "cat", "documents": [{"text": "a", "all": "the rest" * 4900}], "return_documents": True}
    async with http_of(one) as http:
        first = asyncio.create_task(http.post("/v1/rerank", json=wide))
        while one.fleet.backlog_s("demo", one.clock()) == 0.0 and not one.fleet.busy:
            await asyncio.sleep(0)
        for path in ("/v1/rerank", "/v1/plan"):
            full = await http.post(path, json=wide)
            assert (full.status_code, full.headers["retry-after-ms"]) == (429, "500")
        assert (await http.post("/v1/plan", json=BODY)).status_code == 200, "there is room for small ones"
        group.go.set()
        assert (await first).status_code == 200
        assert (await http.post("/v1/rerank", json=wide)).status_code == 200


async def test_a_sender_that_stops_is_cut() -> None:
    async def half() -> AsyncIterator[bytes]:
        yield b'{"query": "a", '
        await asyncio.Event().wait()

    transport = httpx.ASGITransport(build_api(service(), TELEMETRY, read_timeout_s=0.0))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        reply = await http.post("/v1/rerank", content=half())
    assert (reply.status_code, reply.json()["error"]["code"]) == (408, "slow_sender")


async def test_models_lists_tiers_and_classes(client: httpx.AsyncClient) -> None:
    data = (await client.get("/v1/models")).json()["data"]
    assert [(m["id"], m["kind"]) for m in data] == [
        ("auto", "planner"),
        ("small", "tier"),
        ("medium", "tier"),
        ("large", "tier"),
        ("fast", "slo_class"),
    ]


async def test_health_and_readiness() -> None:
    group = FakeGroup()
    one = service(group)
    async with http_of(one) as http:
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get("/readyz")).status_code == 503
        one.fleet.update_latency({n: LatencyModel(1, 0, 0) for n in ("small", "medium", "large")})
        assert (await http.get("/readyz")).status_code == 200
        assert len(group.chunks) == 1, "a ranking was answered to say so"


async def test_readiness_says_why_a_newer_fleet_file_is_not_served() -> None:
    one = service()
    one.fleet.update_latency({n: LatencyModel(1, 0, 0) for n in ("small", "medium", "large")})
    why: list[str] = []
    transport = httpx.ASGITransport(build_api(one, TELEMETRY, not_changed=lambda: why))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        assert (await http.get("/readyz")).json() == {"status": "ready"}
        why.append("tiers: expected a mapping")
        assert (await http.get("/readyz")).json() == {"status": "ready", "not_changed": why}


async def test_a_router_without_a_replica_is_not_ready() -> None:
    one = service()
    one.fleet.update_latency({n: LatencyModel(1, 0, 0) for n in ("small", "medium", "large")})
    one.fleet.set_running("demo", frozenset())
    async with http_of(one) as http:
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
    one.fleet.chunk_sent("demo", 12_000.0, one.clock())
    async with http_of(one) as http:
        assert (await http.get("/readyz")).status_code == 200


async def test_a_router_that_cannot_rank_is_not_ready() -> None:
    class Broken(FakeGroup):
        async def score(self, chunk: Chunk, predicted_s: float) -> ChunkScores:
            raise ScoringFailed("the device is lost")

    one = service(Broken())
    one.fleet.update_latency({n: LatencyModel(1, 0, 0) for n in ("small", "medium", "large")})
    async with http_of(one) as http:
        reply = await http.get("/readyz")
    assert (reply.status_code, reply.json()["status"]) == (503, "failing")
    assert "the device is lost" in reply.json()["reason"]


async def test_the_api_describes_itself(client: httpx.AsyncClient) -> None:
    """Every reference resolves, the page is OpenAPI 3.1, and what comes back is what it says."""
    schema = (await client.get("/openapi.json")).json()
    assert schema["openapi"].startswith("3.1")
    openapi_spec_validator.validate(schema)
    assert sorted(schema["paths"]) == ROUTES
    body = schema["paths"]["/v1/rerank"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert sorted(body["required"]) == ["documents", "query"]

    def check(reply: httpx.Response) -> None:
        operation = schema["paths"][reply.request.url.path][reply.request.method.lower()]
        described = operation["responses"][str(reply.status_code)]["content"]["application/json"]["schema"]
        closed = {"components": close(schema["components"]), **described}
        jsonschema.Draft202012Validator(closed).validate(reply.json())

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
        check(reply)


def close(components: dict[str, Any]) -> dict[str, Any]:
    """With no field allowed that is not described: what replies carry is to be told."""
    schemas = {
        name: described | ({"additionalProperties": False} if "properties" in described else {})
        for name, described in components["schemas"].items()
    }
    return {"schemas": schemas}


@pytest.mark.parametrize(("logit", "score"), [(0.0, 0.5), (2.0, 0.8807970779778823), (-800.0, 0.0), (800.0, 1.0)])
def test_sigmoid(logit: float, score: float) -> None:
    assert sigmoid(logit) == pytest.approx(score)


def test_high_scores_stay_apart() -> None:
    assert sigmoid(10.8) > sigmoid(9.9) > sigmoid(8.6)
