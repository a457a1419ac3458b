"""POST /v1/search over a small index and a fake group."""

from pathlib import Path

import httpx
import pytest

from rankfleet.api.keys import KeyRing, line_of
from rankfleet.api.ranking import Retriever, clip
from rankfleet.retrieval.bm25 import Bm25Index, Hit
from rankfleet.retrieval.corpus import Document
from tests.unit.fakes import http_client, service
from tests.unit.openapi import check_documented, openapi_page

CORPUS = [
    Document("d1", "a dog is an animal"),
    Document("d2", "the cat sat on the mat"),
    Document("d3", "sun and moon"),
    Document("d4", "a cat"),
]


def client(index: Retriever | None, **settings: object) -> httpx.AsyncClient:
    if index is not None:
        settings["search"] = {"index": "somewhere", "top_k": 3}
    return http_client(service(**settings), retriever=index)


async def test_retrieved_documents_are_reranked_and_named() -> None:
    async with client(Bm25Index.build(CORPUS)) as http:
        reply = await http.post("/v1/search", json={"query": "cat"})
    body = reply.json()
    # BM25 ranks the shorter d4 first; the fake group scores by length and ranks d2 first.
    assert [(r["id"], r["retrieval"]["rank"]) for r in body["results"]] == [("d2", 2), ("d4", 1)]
    assert body["results"][0]["document"] == {"text": "the cat sat on the mat"}
    assert "retrieve" in body["rankfleet"]["timing_ms"]
    assert reply.headers["server-timing"].startswith("read;dur=")


async def test_spans_are_of_the_documents_of_the_index() -> None:
    async with client(Bm25Index.build(CORPUS)) as http:
        reply = await http.post("/v1/search", json={"query": "cat", "relevant_spans": {"mode": "enabled"}})
        check_documented(await openapi_page(http), reply)
    spans = [[(span["start"], span["end"]) for span in row["relevant_spans"]] for row in reply.json()["results"]]
    assert spans == [[(0, 22)], [(0, 5)]]


async def test_a_search_that_finds_nothing_has_no_results() -> None:
    async with client(Bm25Index.build(CORPUS)) as http:
        for query in ("elephant", "!!!", "the"):
            reply = await http.post("/v1/search", json={"query": query})
            assert (reply.status_code, reply.json()["results"]) == (200, [])


async def test_replies_match_the_openapi_page() -> None:
    async with client(Bm25Index.build(CORPUS)) as http:
        page = await openapi_page(http)
        for body in (
            {"query": "cat"},
            {"query": "cat", "return_documents": False},
            {"query": "elephant"},
            {"query": 3},
        ):
            check_documented(page, await http.post("/v1/search", json=body))


async def test_top_k_bounds_the_candidates_and_top_n_the_results() -> None:
    async with client(Bm25Index.build(CORPUS)) as http:
        one = await http.post("/v1/search", json={"query": "cat dog moon", "top_k": 1})
        two = await http.post("/v1/search", json={"query": "cat dog moon", "top_n": 2, "return_documents": False})
    assert len(one.json()["results"]) == 1
    assert len(two.json()["results"]) == 2
    assert "document" not in two.json()["results"][0]


async def test_a_search_has_a_threshold_and_limits_of_tokens_too() -> None:
    async with client(Bm25Index.build(CORPUS)) as http:
        best = (await http.post("/v1/search", json={"query": "cat", "score_threshold": 0.998})).json()
        cut = (await http.post("/v1/search", json={"query": "cat", "max_tokens_per_doc": 2})).json()
    # Logits of 10 and 6 are scores of 0.99995 and 0.99753.
    assert [result["id"] for result in best["results"]] == ["d2"]
    assert (cut["rankfleet"]["truncated"], cut["usage"]["total_tokens"]) == (["d2"], 12)


async def test_a_fleet_without_an_index_says_how_to_get_one() -> None:
    async with client(None) as http:
        reply = await http.post("/v1/search", json={"query": "cat"})
    assert reply.status_code == 404
    assert "rankfleet index build" in reply.json()["error"]["message"]


async def test_bad_bodies_are_refused() -> None:
    async with client(Bm25Index.build(CORPUS)) as http:
        for content in (b"", b'{"query": ""}', b'{"query": 3}', b'{"query": "a", "top_k": 0}', b'{"query": "\xff"}'):
            assert (await http.post("/v1/search", content=content)).status_code == 422


async def test_limits_are_checked_before_retrieval() -> None:
    class Untouched:
        def search(self, query: str, k: int) -> list[Hit]:
            raise AssertionError("a refused query was searched")

    async with client(Untouched(), limits={"max_query_bytes": 10}) as http:
        too_long = await http.post("/v1/search", json={"query": "zebra " * 100})
        bad_budget = await http.post("/v1/search", json={"query": "cat"}, headers={"x-rankfleet-slo-ms": "soon"})
    assert (too_long.status_code, bad_budget.status_code) == (413, 422)


async def test_a_document_of_the_index_beyond_the_limit_is_cut() -> None:
    corpus = [Document("long", "cat " * 300), Document("short", "a cat sat")]  # 200 bytes are 50 of the 300 words
    async with client(Bm25Index.build(corpus), limits={"max_document_bytes": 200}) as http:
        reply = await http.post("/v1/search", json={"query": "cat"})
    assert reply.status_code == 200
    assert [(r["id"], r["document"]["text"]) for r in reply.json()["results"]] == [
        ("long", "cat " * 50),
        ("short", "a cat sat"),
    ]


async def test_truncated_documents_are_named_by_id() -> None:
    corpus = [Document("short", "a cat"), Document("long", "cat " * 80)]
    async with client(Bm25Index.build(corpus)) as http:
        reply = await http.post("/v1/search", json={"query": "cat"})
    assert reply.json()["rankfleet"]["truncated"] == ["long"]


@pytest.mark.parametrize(
    ("text", "max_bytes", "kept"),
    [("abc", 3, "abc"), ("abcd", 3, "abc"), ("éé", 3, "é"), ("世界", 5, "世"), ("", 1, ""), ("😀", 3, "")],
)
def test_clipping_keeps_whole_characters(text: str, max_bytes: int, kept: str) -> None:
    assert clip(text, max_bytes) == kept


async def test_what_a_tenant_may_not_name_is_not_searched_for(tmp_path: Path) -> None:
    class Index:
        def search(self, query: str, k: int) -> list[Hit]:
            raise AssertionError("searched")

    keys = tmp_path / "keys"
    keys.write_text(line_of("secret", "shop"))
    one = service(search={"index": "somewhere"}, tenants={"shop": {"tiers": ["small"]}})
    async with http_client(one, retriever=Index(), keys=KeyRing(str(keys))) as http:
        body = {"query": "cat", "model": "large"}
        reply = await http.post("/v1/search", json=body, headers={"api-key": "secret"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "forbidden")
