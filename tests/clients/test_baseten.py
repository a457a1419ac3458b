"""`baseten-performance-client`, speaking to Text Embeddings Inference."""

import requests
from baseten_performance_client import PerformanceClient, RequestProcessingPreference

from tests.clients.contract import DOCUMENTS, QUERY, URL, Ask, ClientContract, Rows, run_page


class TestBaseten(ClientContract):
    """It has no `top_n`. Of an error, status and message are left; by default it retries five times, by a clock of its
    own."""

    error = refusal = requests.HTTPError
    tells_when_to_retry = False

    def rank(self, ask: Ask) -> Rows:
        preference = RequestProcessingPreference(extra_headers=dict(ask.headers), max_retries=0)
        client = PerformanceClient(f"{URL}/tei", api_key=ask.key)
        reply = client.rerank(ask.query, DOCUMENTS, model=ask.model, truncate=True, preference=preference)
        assert reply.response_headers[0]["x-rankfleet-reason"]
        return [(one.index, one.score) for one in reply.data][: ask.top_n]


def test_it_sends_eight_documents_a_request_unless_told_otherwise() -> None:
    client, documents = PerformanceClient(f"{URL}/tei", api_key="none"), DOCUMENTS * 5
    together = RequestProcessingPreference(batch_size=1000)
    for preference, requests_made in ((None, 3), (together, 1)):
        reply = client.rerank(QUERY, documents, truncate=True, preference=preference)
        assert len(reply.response_headers) == requests_made
        scores = [one.score for one in reply.data]
        assert (scores == sorted(scores, reverse=True)) == (requests_made == 1), "only those of one request are sorted"


def test_the_page() -> None:
    run_page("baseten")
