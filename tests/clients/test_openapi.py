"""A client generated from the OpenAPI page, by `openapi-python-client`."""

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.clients.contract import BEST, DOCUMENTS, LONG_MS, QUERY, URL, busy, run_page

GENERATOR = Path(sys.executable).with_name("openapi-python-client")


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the generated package, which can be imported."""
    folder = tmp_path_factory.mktemp("generated") / "client"
    path = f"{GENERATOR.parent}:{os.environ['PATH']}"  # it formats what it writes with the ruff beside it
    done = subprocess.run(
        [GENERATOR, "generate", "--url", f"{URL}/openapi.json", "--output-path", folder],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr, "a part of the page was left out"
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def rerank(generated: Path) -> ModuleType:
    return importlib.import_module("rankfleet_client.api.default.rerank_v1_rerank_post")


@pytest.fixture(scope="module")
def models(generated: Path) -> ModuleType:
    return importlib.import_module("rankfleet_client.models")


def client() -> object:
    return importlib.import_module("rankfleet_client").Client(base_url=URL)


def test_it_ranks_within_a_budget(rerank: ModuleType, models: ModuleType) -> None:
    body = models.RerankBody(query=QUERY, documents=DOCUMENTS, top_n=2)
    reply = rerank.sync(client=client(), body=body, x_rankfleet_slo_ms=LONG_MS)
    assert [type(reply), len(reply.results), reply.results[0].index] == [models.RerankReply, 2, BEST]
    assert (reply.rankfleet.slo.budget_ms, reply.rankfleet.slo.met) == (LONG_MS, True)


def test_errors_and_refusals_have_types(rerank: ModuleType, models: ModuleType) -> None:
    body = models.RerankBody(query=QUERY, documents=DOCUMENTS, model="gpt")
    error = rerank.sync_detailed(client=client(), body=body)
    assert (error.status_code, error.parsed.error.code) == (404, "unknown_model")
    with busy():
        refusal = rerank.sync_detailed(client=client(), body=models.RerankBody(query=QUERY, documents=DOCUMENTS))
    assert (refusal.status_code, refusal.parsed.error.code) == (429, "overloaded")
    assert refusal.headers["retry-after-ms"] == "500"


@pytest.mark.parametrize(
    ("path", "body", "reply"),
    [
        ("cohere_v2_rerank", "CohereV2Body", "CohereV2Reply"),
        ("jina_v1_rerank", "JinaBody", "JinaReply"),
        ("voyage_v1_rerank", "VoyageBody", "VoyageReply"),
        ("vllm_rerank", "VllmRerankBody", "VllmRerankReply"),
        ("infinity_rerank", "InfinityBody", "InfinityReply"),
    ],
)
def test_it_ranks_in_other_formats(generated: Path, models: ModuleType, path: str, body: str, reply: str) -> None:
    route = importlib.import_module(f"rankfleet_client.api.default.rerank_{path}_post")
    ranked = route.sync(client=client(), body=getattr(models, body)(query=QUERY, documents=DOCUMENTS))
    assert isinstance(ranked, getattr(models, reply))
    rows = ranked.data if path.startswith("voyage") else ranked.results
    assert rows[0].index == BEST


def test_the_page(generated: Path) -> None:
    run_page("openapi")
