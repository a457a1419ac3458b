import httpx

from rankfleet.app.api import build_api
from rankfleet.retrieval.bm25 import Bm25Index
from rankfleet.retrieval.corpus import Document
from tests.unit.test_api import FakeTelemetry
from tests.unit.test_service import service

CORPUS = [
    Document("d1", "a dog is an animal"),
    Document("d2", "the cat sat on the mat"),
    Document("d3", "sun and moon"),
    Document("d4", "a cat"),
]


def client(index: Bm25Index | None, **settings: object) -> httpx.AsyncClient:
    if index is not None:
        settings["search"] = {"index": "somewhere", "top_k": 3}
    api = build_api(service(**settings), FakeTelemetry(), index)
    return httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test")


async def test_found_documents_are_reranked_and_named() -> None:
    async with client(Bm25Index.build(CORPUS)) as http:
        reply = await http.post("/v1/search", json={"query": "cat"})
    body = reply.json()
    # BM25 puts the shorter d4 first; the fake reranker scores by length and turns them round.
    assert [(r["id"], r["retrieval"]["rank"]) for r in body["results"]] == [("d2", 2), ("d4", 1)]
    assert body["results"][0]["document"] == {"text": "the cat sat on the mat"}
    assert "retrieve" in body["rankfleet"]["timing_ms"]
    assert reply.headers["server-timing"].startswith("retrieve;dur=")


async def test_nothing_found_is_an_empty_answer() -> None:
    async with client(Bm25Index.build(CORPUS)) as http:
        for query in ("elephant", "!!!", "the"):
            reply = await http.post("/v1/search", json={"query": query})
            assert (reply.status_code, reply.json()["results"]) == (200, [])


async def test_top_k_bounds_the_candidates_and_top_n_the_answer() -> None:
    async with client(Bm25Index.build(CORPUS)) as http:
        one = await http.post("/v1/search", json={"query": "cat dog moon", "top_k": 1})
        two = await http.post("/v1/search", json={"query": "cat dog moon", "top_n": 2, "return_documents": False})
    assert len(one.json()["results"]) == 1
    assert len(two.json()["results"]) == 2
    assert "document" not in two.json()["results"][0]


async def test_a_fleet_without_an_index_says_how_to_get_one() -> None:
    async with client(None) as http:
        reply = await http.post("/v1/search", json={"query": "cat"})
    assert reply.status_code == 404
    assert "rankfleet index build" in reply.json()["error"]["message"]


async def test_bad_bodies() -> None:
    async with client(Bm25Index.build(CORPUS)) as http:
        for content in (b"", b'{"query": ""}', b'{"query": 3}', b'{"query": "a", "top_k": 0}', b'{"query": "\xff"}'):
            assert (await http.post("/v1/search", content=content)).status_code == 422
