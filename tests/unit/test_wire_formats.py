"""What is special about each wire format: whole replies and errors, written down by hand."""

import json
from collections.abc import AsyncIterator
from math import log
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from rankfleet.api.dialects.registry import canonical_path, dialect_of
from rankfleet.api.dialects.rerank_reply import plan_headers
from rankfleet.core.decisions import Plan, Stage
from rankfleet.core.messages import RankedDocument, Ranking
from rankfleet.core.timing import Timing
from rankfleet.estimates.latency import LatencyModel
from tests.unit.fakes import FakeGroup, fleet, http_client, instructed_tokenizer, service, word_tokenizer
from tests.unit.openapi import check_documented, openapi_page

QUERY, DOG, ANIMAL = "cat", "a dog", "a dog is an animal"
BODY = {"query": QUERY, "documents": [DOG, ANIMAL]}
# FakeGroup scores a pair by its tokens, 6 and 9, less 7.5 here: logits of -1.5 and 1.5.
LOW, HIGH = pytest.approx(0.18242552), pytest.approx(0.81757448)
TOKENS = {"prompt_tokens": 15, "total_tokens": 15}
META = {"billed_units": {"search_units": 1}, "tokens": {"input_tokens": 15}}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(service(FakeGroup(lambda ids: len(ids) - 7.5))) as http:
        http.headers["x-request-id"] = "mine-1"
        yield http


async def test_cohere(client: httpx.AsyncClient) -> None:
    results = [{"index": 1, "relevance_score": HIGH}, {"index": 0, "relevance_score": LOW}]
    for path, version in (("/v2/rerank", "2"), ("/cohere/v1/rerank", "1")):
        reply = (await client.post(path, json=BODY)).json()
        assert reply == {"id": "mine-1", "results": results, "meta": {"api_version": {"version": version}, **META}}
    objects = {"query": QUERY, "documents": [DOG, {"text": ANIMAL, "id": 7}], "return_documents": True}
    for path in ("/cohere/v1/rerank", "/v2/rerank"):
        reply = (await client.post(path, json=objects)).json()
        assert [row["document"] for row in reply["results"]] == [{"text": ANIMAL, "id": 7}, {"text": DOG}]
    error = await client.post("/v2/rerank", json={"query": QUERY})
    message = "request body: documents: Field required\nsee /docs for the format"
    assert (error.status_code, error.json()) == (400, {"id": "mine-1", "message": message})


async def test_a_search_unit_is_a_hundred_documents(client: httpx.AsyncClient) -> None:
    for path in ("/v1/rerank", "/v2/rerank"):
        for documents, units in ((100, 1), (101, 2)):
            reply = await client.post(path, json={"query": QUERY, "documents": [DOG] * documents, "top_n": 3})
            assert reply.json()["meta"]["billed_units"] == {"search_units": units}


async def test_jina_returns_documents_unless_told_not_to(client: httpx.AsyncClient) -> None:
    reply = (await client.post("/jina/v1/rerank", json=BODY | {"top_n": 1})).json()
    result = {"index": 1, "relevance_score": HIGH, "document": {"text": ANIMAL}}
    assert reply == {"model": "large", "object": "list", "usage": TOKENS, "results": [result]}
    reply = (await client.post("/jina/v1/rerank", json=BODY | {"top_n": 1, "return_documents": False})).json()
    assert reply["results"] == [{"index": 1, "relevance_score": HIGH}]
    error = await client.post("/jina/v1/rerank", json=BODY | {"model": "gpt"})
    assert (error.status_code, [*error.json()]) == (404, ["detail"])


async def test_voyage(client: httpx.AsyncClient) -> None:
    sent = BODY | {"model": "auto", "top_k": 1, "truncation": True}  # as its client sends it
    reply = (await client.post("/voyage/v1/rerank", json=sent)).json()
    data = [{"index": 1, "relevance_score": HIGH}]
    assert reply == {"object": "list", "data": data, "model": "large", "usage": TOKENS}
    reply = (await client.post("/voyage/v1/rerank", json=sent | {"return_documents": True})).json()
    assert reply["data"] == [{"index": 1, "relevance_score": HIGH, "document": ANIMAL}]
    error = await client.post("/voyage/v1/rerank", json=BODY | {"top_n": 1})
    message = "request body: 'top_n' is unknown; did you mean top_k?"
    assert (error.status_code, error.json()) == (400, {"detail": message})


async def test_tei(client: httpx.AsyncClient) -> None:
    body = {"query": QUERY, "texts": [DOG, ANIMAL]}
    reply = await client.post("/rerank", json=body)
    assert reply.json() == [{"index": 1, "score": HIGH}, {"index": 0, "score": LOW}]
    assert reply.headers["x-compute-tokens"] == "15"
    options = {"raw_scores": True, "return_text": True, "truncate": False, "truncation_direction": "Right"}
    reply = await client.post("/tei/rerank", json=body | options)
    assert reply.json() == [{"index": 1, "score": 1.5, "text": ANIMAL}, {"index": 0, "score": -1.5, "text": DOG}]
    error = await client.post("/rerank", json=body | {"return_tokens": True})
    message = "request body: 'return_tokens' is unknown; did you mean return_text?"
    assert (error.status_code, error.json()) == (422, {"error": message, "error_type": "Validation"})


async def test_tei_says_of_itself_that_it_reranks(client: httpx.AsyncClient) -> None:
    for path in ("/info", "/tei/info"):
        reply = await client.get(path)
        check_documented(await openapi_page(client), reply)
        told = reply.json()
        assert [*told["model_type"]] == ["reranker"]
        assert (told["max_input_length"], told["max_client_batch_size"]) == (64, 1000)


async def test_vllm(client: httpx.AsyncClient) -> None:
    high = {"index": 1, "relevance_score": HIGH, "document": {"text": ANIMAL}}
    low = {"index": 0, "relevance_score": LOW, "document": {"text": DOG}}
    for path in ("/rerank", "/vllm/v2/rerank"):
        reply = (await client.post(path, json=BODY | {"top_n": 0})).json()
        assert reply == {"id": "mine-1", "model": "large", "usage": TOKENS, "results": [high, low]}
    reply = (await client.post("/vllm/rerank", json=BODY | {"use_activation": False, "return_documents": False})).json()
    assert reply["results"] == [{"index": 1, "relevance_score": 1.5}, {"index": 0, "relevance_score": -1.5}]
    error = await client.post("/rerank", json=BODY | {"chat_template": "{{ query }}"})
    message = "request body: 'chat_template' is not supported yet; leave it out"
    described = {"message": message, "type": "BadRequestError", "param": None, "code": 400}
    assert (error.status_code, error.json()) == (400, {"error": described})


@pytest.mark.parametrize(("status", "name"), [(404, "NotFoundError"), (500, "InternalServerError")])
def test_errors_of_vllm_are_named_by_their_status(status: int, name: str) -> None:
    error = dialect_of("/vllm/rerank").error(ValueError("no"), status, "mine-1")  # type: ignore[arg-type]
    assert error == {"error": {"message": "no", "type": name, "param": None, "code": status}}


@pytest.mark.parametrize(
    ("query", "documents"), [("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")]
)
async def test_vllm_scores_in_the_order_given(client: httpx.AsyncClient, query: str, documents: str) -> None:
    for one in (QUERY, [QUERY]):
        reply = (await client.post("/score", json={query: one, documents: [ANIMAL, DOG]})).json()
        assert (reply["id"], reply["object"], reply["model"], reply["usage"]) == ("mine-1", "list", "large", TOKENS)
        assert reply["data"] == [
            {"index": 0, "object": "score", "score": HIGH},
            {"index": 1, "object": "score", "score": LOW},
        ]
    alone = (await client.post("/v1/score", json={query: QUERY, documents: DOG, "use_activation": False})).json()
    assert alone["data"] == [{"index": 0, "object": "score", "score": -1.5}]


async def test_scores_follow_the_fused_order_but_the_pairs_of_score_have_none(tmp_path: Path) -> None:
    # Of two candidates, the first has evidence ln 2 ÷ 2 = 0.35 by its rank, and the second −0.35: 3.5 − 1.5 = 2 by a
    # weight of 10, and 1.5 − 3.5 = −2. The pairs of /score come from no retriever.
    table = tmp_path / "table.json"
    table.write_text(json.dumps({"data_sets": {"mine": {"fused": {"weights": {"large": 10.0}}}}}))
    group = FakeGroup(lambda ids: len(ids) - 7.5)
    one = service(group, fleet(candidates="ranked", quality={"table": str(table)}))
    raw = {"use_activation": False}
    async with http_client(one) as http:
        reply = await http.post("/vllm/rerank", json=BODY | raw)
        pairs = (await http.post("/score", json={"text_1": QUERY, "text_2": [DOG, ANIMAL]} | raw)).json()["data"]
    assert reply.headers["x-rankfleet-fusion"] == "order;weight=10"
    fused = 10 * log(2) / 2 - 1.5
    scores = [(row["index"], row["relevance_score"]) for row in reply.json()["results"]]
    assert scores == [(0, pytest.approx(fused)), (1, pytest.approx(-fused))]
    assert [(row["index"], row["score"]) for row in pairs] == [(0, -1.5), (1, 1.5)]


async def test_vllm_scores_each_document_for_its_own_query(client: httpx.AsyncClient) -> None:
    queries = [QUERY, "a bird", QUERY]
    for names in (("text_1", "text_2"), ("queries", "documents")):
        body = dict(zip(names, (queries, [ANIMAL, DOG, DOG]), strict=True)) | {"use_activation": False}
        reply = await client.post("/score", json=body)
        scores = [(row["index"], row["score"]) for row in reply.json()["data"]]
        assert scores == [(0, 1.5), (1, -0.5), (2, -1.5)]  # pairs of 9, 7 and 6 tokens
        assert reply.json()["usage"] == {"prompt_tokens": 22, "total_tokens": 22}
        assert (reply.headers["x-rankfleet-plan"], "x-rankfleet-fusion" in reply.headers) == (
            "large;candidates=1",
            False,
        )
        check_documented(await openapi_page(client), reply)


@pytest.mark.parametrize(
    ("queries", "documents", "message"),
    [
        ([], [DOG, ANIMAL], "text_1: 0 queries for 2 documents; send one query for all of them, or one for each"),
        ([QUERY, "bird"], [DOG], "text_1: 2 queries for 1 documents; send one query for all of them, or one for each"),
        ([QUERY, "bird", " "], [DOG, DOG, DOG], "query is empty"),
    ],
)
async def test_queries_that_do_not_match_their_documents_are_refused(
    client: httpx.AsyncClient, queries: list[str], documents: list[str], message: str
) -> None:
    error = await client.post("/score", json={"text_1": queries, "text_2": documents})
    assert (error.status_code, message in error.json()["error"]["message"]) == (400, True)


async def test_native_queries_share_documents_or_have_their_own(client: httpx.AsyncClient) -> None:
    reply = await client.post("/v1/rerank", json={"queries": [QUERY, "a bird"], "documents": [DOG, {"text": ANIMAL}]})
    both = [{"index": 1, "relevance_score": HIGH, "logit": 1.5}, {"index": 0, "relevance_score": LOW, "logit": -1.5}]
    bird = [(1, 2.5), (0, -0.5)]
    assert reply.json()["results"][0] == both
    assert [[(row["index"], row["logit"]) for row in each] for each in reply.json()["results"][1:]] == [bird]
    assert reply.json()["usage"] == {"total_tokens": 15 + 17}
    assert reply.json()["meta"]["billed_units"] == {"search_units": 2}
    assert (reply.json()["rankfleet"]["stages"], reply.json()["rankfleet"]["truncated"]) == (
        [{"tier": "large", "candidates": 2}],
        [[], []],
    )
    check_documented(await openapi_page(client), reply)

    lists = [[DOG, ANIMAL], ["a dog " * 40], [{"text": "x", "id": 7}, DOG]]
    body = {"queries": [QUERY, QUERY, "a bird"], "documents": lists, "top_n": 1, "return_documents": True}
    reply = await client.post("/v1/rerank", json=body)
    assert [[(row["index"], row["document"]) for row in each] for each in reply.json()["results"]] == [
        [(1, {"text": ANIMAL})],
        [(0, {"text": "a dog " * 40})],
        [(1, {"text": DOG})],
    ]
    assert reply.json()["rankfleet"]["truncated"] == [[], [0], []]
    check_documented(await openapi_page(client), reply)
    planned = (await client.post("/v1/plan", json=body)).json()
    assert (planned["tier"], planned["stages"]) == ("large", [{"tier": "large", "candidates": 2}])


async def test_one_query_in_a_list_has_a_list_of_results(client: httpx.AsyncClient) -> None:
    reply = (await client.post("/v1/rerank", json={"queries": [QUERY], "documents": [[DOG, ANIMAL]]})).json()
    assert [[row["index"] for row in each] for each in reply["results"]] == [[1, 0]]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"documents": [DOG]}, "query: Field required"),
        ({"query": QUERY, "queries": [QUERY], "documents": [DOG]}, "queries: send at least one, and no query beside"),
        ({"queries": [], "documents": [DOG]}, "queries: send at least one"),
        ({"queries": [QUERY, "x"], "documents": [[DOG]]}, "or a list of 2 lists, one for each of the queries"),
        (
            {"queries": [QUERY, "x"], "documents": [[DOG], DOG]},
            "documents: send one list for all queries, or a list of 2",
        ),
        ({"queries": [QUERY, "x"], "documents": [[DOG], []]}, "documents is empty"),
        ({"queries": [QUERY, "x"], "documents": [[DOG], [DOG, 3]]}, "documents.1.1: must be a string"),
        ({"query": QUERY, "documents": [[DOG]]}, "documents.0: must be a string"),
        ({"queries": [QUERY], "documents": [[DOG]], "scores": [1.0]}, "scores: where each query has its own documents"),
        ({"queries": [QUERY, "x"], "documents": [[{"text": DOG, "score": 1}], [DOG]]}, "documents.1.0: has no score"),
    ],
)
async def test_queries_and_documents_that_do_not_fit_together_are_refused(
    client: httpx.AsyncClient, body: dict, message: str
) -> None:
    refused = await client.post("/v1/rerank", json=body)
    assert (refused.status_code, message in refused.json()["error"]["message"]) == (422, True), refused.text


async def test_the_order_of_documents_that_queries_share_says_nothing_unless_it_is_said_to() -> None:
    async with http_client(service(candidates="ranked")) as http:
        queries: dict[str, Any] = {"queries": [QUERY, "x"], "documents": [DOG, ANIMAL]}
        scored = [{"text": DOG, "score": 1}, {"text": ANIMAL, "score": 2}]
        for body, fused_by in (
            (queries, None),
            (queries | {"candidates": "ranked"}, "order"),
            (queries | {"documents": [[DOG], [DOG, ANIMAL]]}, "order"),
            (queries | {"scores": [2.0, 1.0]}, "scores"),
            (queries | {"documents": scored}, "scores"),
            (queries | {"documents": [scored, scored]}, "scores"),
        ):
            details = (await http.post("/v1/rerank", json=body)).json()["rankfleet"]
            assert details.get("fusion", {}).get("by") == fused_by, body


async def test_infinity_returns_documents_as_strings(client: httpx.AsyncClient) -> None:
    reply = (await client.post("/infinity/rerank", json=BODY | {"return_documents": True, "top_n": 1})).json()
    assert isinstance(reply.pop("created"), int)
    results = [{"index": 1, "relevance_score": HIGH, "document": ANIMAL}]
    assert reply == {"object": "rerank", "results": results, "model": "large", "usage": TOKENS, "id": "mine-1"}


async def test_sglang(client: httpx.AsyncClient) -> None:
    reply = (await client.post("/sglang/v1/rerank", json=BODY)).json()
    meta = {"id": "mine-1"}
    assert reply == [
        {"index": 1, "score": HIGH, "document": ANIMAL, "meta_info": meta},
        {"index": 0, "score": LOW, "document": DOG, "meta_info": meta},
    ]
    reply = (await client.post("/sglang/v1/rerank", json=BODY | {"return_documents": False, "top_n": 1})).json()
    assert reply == [{"index": 1, "score": HIGH, "meta_info": meta}]
    error = (await client.post("/sglang/v1/rerank", json=BODY | {"model": "gpt"})).json()
    assert (error["object"], error["type"], error["code"]) == ("error", "NotFoundError", 404)


async def test_nim(client: httpx.AsyncClient) -> None:
    body: dict[str, Any] = {"query": {"text": QUERY}, "passages": [{"text": DOG}, {"text": ANIMAL}]}
    reply = (await client.post("/v1/ranking", json=body | {"model": "auto"})).json()
    assert reply == {"rankings": [{"index": 1, "logit": 1.5}, {"index": 0, "logit": -1.5}], "usage": TOKENS}
    for wrong, message in (
        ({"query": QUERY}, 'query: must be {"text": string}'),
        ({"query": {"text": QUERY, "image": "data:"}}, "query: 'image' is not supported yet; send text alone"),
        ({"passages": [DOG]}, 'passages.0: must be {"text": string}'),
        ({"passages": [{"text": DOG, "image": "data:"}]}, "passages.0: 'image' is not supported yet; send text alone"),
    ):
        error = await client.post("/v1/ranking", json=body | wrong)
        described = {"message": f"request body: {message}", "type": "invalid_request_error"}
        expected = {"object": "error", "detail": {"request_id": "mine-1"}, **described}
        assert (error.status_code, error.json()) == (400, expected)


def query_and_documents(group: FakeGroup) -> list[list[int]]:
    """Token ids of the pairs that a group was sent last: [CLS]=1, [SEP]=2, a=3, cat=4, dog=5, is=7, an=8, animal=9."""
    pairs = group.chunks[-1].pairs
    return [ids.tolist() for ids in np.split(pairs.ids, np.cumsum(pairs.lengths)[:-1])]


WHOLE_DOG, WHOLE_ANIMAL = [1, 4, 2, 3, 5, 2], [1, 4, 2, 3, 5, 7, 8, 9, 2]


@pytest.mark.parametrize(
    ("path", "fields", "dog", "animal", "cut"),
    [
        ("/v2/rerank", {"max_tokens_per_doc": 4096}, WHOLE_DOG, WHOLE_ANIMAL, 0),
        ("/v2/rerank", {"max_tokens_per_doc": 4}, WHOLE_DOG, [1, 4, 2, 3, 5, 7, 8, 2], 1),
        ("/jina/rerank", {"max_doc_length": 4}, WHOLE_DOG, [1, 4, 2, 3, 5, 7, 8, 2], 1),
        ("/rerank", {"max_tokens_per_doc": 0, "max_tokens_per_query": 0}, WHOLE_DOG, WHOLE_ANIMAL, 0),
        ("/rerank", {"max_tokens_per_doc": 1}, [1, 4, 2, 3, 2], [1, 4, 2, 3, 2], 2),
        ("/rerank", {"truncate_prompt_tokens": -1, "truncation_side": "left"}, WHOLE_DOG, WHOLE_ANIMAL, 0),
        ("/rerank", {"truncate_prompt_tokens": 7}, WHOLE_DOG, [1, 4, 2, 3, 5, 7, 2], 1),
        ("/score", {"truncate_prompt_tokens": 7, "truncation_side": "left"}, WHOLE_DOG, [1, 4, 2, 7, 8, 9, 2], 1),
        ("/rerank", {"max_tokens_per_doc": 3, "truncation_side": "left"}, WHOLE_DOG, [1, 4, 2, 3, 5, 7, 2], 1),
        ("/tei/rerank", {"truncation_direction": "Left", "truncate": True}, WHOLE_DOG, WHOLE_ANIMAL, 0),
    ],
)
async def test_texts_are_cut_as_asked(path: str, fields: dict, dog: list[int], animal: list[int], cut: int) -> None:
    group = FakeGroup()
    body: dict[str, Any] = {"query": QUERY, "documents": [DOG, ANIMAL]}
    if path == "/tei/rerank":
        body["texts"] = body.pop("documents")
    if path == "/score":
        body = {"text_1": QUERY, "text_2": [DOG, ANIMAL]}
    async with http_client(service(group)) as http:
        reply = await http.post(path, json=body | fields)
    assert (reply.status_code, reply.headers["x-rankfleet-truncated"]) == (200, str(cut))
    assert query_and_documents(group) == [dog, animal]


@pytest.mark.parametrize("direction", ["left", "Left"])
async def test_tei_cuts_on_either_side(direction: str) -> None:
    group = FakeGroup()
    body = {"query": QUERY, "texts": [f"dog {'sun ' * 70}{ANIMAL}"], "truncation_direction": direction}
    async with http_client(service(group)) as http:
        reply = await http.post("/tei/rerank", json=body)
    # 60 tokens of text beside [CLS] cat [SEP] … [SEP]; `dog` and the first suns are gone.
    assert reply.headers["x-rankfleet-truncated"] == "1"
    assert query_and_documents(group) == [[1, 4, 2, *[14] * 55, 3, 5, 7, 8, 9, 2]]


async def test_vllm_cuts_queries(client: httpx.AsyncClient) -> None:
    group = FakeGroup()
    body = {"query": "cat sat on", "documents": [DOG], "max_tokens_per_query": 2}
    async with http_client(service(group)) as http:
        reply = await http.post("/rerank", json=body)
    assert reply.headers["x-rankfleet-truncated"] == "1", "a document is not read whole beside a cut query"
    assert query_and_documents(group) == [[1, 4, 11, 2, 3, 5, 2]]


async def test_cohere_v1_scores_passages(client: httpx.AsyncClient) -> None:
    group = FakeGroup()
    body = {"query": QUERY, "documents": ["sun " * 150, DOG]}
    async with http_client(service(group, passage_overlap_tokens=0)) as http:
        for chunks, pairs, cut in ((None, 2, "1"), (10, 4, "0"), (2, 3, "1"), (1, 2, "1")):
            # Beside the query there is room for 60 tokens: 150 are three passages.
            reply = await http.post("/cohere/v1/rerank", json=body | {"max_chunks_per_doc": chunks})
            assert (len(group.chunks[-1].pairs), reply.headers["x-rankfleet-truncated"]) == (pairs, cut)


@pytest.mark.parametrize(
    ("path", "field"), [("/v1/rerank", "instruction"), ("/rerank", "instruction"), ("/sglang/v1/rerank", "instruct")]
)
async def test_an_instruction_is_put_into_the_prompt_or_refused(path: str, field: str) -> None:
    group, body = FakeGroup(), BODY | {field: "sun"}
    tokenizers = {"small": instructed_tokenizer(), "medium": word_tokenizer(), "large": word_tokenizer()}
    async with http_client(service(group, tokenizers=tokenizers)) as http:
        reply = await http.post(path, json=body)
        refused = await http.post(path, json=body | {"model": "large"})
        same = await http.post(path, json=BODY | {"model": "large", field: ""})
    assert (reply.status_code, same.status_code, len(group.chunks)) == (200, 200, 2)
    assert group.chunks[0].tiers == ("small",), "the others have no place for an instruction"
    ids = group.chunks[0].pairs.ids.tolist()
    assert ids[:8] == [10, 14, 11, 4, 2, 3, 5, 2], "the sun sat cat [SEP] a dog [SEP]"
    message = "instruction: the prompt of large has no place for one; leave it out"
    assert (refused.status_code, message in refused.text) == (422 if path == "/v1/rerank" else 400, True)


async def test_structured_documents_are_read_as_yaml_and_returned_whole(client: httpx.AsyncClient) -> None:
    cat, sun = {"title": "a cat", "n": 7, "text": "x"}, {"n": 1, "title": "the sun is a sun"}
    group = FakeGroup()
    body = {"query": QUERY, "documents": [cat, DOG, sun], "rank_fields": ["title", "n"], "return_documents": True}
    async with http_client(service(group)) as http:
        for path in ("/cohere/v1/rerank", "/v2/rerank", "/v1/rerank"):
            reply = await http.post(path, json=body)
            # A word or a mark is a token: `title`, `:` and numbers are unknown.
            assert query_and_documents(group) == [
                [1, 4, 2, 0, 0, 3, 4, 0, 0, 0, 2],  # title : a cat n : 7
                WHOLE_DOG,
                [1, 4, 2, 0, 0, 10, 14, 7, 3, 14, 0, 0, 0, 2],  # title : the sun is a sun n : 1
            ]
            assert [row["document"] for row in reply.json()["results"]] == [sun, cat, {"text": DOG}]
        error = await http.post("/v2/rerank", json=body | {"rank_fields": ["year"]})
    assert (error.status_code, error.json()["message"]) == (
        400,
        "request body: documents.0: has none of the rank_fields",
    )


@pytest.mark.parametrize(
    ("path", "body", "long"),
    [
        ("/v2/rerank", b'{"rank_fields": ["t"]}', True),
        ("/v1/rerank", b'{"rank_fields": ["t"]}', True),
        ("/v1/rerank", b'{"query": "of the rank_fields"}', False),
        ("/v1/rerank", rb'{"rank\u005ffields": ["t"]}', True),
        ("/jina/rerank", b'{"rank_fields": ["t"]}', False),
    ],
)
def test_structured_documents_take_long_to_read(path: str, body: bytes, long: bool) -> None:
    (route,) = (route for route in dialect_of(path).routes if route.path == path)
    assert route.takes_long(body) is long


@pytest.mark.parametrize(
    ("path", "document", "message"),
    [
        (
            "/jina/v1/rerank",
            {"image": "http://a/b.png"},
            "documents.1: 'image' is not supported; send a text",
        ),
        ("/jina/v1/rerank", {"text": "a", "image": "aGk="}, "documents.1: 'image' is not supported; send a text"),
        ("/rerank", {"content": [{"type": "image_url"}]}, "documents.1: 'content' is not supported; send a text"),
        ("/v2/rerank", {"title": "a"}, 'documents.1: must be a string or {"text": string}'),
    ],
)
async def test_other_media_are_refused_by_name(
    client: httpx.AsyncClient, path: str, document: dict, message: str
) -> None:
    reply = await client.post(path, json={"query": QUERY, "documents": [DOG, document]})
    assert reply.status_code in (400, 422)
    assert message.replace('"', '\\"') in reply.text


@pytest.mark.parametrize(
    ("path", "body", "status", "asked"),
    [
        ("/jina/rerank", {"truncation": False}, 413, {}),
        ("/voyage/rerank", {"truncation": False}, 400, {"truncation": True}),
        ("/tei/rerank", {"truncate": False}, 413, {}),
        ("/v1/ranking", {}, 400, {"truncate": "END"}),
    ],
)
async def test_documents_that_are_too_long_are_refused_where_they_are_not_to_be_cut(
    path: str, body: dict, status: int, asked: dict
) -> None:
    group = FakeGroup()
    sent: dict[str, Any] = {"query": QUERY, "documents": ["a dog", "a dog " * 50]}
    if path == "/tei/rerank":
        sent["texts"] = sent.pop("documents")
    if path == "/v1/ranking":
        sent = {"query": {"text": QUERY}, "passages": [{"text": text} for text in sent["documents"]]}
    async with http_client(service(group)) as http:
        refused = await http.post(path, json=sent | body)
        assert refused.status_code == status
        assert "longer than small reads: document 1; shorten them, or let them be cut" in refused.text
        assert group.chunks == [], "refused before anything is scored"
        cut = await http.post(path, json=sent | asked)
    assert (cut.status_code, cut.headers["x-rankfleet-truncated"]) == (200, "1")


def test_headers_are_lines_of_ascii() -> None:
    plan = Plan(
        **{"stages": (Stage.of("large", 2),), "documents": 2, "quality": 0.5, "predicted_ms": 40.0, "budget_ms": 50.0},
        **{"fits": True, "reason": "large\nranks 2 × best", "degraded": "512 tokens a pair"},
    )
    headers = plan_headers(Ranking([RankedDocument(0, 1.5)], plan, 15, [0], Timing(0.0), texts=[DOG]))
    assert headers["x-rankfleet-degraded"] == "512 tokens a pair"
    assert headers["x-rankfleet-reason"] == "large ranks 2 ? best"


async def test_plan_and_reason_come_back_in_headers() -> None:
    one = service(candidates="ranked", quality={"retriever": 0.2})
    one.fleet.update_latency({n: LatencyModel(ms, 0, 0) for n, ms in (("small", 10), ("medium", 40), ("large", 160))})
    async with http_client(one) as http:
        reply = await http.post("/v2/rerank", json=BODY, headers={"x-slo-ms": "60"})
        given = await http.post("/v2/rerank", json=BODY, headers={"x-slo-ms": "5"})
    told = {name.removeprefix("x-rankfleet-"): value for name, value in reply.headers.items() if "rankfleet" in name}
    assert told.pop("reason") == "medium is the best that fits: predicted 43 of 60 ms; too slow: large"
    assert told == {
        **{"tier": "medium", "plan": "medium;candidates=2", "quality": "0.4", "predicted-ms": "43.00"},
        **{"budget-ms": "60", "met": "true", "tokens": "15", "truncated": "0", "fusion": "order;weight=0"},
    }
    assert reply.headers["server-timing"].startswith("read;dur=")
    assert (given.headers["x-rankfleet-tier"], given.headers["x-rankfleet-plan"]) == ("none", "none")
    assert given.headers["x-rankfleet-degraded"] == "the order as given"


async def test_raw_scores_of_documents_that_were_not_scored_are_the_lowest() -> None:
    one = service(candidates="ranked", quality={"retriever": 0.2})
    one.fleet.update_latency({tier: LatencyModel(500, 0, 0) for tier in ("small", "medium", "large")})
    body = {"query": {"text": QUERY}, "passages": [{"text": DOG}, {"text": ANIMAL}]}
    async with http_client(one) as http:
        reply = await http.post("/v1/ranking", json=body, headers={"x-slo-ms": "5"})
    assert reply.json()["rankings"] == [{"index": 0, "logit": -1000.0}, {"index": 1, "logit": -1000.0}]


async def test_a_body_tells_tei_from_vllm(client: httpx.AsyncClient) -> None:
    page = await openapi_page(client)
    for body, kind in (
        ({"query": QUERY, "texts": [DOG]}, list),
        ({"query": QUERY, "documents": [DOG]}, dict),
        ({"query": "documents", "texts": ['"documents"']}, list),
        ({"query": QUERY, "documents": [{"text": DOG, "texts": 1}]}, dict),
    ):
        reply = await client.post("/rerank", json=body)
        assert (reply.status_code, type(reply.json())) == (200, kind)
        check_documented(page, reply)
    for path, body in (("tei", {"texts": [], "query": QUERY}), ("vllm", {"documents": [], "query": QUERY})):
        told, named = await client.post("/rerank", json=body), await client.post(f"/{path}/rerank", json=body)
        assert (told.status_code, told.json()) == (named.status_code, named.json())
        check_documented(page, told)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", "request body: Invalid JSON: "),
        (b'{"query": "\xff", "texts": ["a"], "documents": ["a"]}', "request body: Invalid JSON: "),
        (b"[]", "request body: should be an object"),
        (
            b'{"query": "cat"}',
            "request body: send either texts (as /tei/rerank takes it) or documents (as /vllm/",
        ),
        (b'{"query": "cat", "texts": ["a"], "documents": ["a"]}', "request body: send either texts (as /tei/rerank"),
    ],
)
async def test_a_body_of_no_dialect_is_refused_in_the_native_form(
    client: httpx.AsyncClient, content: bytes, message: str
) -> None:
    reply = await client.post("/rerank", content=content)
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "invalid_request")
    assert message in reply.json()["error"]["message"]
    check_documented(await openapi_page(client), reply)


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("/v1/rerank/", "/v1/rerank"),
        ("/v1/v1/rerank", "/v1/rerank"),
        ("/v1/v2/rerank", "/v2/rerank"),
        ("/v2/v1/v1/rerank", "/v1/rerank"),
        ("/cohere/v1/v2/rerank", "/cohere/v2/rerank"),
        ("/v1/retrieval/nvidia/rerank-qa/reranking", "/v1/ranking"),
        ("/nim/v1/retrieval/auto/reranking", "/nim/v1/ranking"),
        ("/nim/v1/models", "/v1/models"),
        ("/nim/v1/v1/models/", "/v1/models"),
        ("/tei/health", "/health"),
        ("/tei/v1/rerank", "/tei/v1/rerank"),  # TEI has no such path, and it is not the native one
        ("/other/health", "/other/health"),
        ("/v1/v1", "/v1/v1"),
        ("//", "/"),
        ("*", "*"),
    ],
)
def test_the_path_that_is_meant(sent: str, meant: str) -> None:
    assert canonical_path(sent) == meant


def test_a_path_longer_than_any_that_is_served_is_not_looked_into() -> None:
    path = "/v1" * 1000 + "/rerank"
    assert canonical_path(path) == path


@pytest.mark.parametrize(
    ("path", "name"),
    [("/rerank", "native"), ("/v2/rerank", "cohere"), ("/tei/x", "tei"), ("/teil", "native"), ("*", "native")],
)
def test_the_dialect_of_a_path(path: str, name: str) -> None:
    assert dialect_of(path).name == name
