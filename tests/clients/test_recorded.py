"""Open WebUI and Dify, which are no packages to call: requests as they make them, and what they read of replies.

`recorded/` has one request a file, and where it comes from. Only texts, model and key are filled in.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests

from tests.clients.contract import DOCUMENTS, URL, Ask, ClientContract, Rows


class Recorded(ClientContract):
    """All of them raise what `raise_for_status` does, so that only the status is left of an error."""

    error = refusal = requests.HTTPError
    message, busy_message = "404 Client Error", "429 Client Error"
    ways = ("model",)
    recorded: str
    documents = "documents"

    def rank(self, ask: Ask) -> Rows:
        request = json.loads((Path(__file__).parent / f"recorded/{self.recorded}.json").read_text())
        body = request["body"] | {"query": ask.query, self.documents: DOCUMENTS}
        body |= {"model": ask.model} if "model" in body else {}
        body |= {"top_n": len(DOCUMENTS)} if body.get("top_n") else {}
        headers = request["headers"] | {"Authorization": f"Bearer {ask.key}"}
        reply = requests.request(request["method"], URL + request["path"], json=body, headers=headers, timeout=60)
        reply.raise_for_status()
        return self.read(reply.json())[: ask.top_n]

    def read(self, reply: Any) -> Rows:
        raise NotImplementedError

    def headers_of(self, refusal: Any) -> Mapping[str, str]:
        return dict(refusal.response.headers)


class TestOpenWebui(Recorded):
    recorded = "open-webui"

    def read(self, reply: Any) -> Rows:
        """A score for every document, in their order; sorted later."""
        scores = [row["relevance_score"] for row in sorted(reply["results"], key=lambda row: row["index"])]
        return sorted(enumerate(scores), key=lambda row: -row[1])


class TestDifyOpenAiCompatible(Recorded):
    recorded = "dify-openai-compatible"

    def read(self, reply: Any) -> Rows:
        return [(row["index"], row["relevance_score"]) for row in reply["results"]]


class TestDifySdk(Recorded):
    """The text of `document`, and scores stretched from 0 to 1."""

    recorded = "dify-sdk"

    def read(self, reply: Any) -> Rows:
        assert [row["document"]["text"] for row in reply["results"]] == [
            DOCUMENTS[row["index"]] for row in reply["results"]
        ]
        scores = [row["relevance_score"] for row in reply["results"]]
        span = (max(scores) - min(scores)) or 1.0
        return [(row["index"], (row["relevance_score"] - min(scores)) / span) for row in reply["results"]]


class TestDifyTei(Recorded):
    """Sends no model. Before the first request it asks what kind of model there is."""

    recorded, documents = "dify-tei", "texts"
    wrong, message = Ask(query=""), "422 Client Error"
    ways = ()

    def read(self, reply: Any) -> Rows:
        assert [row["text"] for row in reply] == [DOCUMENTS[row["index"]] for row in reply]
        return [(row["index"], row["score"]) for row in reply]

    def test_it_is_told_that_there_is_a_reranker(self) -> None:
        told = requests.get(f"{URL}/tei/info", timeout=10).json()
        assert next(iter(told["model_type"])) == "reranker"
        assert told["max_client_batch_size"] >= len(DOCUMENTS)
        assert told["max_input_length"] > 0
