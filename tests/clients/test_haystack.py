"""Haystack: `cohere-haystack`, `huggingface-api-haystack` and `vllm-haystack`."""

from collections.abc import Mapping
from typing import Any

from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.rankers.cohere import CohereRanker
from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker
from haystack_integrations.components.rankers.vllm import VLLMRanker

from tests.clients.cohere_contract import CohereContract
from tests.clients.contract import DOCUMENTS, URL, Ask, ClientContract, Rows, run_page


def rows(ranker: Any, query: str) -> Rows:
    found = ranker.run(query=query, documents=[Document(content=text) for text in DOCUMENTS])["documents"]
    return [(DOCUMENTS.index(one.content), one.score) for one in found]


class TestCohere(CohereContract):
    ways = ("model",)

    def rank(self, ask: Ask) -> Rows:
        options = {"model": ask.model, "top_k": ask.top_n or 10, "api_key": Secret.from_token(ask.key)}
        return rows(CohereRanker(api_base_url=URL, **options), ask.query)


class TestTei(ClientContract):
    """It calls /rerank of the host, whatever path its URL has, and sends no model."""

    error = refusal = RuntimeError
    wrong, message = Ask(query=""), "query is empty"
    ways = ()

    def rank(self, ask: Ask) -> Rows:
        options = {"top_k": ask.top_n or 10, "token": Secret.from_token(ask.key), "max_retries": 1}
        return rows(HuggingFaceTEIRanker(url=URL, **options), ask.query)

    def headers_of(self, refusal: Any) -> Mapping[str, str]:
        return dict(refusal.__cause__.response.headers)


class TestVllm(ClientContract):
    """Of an error, only the body is left."""

    error = refusal = RuntimeError
    tells_when_to_retry = False

    def rank(self, ask: Ask) -> Rows:
        options = {"model": ask.model, "top_k": ask.top_n, "api_key": Secret.from_token(ask.key)}
        http = {"headers": dict(ask.headers)}
        return rows(VLLMRanker(api_base_url=f"{URL}/vllm/v1", http_client_kwargs=http, **options), ask.query)


class TestVllmOfTheHost(TestVllm):
    """The host's /v1/rerank is native, and has what the ranker reads."""

    def rank(self, ask: Ask) -> Rows:
        options = {"model": ask.model, "top_k": ask.top_n, "api_key": Secret.from_token(ask.key)}
        http = {"headers": dict(ask.headers)}
        return rows(VLLMRanker(api_base_url=f"{URL}/v1", http_client_kwargs=http, **options), ask.query)


def test_the_page() -> None:
    run_page("haystack")
