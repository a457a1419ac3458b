"""The `cohere` package, versions 5 and 7, speaking Cohere's v1 and v2."""

import time
from typing import Any
from unittest import mock

import cohere

from tests.clients.cohere_contract import CohereContract
from tests.clients.contract import BEST, DOCUMENTS, QUERY, URL, Ask, Rows, busy, run_page


class TestV2(CohereContract):
    client: type[Any] = cohere.ClientV2
    base_url = URL

    def rank(self, ask: Ask) -> Rows:
        options = {"max_retries": 0, "additional_headers": ask.headers}
        body = {"query": ask.query, "documents": DOCUMENTS, "model": ask.model, "top_n": ask.top_n}
        reply = self.client(ask.key, base_url=self.base_url).rerank(**body, request_options=options)
        return [(result.index, result.relevance_score) for result in reply.results]

    def test_tokens_and_search_units_come_back(self) -> None:
        reply = self.client("none", base_url=self.base_url).rerank(query=QUERY, documents=DOCUMENTS, model="small")
        assert reply.meta.billed_units.search_units == 1
        assert reply.meta.tokens.input_tokens > 0


class TestV2AtItsBasePath(TestV2):
    base_url = f"{URL}/cohere"


class TestV1AtItsBasePath(TestV2):
    client = cohere.Client
    base_url = f"{URL}/cohere"


class TestV1OfTheHost(TestV2):
    """The host's /v1/rerank is native: Cohere's v1 client reads its results, units and errors."""

    client = cohere.Client


def test_v1_returns_documents() -> None:
    documents = [{"text": text, "title": f"{i}"} for i, text in enumerate(DOCUMENTS)]
    client = cohere.Client("none", base_url=f"{URL}/cohere")
    reply = client.rerank(query=QUERY, documents=documents, model="auto", return_documents=True)
    assert reply.results[0].document.text == DOCUMENTS[BEST]


def test_it_waits_as_long_as_a_refusal_says_and_tries_again() -> None:
    """Version 5 cannot read `retry-after-ms`. A wait of the client's own choice would have a random part."""
    with busy(for_s=0.2), mock.patch("time.sleep", wraps=time.sleep) as sleep:
        cohere.ClientV2("none", base_url=URL).rerank(query=QUERY, documents=DOCUMENTS, model="auto")
    told_s = 1 if cohere.__version__.startswith("5.") else 0.5
    assert {call.args for call in sleep.call_args_list} == {(told_s,)}


def test_the_page() -> None:
    run_page("cohere")
