"""The README's table of base URLs: every line of `after` ranks, and differs from `before` in its base URL alone."""

import importlib
import importlib.util
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from tests.clients.contract import BEST, DOCS, DOCUMENTS, MODEL, QUERY, QUICK_START, URL

README = (DOCS.parents[1] / "README.md").read_text()
ROW = re.compile(r"^\| ([^|]+) \| `([^`|]+)` \| `([^`|]+)` \|$", re.MULTILINE)
TABLE = {client: (before, after) for client, before, after in ROW.findall(README) if QUICK_START in after}
BASE_URL = re.compile(r"""(?:, )?(?:base_url|api_base|url)="[^"]*"(?:, )?""")


class Use(NamedTuple):
    """module, name: what the line needs imported; without a name, the module itself.
    best: the text or index of the best document, by what the line makes."""

    module: str
    name: str | None
    best: Callable[[Any], Any]
    model: str = MODEL


def langchain(reranker: Any) -> str:
    from langchain_core.documents import Document

    return str(reranker.compress_documents([Document(text) for text in DOCUMENTS], QUERY)[0].page_content)


def llama_index(reranker: Any) -> str:
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

    nodes = [NodeWithScore(node=TextNode(text=text)) for text in DOCUMENTS]
    return str(reranker.postprocess_nodes(nodes, query_bundle=QueryBundle(QUERY))[0].text)


def haystack(ranker: Any) -> str:
    from haystack import Document

    return str(
        ranker.run(query=QUERY, documents=[Document(content=text) for text in DOCUMENTS])["documents"][0].content
    )


def results(client: Any) -> int:
    return int(client.rerank(query=QUERY, documents=DOCUMENTS, model=MODEL).results[0].index)


USES = {
    "cohere-7": {
        "Cohere": Use("cohere", None, results),
        "Voyage": Use("voyageai", None, results),
        "LiteLLM (vLLM)": Use("litellm", None, lambda reply: reply.results[0]["index"], f"hosted_vllm/{MODEL}"),
        "Haystack (TEI)": Use(
            "haystack_integrations.components.rankers.huggingface_api", "HuggingFaceTEIRanker", haystack
        ),
    },
    "cohere-5": {
        "LangChain (Cohere)": Use("langchain_cohere", "CohereRerank", langchain),
        "LangChain (NIM)": Use("langchain_nvidia_ai_endpoints", "NVIDIARerank", langchain),
        "LlamaIndex (Jina)": Use("llama_index.postprocessor.jinaai_rerank", "JinaRerank", llama_index),
        "LlamaIndex (TEI)": Use("llama_index.postprocessor.tei_rerank", "TextEmbeddingInference", llama_index),
    },
}
HERE = "cohere-5" if importlib.util.find_spec("langchain_cohere") else "cohere-7"


def test_the_table_has_eight_lines_and_each_is_run_in_one_environment() -> None:
    assert sorted(TABLE) == sorted([*USES["cohere-5"], *USES["cohere-7"]])
    assert len(TABLE) == 8


@pytest.mark.parametrize("client", TABLE)
def test_only_the_base_url_changes(client: str) -> None:
    before, after = TABLE[client]
    assert BASE_URL.sub("", before) == BASE_URL.sub("", after)


@pytest.mark.parametrize("client", USES[HERE])
def test_a_line_ranks(client: str) -> None:
    use = USES[HERE][client]
    module = importlib.import_module(use.module)
    key: Any = "none"
    if "Haystack" in client:
        key = importlib.import_module("haystack.utils").Secret.from_token("none")
    names = {"model": use.model, "key": key, "query": QUERY, "documents": DOCUMENTS}
    names[use.name or use.module] = getattr(module, use.name) if use.name else module
    made = eval(TABLE[client][1].replace(QUICK_START, URL), names)
    assert use.best(made) in (BEST, DOCUMENTS[BEST])
