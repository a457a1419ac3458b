"""The HTTP face over a service of fakes."""

import json
from collections.abc import AsyncIterator

import httpx
import pytest

from rankfleet.app.api import build_api
from rankfleet.app.bodies import sigmoid
from rankfleet.core.messages import Ranking
from rankfleet.routing.latency import LatencyModel
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


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    one = service(slo_classes={"fast": {"slo_ms": 20, "when_none_fits": "refuse"}}, limits={"max_body_bytes": 2000})
    one.fleet.learned({n: LatencyModel(ms, 0, 0) for n, ms in (("small", 10), ("medium", 40), ("large", 160))})
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
        (b'{"query": "a", "documents": ["a"], "slo_ms": NaN}', 422, "slo_ms: Input should be a finite number"),
        (b'{"query": "a", "documents": ["a"], "slo_ms": -5}', 422, "slo_ms: Input should be greater than 0"),
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


async def test_a_refusal_says_when_to_come_back(client: httpx.AsyncClient) -> None:
    reply = await client.post("/v1/rerank", json=BODY | {"model": "fast", "slo_ms": 5})
    assert reply.status_code == 429
    assert int(reply.headers["retry-after"]) >= 1
    assert TELEMETRY.codes[-1] == "overloaded"


async def test_what_breaks_inside_is_a_500_in_json() -> None:
    one = service(FakeGroup(lambda ids: float("nan")))
    transport = httpx.ASGITransport(build_api(one, TELEMETRY), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        reply = await http.post("/v1/rerank", json=BODY)
    assert reply.status_code == 500
    assert reply.json()["error"]["code"] == "internal"


async def test_paths_and_methods_that_do_not_exist(client: httpx.AsyncClient) -> None:
    assert "nothing at /nope" in (await client.get("/nope")).json()["error"]["message"]
    assert "does not take GET" in (await client.get("/v1/rerank")).json()["error"]["message"]


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
    one = service()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(build_api(one, TELEMETRY)), base_url="http://t") as http:
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get("/readyz")).status_code == 503
        one.fleet.learned({n: LatencyModel(1, 0, 0) for n in ("small", "medium", "large")})
        assert (await http.get("/readyz")).status_code == 200


async def test_the_api_describes_itself(client: httpx.AsyncClient) -> None:
    schema = (await client.get("/openapi.json")).json()
    body = schema["paths"]["/v1/rerank"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert json.dumps(sorted(body["required"])) == '["documents", "query"]'


@pytest.mark.parametrize(("logit", "score"), [(0.0, 0.5), (2.0, 0.8807970779778823), (-800.0, 0.0), (800.0, 1.0)])
def test_sigmoid(logit: float, score: float) -> None:
    assert sigmoid(logit) == pytest.approx(score)


def test_high_scores_stay_apart() -> None:
    assert sigmoid(10.8) > sigmoid(9.9) > sigmoid(8.6)
