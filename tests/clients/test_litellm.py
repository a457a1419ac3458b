"""`litellm`, by each of its providers."""

from collections.abc import Mapping
from typing import Any

import litellm
import pytest

from tests.clients.contract import AS_GIVEN, BUDGET_BY, DOCUMENTS, SHORT_MS, URL, Ask, ClientContract, Rows, run_page


class TestHostedVllm(ClientContract):
    error = litellm.NotFoundError
    refusal = litellm.RateLimitError
    provider, base_path = "hosted_vllm", "/vllm"

    def rank(self, ask: Ask) -> Rows:
        sent = {"query": ask.query, "documents": DOCUMENTS, "top_n": ask.top_n, "headers": dict(ask.headers)}
        where = {"model": f"{self.provider}/{ask.model}", "api_base": URL + self.base_path, "api_key": ask.key}
        return [(row["index"], row["relevance_score"]) for row in litellm.rerank(**where, **sent).results]

    def headers_of(self, refusal: Any) -> Mapping[str, str]:
        return dict(refusal.litellm_response_headers or {})


class TestNvidiaNim(TestHostedVllm):
    provider, base_path = "nvidia_nim", ""


class TestCohere(TestHostedVllm):
    """Drops the headers of errors."""

    provider, base_path = "cohere", ""
    tells_when_to_retry = False


class TestInfinity(TestCohere):
    provider, base_path = "infinity", "/infinity"


class TestHuggingface(TestCohere):
    """Sends no model."""

    provider, base_path = "huggingface", "/tei"
    error = litellm.APIError
    wrong, message = Ask(query=""), "query is empty"
    ways = ("headers",)


class TestJina(TestHostedVllm):
    """Sends no headers, and its base URL loses its path, so that the native format answers."""

    provider, base_path = "jina_ai", ""
    ways = ("model",)

    def test_headers_are_not_sent(self) -> None:
        rows = self.rank(BUDGET_BY["headers"](SHORT_MS))
        assert [index for index, _ in rows] != AS_GIVEN, "now they are sent: the page should say so"


class TestVoyage(TestJina):
    """Sends no headers."""

    provider, base_path = "voyage", "/voyage"


@pytest.mark.parametrize("base_path", ["/v1", "/cohere"])
def test_base_urls_of_cohere_may_have_a_path(base_path: str) -> None:
    ranked = TestCohere()
    ranked.base_path = base_path
    ranked.test_documents_come_back_best_first()


def test_the_page() -> None:
    run_page("litellm")
