"""LlamaIndex: its rerankers for Cohere, Jina and Text Embeddings Inference. None sends headers of one's own."""

from typing import Any

from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.postprocessor.cohere_rerank import CohereRerank
from llama_index.postprocessor.jinaai_rerank import JinaRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

from tests.clients.cohere_contract import CohereContract
from tests.clients.contract import DOCUMENTS, URL, Ask, ClientContract, Rows, run_page


def rows(reranker: Any, query: str) -> Rows:
    nodes = [NodeWithScore(node=TextNode(text=text), score=0.1) for text in DOCUMENTS]
    found = reranker.postprocess_nodes(nodes, query_bundle=QueryBundle(query))
    return [(DOCUMENTS.index(one.text), one.score) for one in found]


class TestCohere(CohereContract):
    ways = ("model",)

    def rank(self, ask: Ask) -> Rows:
        options = {"model": ask.model, "top_n": ask.top_n or len(DOCUMENTS), "api_key": ask.key}
        return rows(CohereRerank(base_url=URL, **options), ask.query)


class TestJina(ClientContract):
    """Of an error, only the message is left."""

    error = refusal = RuntimeError
    tells_when_to_retry = False
    ways = ("model",)

    def rank(self, ask: Ask) -> Rows:
        options = {"model": ask.model, "top_n": ask.top_n or len(DOCUMENTS), "api_key": ask.key}
        return rows(JinaRerank(base_url=f"{URL}/jina", **options), ask.query)


class TestTei(ClientContract):
    """It sends the query and the texts and cuts the reply to `top_n`. An API key is sent as given, so it has to begin
    with `Bearer`. An error is read as a list of results, so that nothing is left of it."""

    error = refusal = AssertionError
    wrong = Ask(query="")
    message = busy_message = ""
    tells_when_to_retry = False
    ways = ()

    def rank(self, ask: Ask) -> Rows:
        options = {"auth_token": f"Bearer {ask.key}", "top_n": ask.top_n or len(DOCUMENTS)}
        return rows(TextEmbeddingInference(base_url=f"{URL}/tei", **options), ask.query)


def test_the_page() -> None:
    run_page("llama-index")
