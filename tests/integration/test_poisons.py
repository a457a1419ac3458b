"""Requests that once took a fleet down or were answered wrongly: each gets a clear answer and harms no other."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.integration.fleet import DOCUMENTS, QUERY, RIGHT, RunningFleet

BODY = {"query": QUERY, "documents": DOCUMENTS}
LONG = f"{RIGHT} " * 55  # more than 5 kB


def values(piece: bytes, size: int) -> bytes:
    """A body of about `size` bytes whose documents are `piece` over and over."""
    return b'{"query": "a", "documents": [' + piece * (size // len(piece)) + b'"a"]}'


REFUSED = [
    *[json.dumps(BODY).replace("{", f'{{"slo_ms": {ms}, ', 1).encode() for ms in ("5e-324", "1e-310", "0.2", "1e308")],
    *[json.dumps(BODY | {key: 1}).encode() for key in ("modle", "top_k", "instruction", "max_tokens_per_document")],
    json.dumps(BODY | {"min_quality": 0.99}).encode(),
    json.dumps({"query": QUERY, "documents": [{"text": "a", "n": 2**70}]}).encode(),
    json.dumps(BODY | {"x" * 1_000_000: 1}).encode(),
    *[values(piece, 4_000_000) for piece in (b"1,", b"[],", b'{"a":1},', b'{"text":""},', b"null,")],
    b'{"query": ' + b"[" * 1_000_000,
    json.dumps({"query": QUERY, "documents": ["😀" * 2_000_000]}).encode(),
]
ODD = [
    {"documents": [LONG], "long_documents": "max_passage", "slo_ms": 1},
    {"documents": [f"{i} {LONG}" for i in range(5)], "long_documents": "max_passage", "slo_ms": 200},
    {"documents": [f"{i} {LONG[:2600]}" for i in range(3)], "long_documents": "max_passage"},
    {"documents": [f"{i} {LONG}" for i in range(40)], "long_documents": "max_passage", "slo_ms": 60},
    {"documents": [f"{i} {LONG}" for i in range(40)], "model": "large", "slo_ms": 100},
    {"documents": ["", " ", "\0", "\u202e", "😀", "a" * 900_000]},
    {"documents": DOCUMENTS, "top_n": 10**30},
    {"documents": DOCUMENTS, "min_quality": 1e-320, "user": "u" * 100_000},
    {"documents": [{"text": "a", "n": 2**64 - 1}], "return_documents": True},
]


def test_bad_requests_get_an_answer_and_200_ordinary_ones_after_them_are_in_time(running_fleet: RunningFleet) -> None:
    before = running_fleet.replicas()
    slow = [socket.create_connection(("127.0.0.1", running_fleet.serving.port)) for _ in range(20)]
    for connection in slow:  # each claims a body of 50 MB and sends one byte of it
        connection.sendall(b"POST /v1/rerank HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n{")

    def send(content: bytes) -> httpx.Response:
        return running_fleet.http.post("/v1/rerank", content=content)

    for content in REFUSED:
        reply = send(content)
        assert reply.status_code in (413, 422), (content[:80], reply.text[:300])
        assert reply.json()["error"]["message"]
        assert len(reply.content) < 2000
    for header in ("5e-324", "0.2", "1e308", "nan"):
        reply = running_fleet.http.post("/v1/rerank", json=BODY, headers={"x-rankfleet-slo-ms": header})
        assert (reply.status_code, "milliseconds" in reply.text) == (422, True)
    with ThreadPoolExecutor(8) as pool:
        odd = list(pool.map(send, [json.dumps({"query": QUERY} | fields).encode() for fields in ODD * 5]))
    assert {reply.status_code for reply in odd} == {200}, [reply.text for reply in odd if reply.status_code != 200]

    ordinary = [running_fleet.rerank(QUERY, DOCUMENTS, slo_ms=1000).json() for _ in range(200)]
    assert [reply["rankfleet"]["slo"]["met"] for reply in ordinary] == [True] * 200
    assert {reply["results"][0]["index"] for reply in ordinary} == {1}
    assert all(reply["rankfleet"]["stages"] for reply in ordinary), "every one was scored"
    assert running_fleet.http.get("/readyz").json() == {"status": "ready"}
    after = running_fleet.replicas()
    assert after.router == before.router
    assert after.demo >= before.demo
    for connection in slow:
        connection.close()


def test_slashes_heads_and_request_ids_work_as_clients_expect(running_fleet: RunningFleet) -> None:
    http = running_fleet.http
    assert http.post("/v1/rerank/", json=BODY).status_code == 200
    assert http.head("/health").status_code == 200
    assert http.get("/").json()["name"] == "rankfleet"
    reply = http.post("/v1/rerank", json=BODY, headers={"x-request-id": "mine"})
    assert (reply.headers.get_list("x-request-id"), reply.json()["id"]) == (["mine"], "mine")
    generated = http.post("/v1/rerank", json=BODY)
    assert generated.headers.get_list("x-request-id") == [generated.json()["id"]]
