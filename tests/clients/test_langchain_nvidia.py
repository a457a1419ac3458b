"""`langchain-nvidia-ai-endpoints`, speaking to a NIM."""

from langchain_core.documents import Document
from langchain_nvidia_ai_endpoints import NVIDIARerank

from tests.clients.contract import DOCUMENTS, URL, Ask, ClientContract, Rows, run_page


class TestNvidiaRerank(ClientContract):
    """Errors are of type Exception, and say status and message. When to retry is lost."""

    error = refusal = Exception
    tells_when_to_retry = False
    base_url = f"{URL}/v1"

    def rank(self, ask: Ask) -> Rows:
        options = {"base_url": self.base_url, "api_key": ask.key, "default_headers": ask.headers, "truncate": "END"}
        reranker = NVIDIARerank(model=ask.model, top_n=ask.top_n or len(DOCUMENTS), **options)
        found = reranker.compress_documents([Document(text) for text in DOCUMENTS], ask.query)
        return [(DOCUMENTS.index(one.page_content), one.metadata["relevance_score"]) for one in found]


class TestNvidiaRerankAtItsBasePath(TestNvidiaRerank):
    base_url = f"{URL}/nim/v1"


def test_the_page() -> None:
    run_page("langchain-nvidia")
