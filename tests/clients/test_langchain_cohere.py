"""`langchain-cohere`."""

import cohere
import httpx
from langchain_cohere import CohereRerank
from langchain_core.documents import Document

from tests.clients.cohere_contract import CohereContract
from tests.clients.contract import BEST, DOCUMENTS, QUERY, URL, Ask, Rows, run_page


class TestCohereRerank(CohereContract):
    """It has no place for headers: they are those of the HTTP client below the client that it is given."""

    def rank(self, ask: Ask) -> Rows:
        client = cohere.ClientV2(ask.key, base_url=URL, httpx_client=httpx.Client(headers=ask.headers))
        reranker = CohereRerank(model=ask.model, top_n=ask.top_n, client=client)
        found = reranker.compress_documents([Document(text) for text in DOCUMENTS], ask.query)
        return [(DOCUMENTS.index(one.page_content), one.metadata["relevance_score"]) for one in found]


def test_it_makes_texts_of_objects() -> None:
    documents = [{"title": f"number {i}", "text": text} for i, text in enumerate(DOCUMENTS)]
    reranker = CohereRerank(model="auto", base_url=URL, cohere_api_key="none")
    assert reranker.rerank(documents, QUERY, rank_fields=["text"])[0]["index"] == BEST


def test_the_page() -> None:
    run_page("langchain-cohere")
