"""The running demo fleet, over HTTP."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.integration.conftest import RunningFleet

QUERY = "How do vaccines protect against disease?"
RIGHT = "A vaccine trains the immune system to recognise a germ, so that it can fight the disease later."
DOCUMENTS = [
    "The stock market closed higher on Friday after strong earnings.",
    RIGHT,
    "Heavy rain is expected in the north of the country this weekend.",
]


@pytest.mark.parametrize("tier", ["small", "medium", "large", "auto"])
def test_the_right_document_comes_first(running_fleet: RunningFleet, tier: str) -> None:
    reply = running_fleet.rerank(QUERY, DOCUMENTS, model=tier, return_documents=True)
    assert reply.status_code == 200
    assert reply.json()["results"][0]["document"]["text"] == RIGHT


def test_scores_are_those_of_the_engine_alone(running_fleet: RunningFleet) -> None:
    from rankfleet.engine.checkpoint.files import find_checkpoint
    from rankfleet.engine.runtime.scorer import Reranker

    texts = [*DOCUMENTS, "", "word " * 700, "мир 世界 😀"]
    expected = Reranker.load(find_checkpoint("demo/medium"), device="cpu").score(QUERY, texts)
    results = running_fleet.rerank(QUERY, texts, model="medium").json()["results"]
    assert {r["index"]: r["logit"] for r in results} == pytest.approx(dict(enumerate(expected.tolist())), abs=1e-4)


def test_the_reply_tells_what_happened(running_fleet: RunningFleet) -> None:
    reply = running_fleet.rerank(QUERY, [*DOCUMENTS, "word " * 700], model="small", slo_ms=20000)
    fleet = reply.json()["rankfleet"]
    assert fleet["tier"] == "small"
    assert fleet["reason"] == "small is asked for by name"
    assert fleet["truncated"] == [3]
    assert fleet["slo"] == {"class": None, "budget_ms": 20000.0, "met": True, "degraded": False, "partial": False}
    assert fleet["stages"] == [{"tier": "small", "candidates": 4}]
    parts = fleet["timing_ms"]
    assert parts["infer"] > 0
    assert parts["total"] >= parts["infer"]
    assert "infer;dur=" in reply.headers["server-timing"]


def test_concurrent_requests_get_their_own_answers(running_fleet: RunningFleet) -> None:
    def ask(i: int) -> tuple[int, list[dict]]:
        documents = [f"passage number {j} of request {i}" for j in range(1 + i % 7)]
        return i, running_fleet.rerank(f"request {i}", documents, model="small").json()["results"]

    with ThreadPoolExecutor(16) as pool:
        for i, results in pool.map(ask, range(64)):
            assert sorted(r["index"] for r in results) == list(range(1 + i % 7))


def test_a_bad_request_disturbs_nobody(running_fleet: RunningFleet) -> None:
    bad = [b"", b"{", b'{"query": "\xff"}', b'{"query": "a", "documents": ["\\udfff"]}', b"[" * 100_000]
    bad.append(b'{"query": "a", "documents": ["' + b"x" * 5_000_000 + b'"]}')

    def ask(i: int) -> int:
        if i % 2:
            return running_fleet.http.post("/v1/rerank", content=bad[i // 2 % len(bad)]).status_code
        return running_fleet.rerank(QUERY, DOCUMENTS, model="small").status_code

    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(ask, range(48)))
    assert set(codes[::2]) == {200}
    assert set(codes[1::2]) <= {413, 422}


def test_a_client_that_goes_away_harms_nobody(running_fleet: RunningFleet) -> None:
    for _ in range(5):
        with pytest.raises(httpx.ReadTimeout):
            running_fleet.http.post(
                "/v1/rerank", json={"query": QUERY, "documents": [RIGHT * 20] * 60, "model": "large"}, timeout=0.02
            )
    assert running_fleet.rerank(QUERY, DOCUMENTS, model="small").status_code == 200


def test_routes(running_fleet: RunningFleet) -> None:
    http = running_fleet.http
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").json() == {"status": "ready"}
    assert [m["id"] for m in http.get("/v1/models").json()["data"]][:4] == ["auto", "small", "medium", "large"]
    assert "swagger" in http.get("/docs").text.lower()


def test_a_budget_too_short_is_refused_at_once_where_the_class_says_so(running_fleet: RunningFleet) -> None:
    reply = running_fleet.rerank(QUERY, [RIGHT] * 500, model="interactive", slo_ms=5)
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "infeasible")
    assert "retry-after" not in reply.headers, "the fleet is idle: trying again would not help"
    assert "no tier fits 5 ms" in reply.json()["error"]["message"]


def test_budgets_choose_tiers(running_fleet: RunningFleet) -> None:
    documents = [f"{RIGHT} {i}" for i in range(60)]
    roomy = running_fleet.rerank(QUERY, documents, model="relaxed").json()["rankfleet"]
    # A little more than the small tier was predicted to take, and less than the large one was.
    explained = {m: running_fleet.rerank(QUERY, documents, model=m).json()["rankfleet"] for m in ("small", "large")}
    low, high = (explained[model]["predicted_ms"] for model in ("small", "large"))
    between = low + (high - low) / 4
    tight = running_fleet.rerank(QUERY, documents, slo_ms=between).json()["rankfleet"]
    assert roomy["tier"] == "large"
    assert tight["tier"] in ("small", "medium")
    assert "large" in tight["reason"]


def test_search_finds_and_ranks(running_fleet: RunningFleet) -> None:
    reply = running_fleet.http.post("/v1/search", json={"query": QUERY, "model": "large", "slo_ms": 20000})
    assert reply.status_code == 200
    body = reply.json()
    assert body["results"][0]["id"] == "p0"
    assert body["results"][0]["document"]["text"] == RIGHT
    assert {r["id"] for r in body["results"]} == {"p0", "p2"}
    assert body["rankfleet"]["slo"]["met"] is True
    assert set(body["rankfleet"]["timing_ms"]) == {"retrieve", "tokenize", "queue", "infer", "total"}


def test_the_readme_request_works(running_fleet: RunningFleet) -> None:
    """The very command that the README and the start of a fleet show."""
    from rankfleet.cli.serve import EXAMPLE

    command = EXAMPLE.format(address=str(running_fleet.http.base_url).rstrip("/"))
    reply = json.loads(subprocess.run(["bash", "-c", command], capture_output=True, check=True).stdout)
    assert reply["results"][0]["index"] == 1


def test_a_plan_is_explained_without_scoring(running_fleet: RunningFleet) -> None:
    body = {"query": QUERY, "documents": DOCUMENTS, "slo_ms": 20000}
    reply = running_fleet.http.post("/v1/plan", json=body).json()
    verdicts = {each["tier"]: each["verdict"] for each in reply["considered"]}
    assert set(verdicts) == {"small", "medium", "large"}
    # Which one depends on how crowded the fleet has been just now.
    assert [tier for tier, verdict in verdicts.items() if verdict == "chosen"] == [reply["tier"]]
