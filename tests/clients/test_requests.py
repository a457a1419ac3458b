"""HTTP by hand, with `requests`: the native format, and those that have no package of their own."""

from collections.abc import Mapping
from typing import Any

import pytest
import requests

from tests.clients.contract import DOCUMENTS, QUERY, URL, Ask, ClientContract, Rows, run_page


class TestNative(ClientContract):
    error = refusal = requests.HTTPError
    path = "/v1/rerank"

    def rank(self, ask: Ask) -> Rows:
        body = {"query": ask.query, "documents": DOCUMENTS, "model": ask.model, "top_n": ask.top_n}
        headers = {"authorization": f"Bearer {ask.key}", **ask.headers}
        reply = requests.post(URL + self.path, json=body, headers=headers, timeout=60)
        if not reply.ok:
            raise requests.HTTPError(reply.text, response=reply)
        return self.rows_of(reply.json())

    def rows_of(self, reply: Any) -> Rows:
        return [(row["index"], row["relevance_score"]) for row in reply["results"]]

    def headers_of(self, refusal: Any) -> Mapping[str, str]:
        return dict(refusal.response.headers)


class TestVllm(TestNative):
    path = "/rerank"


class TestSglang(TestNative):
    path = "/sglang/v1/rerank"

    def rows_of(self, reply: Any) -> Rows:
        return [(row["index"], row["score"]) for row in reply]


@pytest.mark.parametrize("path", ["/score", "/v1/score", "/vllm/score"])
def test_vllm_scores_pairs(path: str) -> None:
    reply = requests.post(URL + path, json={"text_1": QUERY, "text_2": DOCUMENTS}, timeout=60).json()
    scores = [pair["score"] for pair in reply["data"]]
    assert max(scores) == scores[1]


def test_the_page() -> None:
    run_page("requests")
