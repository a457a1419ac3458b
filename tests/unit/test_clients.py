"""What asks other servers to rerank: bodies and replies of every wire format, waits, and errors in words."""

import json
from typing import Any

import httpx
import numpy as np
import pytest

from rankfleet.clients.formats import FORMATS
from rankfleet.clients.http import JsonClient
from rankfleet.clients.server import RerankServer
from rankfleet.core.errors import RankfleetError
from tests.unit.fakes import FakeClock, http_client, service

# Replies as the services document them, to two documents of which the second is better.
COHERE = {
    "id": "07734bd2-2473-4f07-94e1-0d9f0e6843cf",
    "results": [{"index": 1, "relevance_score": 0.98}, {"index": 0, "relevance_score": 0.06}],
    "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 2}},
}
JINA = {
    "model": "jina-reranker-v2-base-multilingual",
    "object": "list",
    "usage": {"total_tokens": 38},
    "results": [{"index": 1, "relevance_score": 0.98}, {"index": 0, "relevance_score": 0.06}],
}
VOYAGE = {
    "object": "list",
    "data": [{"relevance_score": 0.98, "index": 1}, {"relevance_score": 0.06, "index": 0}],
    "model": "rerank-2",
    "usage": {"total_tokens": 26},
}
TEI = [{"index": 1, "score": 0.98}, {"index": 0, "score": 0.06}]
NIM = {"rankings": [{"index": 1, "logit": 0.98}, {"index": 0, "logit": 0.06}]}
REPLIES = {"cohere": COHERE, "jina": JINA, "voyage": VOYAGE, "tei": TEI, "vllm": JINA, "infinity": JINA}
REPLIES |= {"sglang": TEI, "nim": NIM}
BILLS = {"cohere": (2.0, 0.0), "voyage": (1.0, 26.0), "tei": (1.0, 0.0), "sglang": (1.0, 0.0), "nim": (1.0, 0.0)}


@pytest.mark.parametrize("name", FORMATS)
def test_every_reply_is_read_in_the_order_that_was_sent_with_its_bill(name: str) -> None:
    assert FORMATS[name].scores(REPLIES[name], 2).tolist() == [0.06, 0.98]
    assert FORMATS[name].billed(REPLIES[name]) == BILLS.get(name, (1.0, 38.0))


@pytest.mark.parametrize("name", FORMATS)
async def test_every_body_is_one_that_the_dialect_of_its_name_serves(name: str) -> None:
    format, documents = FORMATS[name], ["a cat", "a cat sat on the mat", "a dog is an animal"]
    async with http_client(service()) as client:
        base = "" if name in ("nim", "cohere") else f"/{name}"
        reply = await client.post(base + format.path, json=format.body("the cat", documents, None))
    assert reply.status_code == 200, reply.text
    scores = format.scores(reply.json(), 3)  # the fleet's group scores by the number of tokens
    assert np.argsort(-scores).tolist() == [1, 2, 0]


@pytest.mark.parametrize("name", ["cohere", "jina", "voyage", "vllm", "infinity", "sglang", "nim"])
def test_the_model_is_named_where_one_is_asked_for(name: str) -> None:
    assert FORMATS[name].body("q", ["d"], "theirs")["model"] == "theirs"
    assert "model" not in FORMATS[name].body("q", ["d"], None)


@pytest.mark.parametrize(
    ("name", "reply", "message"),
    [
        (
            "cohere",
            {"message": "hello"},
            "the format cohere: it should have a list as `results`, and is an object with",
        ),
        (
            "tei",
            {"results": []},
            "should have a list of results, and is an object with results",
        ),
        ("cohere", TEI, "should have a list as `results`, and is a list or a value"),
        ("tei", [{"index": 0}], "a result should have `index` and `score`, and is {'index': 0}"),
        ("tei", [{"index": 0, "score": "high"}], "a result should have `index` and `score`"),
        ("tei", [{"index": 2, "score": 1.0}], "scores document 2, and 2 were sent"),
        ("tei", [{"index": 1, "score": 1.0}], "has scores for 1 of 2 documents"),
        ("tei", [{"index": 0, "score": float("nan")}, {"index": 1, "score": 1.0}], "has scores for 1 of 2 documents"),
    ],
)
def test_a_reply_of_another_form_or_with_too_few_results_is_refused(name: str, reply: Any, message: str) -> None:
    with pytest.raises(RankfleetError) as raised:
        FORMATS[name].scores(reply, 2)
    assert message in str(raised.value)


class FakeService:
    """Answers with these replies in turn, and the last one ever after; each takes 0.25 s by the clock."""

    def __init__(self, *replies: httpx.Response | Exception) -> None:
        self.replies, self.clock = list(replies), FakeClock()
        self.requests: list[httpx.Request] = []
        self.waited: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.clock.now += 0.25
        self.requests.append(request)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        return httpx.Response(reply.status_code, content=reply.content, headers=reply.headers)

    def wait(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.clock.now += seconds

    def server(self, name: str = "cohere", key: str | None = "secret") -> RerankServer:
        client = httpx.Client(transport=httpx.MockTransport(self))
        asked = JsonClient("http://there/", client, self.wait, self.clock, key, key and "CO_API_KEY")
        return RerankServer(FORMATS[name], asked, "rerank-v3.5")


def answer(status: int, content: Any, **headers: str) -> httpx.Response:
    return httpx.Response(status, json=content, headers=headers)


def test_a_hosted_service_gets_the_key_and_its_latency_is_without_waits() -> None:
    there = FakeService(answer(429, {"message": "slow down"}, **{"retry-after": "7"}), answer(200, COHERE))
    scored = there.server().timed("q", ["a", "b"])
    assert scored.scores.tolist() == [0.06, 0.98]
    assert (scored.seconds, scored.searches, scored.tokens, scored.timed) == (0.25, 2.0, 0.0, True)
    assert there.waited == [7.0]
    assert str(there.requests[1].url) == "http://there/v2/rerank"
    assert there.requests[1].headers["authorization"] == "Bearer secret"
    assert json.loads(there.requests[1].content) == {"query": "q", "documents": ["a", "b"], "model": "rerank-v3.5"}


def test_more_documents_than_a_server_takes_go_in_parts_whose_times_and_bills_add_up() -> None:
    def reply(documents: int) -> httpx.Response:
        results = [{"index": i, "relevance_score": 0.1} for i in range(documents)]
        return answer(200, {"results": results, "meta": {"billed_units": {"search_units": 1}}})

    there = FakeService(answer(413, {"message": "too many"}), reply(50), reply(50), reply(20))
    scored = there.server().timed("q", ["x"] * 120)
    assert (len(scored.scores), scored.seconds, scored.searches) == (120, 0.75, 3.0)
    assert [len(json.loads(each.content)["documents"]) for each in there.requests] == [100, 50, 50, 20]


REFUSED: list[tuple[httpx.Response | Exception, str | None, str]] = [
    (
        answer(401, {"message": "bad token"}),
        "k",
        "it does not accept the key in the environment variable CO_API_KEY",
    ),
    (answer(401, {"detail": "Unauthorized"}), None, "answers 401: Unauthorized; it wants a key, and none was sent"),
    (answer(404, {"error": {"message": "no such model"}}), "k", "http://there/v2/rerank answers 404: no such model"),
    (answer(424, {"error": "backend", "error_type": "Backend"}), "k", "answers 424: backend"),
    (httpx.ConnectError("refused"), "k", "does not answer (ConnectError: refused); gave up after 8 tries. Run"),
    (httpx.ReadTimeout("slow"), "k", "does not answer (ReadTimeout: slow)"),
    (answer(429, {"message": "quota"}, **{"retry-after": "86400"}), "k", "answers 429: quota; it asks to wait 86400 s"),
    (httpx.Response(200, text="<html>"), "k", "does not answer with JSON: is a server that reranks there?"),
    (answer(200, {"results": COHERE["results"][:1]}), "k", "http://there/v2/rerank: the reply has scores for 1 of 2"),
]


@pytest.mark.parametrize(("reply", "key", "message"), REFUSED)
def test_what_goes_wrong_is_said_in_words(reply: httpx.Response | Exception, key: str | None, message: str) -> None:
    with pytest.raises(RankfleetError) as raised:
        FakeService(reply).server(key=key).timed("q", ["a", "b"])
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("header", "waited"), [("retry-after-ms", [0.5]), ("x", [1.0])], ids=["in milliseconds", "nothing named"]
)
def test_waits_are_those_that_the_server_names(header: str, waited: list[float]) -> None:
    there = FakeService(answer(503, {}, **{header: "500"}), answer(200, COHERE))
    there.server().timed("q", ["a", "b"])
    assert there.waited == waited


def test_a_date_in_retry_after_is_no_number_of_seconds() -> None:
    there = FakeService(answer(429, {}, **{"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}), answer(200, COHERE))
    there.server().timed("q", ["a", "b"])
    assert there.waited == [1.0]
