"""`voyageai`."""

from collections.abc import Mapping
from typing import Any

import voyageai

from tests.clients.contract import DOCUMENTS, QUERY, URL, Ask, ClientContract, Rows, run_page


class TestVoyage(ClientContract):
    """It has no place for headers. Voyage itself answers 400 for an unknown model; 404 is an APIError."""

    error = voyageai.error.APIError
    refusal = voyageai.error.RateLimitError
    ways = ("model",)

    def rank(self, ask: Ask) -> Rows:
        client = voyageai.Client(ask.key, base_url=f"{URL}/voyage")
        found = client.rerank(ask.query, DOCUMENTS, model=ask.model, top_k=ask.top_n)
        return [(one.index, one.relevance_score) for one in found.results]

    def headers_of(self, refusal: Any) -> Mapping[str, str]:
        return dict(refusal.headers)


def test_tokens_come_back() -> None:
    found = voyageai.Client("none", base_url=f"{URL}/voyage/v1").rerank(QUERY, DOCUMENTS, model="small")
    assert found.total_tokens > 0
    assert found.results[0].document in DOCUMENTS


def test_the_page() -> None:
    run_page("voyageai")
