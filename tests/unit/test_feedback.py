"""POST /v1/feedback: what is taken, what is refused, and what is queued."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from rankfleet.api.keys import KeyRing, line_of
from rankfleet.core.events import Feedback
from tests.unit.fakes import DAWN_S, FakeMetrics, http_client, service
from tests.unit.openapi import check_documented, openapi_page


async def sent(body: Any, feedback: Any = None, **settings: Any) -> tuple[httpx.Response, list[Feedback]]:
    queued: list[Feedback] = []

    def take(each: Feedback) -> bool:
        queued.append(each)
        return True

    async with http_client(service(), feedback=feedback or take, **settings) as http:
        reply = await http.post("/v1/feedback", json=body)
        check_documented(await openapi_page(http), reply)
    return reply, queued


async def test_feedback_is_queued_with_its_time() -> None:
    body = {"request_id": "r-1", "clicks": [3, 1, 3], "labels": {"3": 2, "0": 0.5}, "converted": True}
    reply, (queued,) = await sent(body)
    assert (reply.status_code, reply.json()) == (202, {"status": "queued"})
    assert queued == Feedback(at_s=DAWN_S, request_id="r-1", clicks=[3, 1, 3], labels={3: 2.0, 0: 0.5}, converted=True)


async def test_what_is_not_said_stays_unknown() -> None:
    for said, fields in (
        ({"clicks": []}, {"clicks": []}),
        ({"converted": False, "labels": None}, {"converted": False}),
    ):
        _, (queued,) = await sent({"request_id": "r-1"} | said)
        assert queued == Feedback(at_s=DAWN_S, request_id="r-1", **fields)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "request body: request_id: Field required"),
        ({"request_id": "r-1"}, "request body: says nothing of the answer; send clicks, labels or converted"),
        ({"request_id": "a b", "converted": True}, "request body: request_id: String should match pattern"),
        ({"request_id": "r" * 129, "converted": True}, "request body: request_id: String should match pattern"),
        ({"request_id": "r-1", "clicks": [-1]}, "request body: clicks.0: Input should be greater than or equal to 0"),
        ({"request_id": "r-1", "clicks": ["1"]}, "request body: clicks.0: Input should be a valid integer"),
        ({"request_id": "r-1", "clicks": [1.5]}, "request body: clicks.0: Input should be a valid integer"),
        ({"request_id": "r-1", "clicks": [0] * 1001}, "request body: clicks: List should have at most 1000 items"),
        ({"request_id": "r-1", "labels": {"first": 1}}, "request body: labels.first.[key]: String should match"),
        ({"request_id": "r-1", "labels": {"01": 1}}, "request body: labels.01.[key]: String should match"),
        ({"request_id": "r-1", "labels": {"1": 11}}, "request body: labels.1: Input should be less than or equal to"),
        ({"request_id": "r-1", "labels": {"1": True}}, "request body: labels.1: Input should be a valid number"),
        ({"request_id": "r-1", "converted": 1}, "request body: converted: Input should be a valid boolean"),
        ({"request_id": "r-1", "click": [1]}, "request body: 'click' is unknown; did you mean clicks?"),
        ([], "request body: Input should be an object"),
    ],
)
async def test_what_is_wrong_is_named(body: Any, message: str) -> None:
    reply, queued = await sent(body)
    assert (reply.status_code, reply.json()["error"]["code"], queued) == (422, "invalid_request", [])
    assert reply.json()["error"]["message"].startswith(message)


async def test_a_fleet_without_events_says_what_to_do() -> None:
    async with http_client(service()) as http:
        reply = await http.post("/v1/feedback", json={"request_id": "r-1", "converted": True})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_configured")
    assert "name a folder under `events:` in the fleet file" in reply.json()["error"]["message"]


async def test_a_full_queue_is_a_503() -> None:
    metrics = FakeMetrics()
    reply, _ = await sent({"request_id": "r-1", "converted": True}, lambda feedback: False, metrics=metrics)
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "unavailable")
    assert metrics.codes == ["unavailable"]


async def test_feedback_beyond_what_its_documents_need_is_refused_unread() -> None:
    fields = {"request_id": "r-1", "clicks": [2**31 - 1] * 1000}
    reply, queued = await sent(fields | {"labels": {str(i): 0.123456 for i in range(10**8, 10**8 + 1000)}})
    assert (reply.status_code, len(queued)) == (202, 1)
    reply, queued = await sent({"request_id": "r-1", "labels": {f"x{i}": 1 for i in range(20_000)}})
    assert (reply.status_code, queued) == (413, [])
    assert "longer than the 100000 bytes allowed for feedback" in reply.text


async def test_feedback_needs_a_key_and_belongs_to_its_tenant(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(line_of("secret", "shop"))
    queued: list[Feedback] = []
    sink: Any = lambda feedback: queued.append(feedback) or True  # noqa: E731
    async with http_client(service(), keys=KeyRing(str(tmp_path / "keys")), feedback=sink) as http:
        body = {"request_id": "r-1", "converted": True}
        assert (await http.post("/v1/feedback", json=body)).status_code == 401
        key = {"authorization": "Bearer secret"}
        assert (await http.post("/v1/feedback", json=body, headers=key)).status_code == 202
    assert [(each.tenant, each.request_id) for each in queued] == [("shop", "r-1")]


async def test_the_id_of_a_reply_is_the_one_to_send() -> None:
    async with http_client(service()) as http:
        reply = await http.post("/v1/rerank", json={"query": "cat", "documents": ["a", "a dog"]})
    assert reply.headers["x-request-id"] == reply.json()["id"]
