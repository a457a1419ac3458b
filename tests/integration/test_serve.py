"""The running demo fleet, over HTTP."""

import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from rankfleet.cli.serve import EXAMPLE
from rankfleet.core.timing import STEPS
from rankfleet.engine.checkpoint.files import find_checkpoint
from rankfleet.engine.checkpoint.storage import write_float32
from rankfleet.engine.runtime.scorer import Reranker
from tests.integration.fleet import DOCUMENTS, PASSAGES, QUERY, RIGHT, RunningFleet, wait_for


@pytest.mark.parametrize("tier", ["small", "medium", "large", "auto"])
def test_the_right_document_comes_first(running_fleet: RunningFleet, tier: str) -> None:
    reply = running_fleet.rerank(QUERY, DOCUMENTS, model=tier, return_documents=True)
    assert reply.status_code == 200
    assert reply.json()["results"][0]["document"]["text"] == RIGHT


def test_scores_are_those_of_sentence_transformers(running_fleet: RunningFleet, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    checkpoint = find_checkpoint("demo/medium")
    write_float32(checkpoint, tmp_path / "medium")
    reference = CrossEncoder(str(tmp_path / "medium"), device="cpu", model_kwargs={"dtype": torch.float32})
    texts = [*DOCUMENTS, "", "word " * 700, "мир 世界 😀"]
    expected = reference.predict([(QUERY, text) for text in texts], activation_fn=torch.nn.Identity())
    alone = Reranker.load(checkpoint, device="cpu").score(QUERY, texts)
    results = running_fleet.rerank(QUERY, texts, model="medium").json()["results"]
    served = [result["logit"] for result in sorted(results, key=lambda result: result["index"])]
    # The fleet's precision may be bfloat16, whose 8 significant bits are 0.4% of logits of up to 6.
    assert served == pytest.approx(expected.tolist(), abs=0.03)
    assert served == pytest.approx(alone.tolist(), abs=1e-4), "the way through the fleet changes no score"


def test_the_reply_names_tier_reason_stages_and_times(running_fleet: RunningFleet) -> None:
    reply = running_fleet.rerank(QUERY, [*DOCUMENTS, "word " * 700], model="small", slo_ms=20000)
    fleet = reply.json()["rankfleet"]
    assert fleet["tier"] == "small"
    assert fleet["reason"] == "small is asked for by name"
    assert fleet["truncated"] == [3]
    assert fleet["slo"] == {"class": None, "budget_ms": 20000.0, "met": True, "degraded": False, "partial": False}
    assert fleet["stages"] == [{"tier": "small", "candidates": 4}]
    parts = fleet["timing_ms"]
    assert parts["infer"] > 0
    assert parts.pop("total") == pytest.approx(sum(parts.values()), abs=0.1), "but for rounding, nothing is left over"
    assert "infer;dur=" in reply.headers["server-timing"]


def test_several_queries_are_ranked_as_alone_and_a_document_that_occurs_twice_is_scored_once(
    running_fleet: RunningFleet,
) -> None:
    queries, documents = [QUERY, PASSAGES[0], QUERY], [*DOCUMENTS, DOCUMENTS[0]]
    one = {"model": "medium", "documents": documents}
    alone = [running_fleet.http.post("/v1/rerank", json={"query": query, **one}).json() for query in queries[:2]]
    together = running_fleet.http.post("/v1/rerank", json={"queries": queries, **one}).json()
    for ranked, expected in zip(together["results"], [alone[0], alone[1], alone[0]], strict=True):
        assert [row["index"] for row in ranked] == [row["index"] for row in expected["results"]]
        logits = [row["logit"] for row in expected["results"]]
        assert [row["logit"] for row in ranked] == pytest.approx(logits, abs=1e-4)
    assert together["usage"]["total_tokens"] == sum(reply["usage"]["total_tokens"] for reply in alone)
    places = [row["index"] for row in together["results"][0]]
    assert places.index(len(DOCUMENTS)) == places.index(0) + 1, "the copy is directly behind the first"

    body = {"queries": queries, "documents": documents[:3], "model": "medium", "use_activation": False}
    scores = [row["score"] for row in running_fleet.http.post("/score", json=body).json()["data"]]
    by_index = [{row["index"]: row["logit"] for row in reply["results"]} for reply in alone]
    assert scores == pytest.approx([by_index[0][0], by_index[1][1], by_index[0][2]], abs=1e-4)


def test_the_span_of_a_long_document_is_its_best_passage(running_fleet: RunningFleet) -> None:
    document = "nothing of interest 😀 " * 300 + RIGHT + " nothing else" * 300
    body = {
        "query": QUERY,
        "documents": [document, RIGHT],
        "model": "large",
        "relevant_spans": {"mode": "enabled", "threshold": 0},
    }
    reply = running_fleet.http.post("/v2/rerank", json=body)
    spans = {row["index"]: row["relevant_spans"] for row in reply.json()["results"]}
    assert [[document[span["start"] : span["end"]].count(RIGHT) for span in spans[0]], len(spans[1])] == [[1], 1]
    assert (spans[1][0]["start"], spans[1][0]["end"]) == (0, len(RIGHT))


def test_concurrent_requests_get_their_own_answers(running_fleet: RunningFleet) -> None:
    def ask(i: int) -> list[int]:
        """Indices of the documents, best first; request i has 1 to 7 documents, and the right one at place i mod n."""
        documents = [f"{PASSAGES[3]} {j}" for j in range(1 + i % 7)]
        documents[i % len(documents)] = RIGHT
        return [r["index"] for r in running_fleet.rerank(QUERY, documents, model="small").json()["results"]]

    with ThreadPoolExecutor(16) as pool:
        for i, order in enumerate(pool.map(ask, range(64))):
            count = 1 + i % 7
            assert sorted(order) == list(range(count))
            assert order[0] == i % count


def test_bad_requests_do_not_disturb_good_ones(running_fleet: RunningFleet) -> None:
    bad = {
        b"": 422,
        b"{": 422,
        b'{"query": "\xff"}': 422,
        b'{"query": "a", "documents": ["\\udfff"]}': 422,
        b"[" * 100_000: 422,
        b'{"query": "a", "documents": ["' + b"x" * 5_000_000 + b'"]}': 413,
    }

    def good(_: int) -> int:
        return running_fleet.rerank(QUERY, DOCUMENTS, model="small").status_code

    def refused(content: bytes) -> int:
        return running_fleet.http.post("/v1/rerank", content=content).status_code

    with ThreadPoolExecutor(8) as pool:
        answered, codes = pool.map(good, range(24)), pool.map(refused, [*bad] * 4)
        assert list(codes) == [*bad.values()] * 4
        assert set(answered) == {200}


def test_a_client_that_goes_away_disturbs_no_other(running_fleet: RunningFleet) -> None:
    heavy = {"query": QUERY, "documents": [f"{i} {RIGHT * 20}" for i in range(60)], "model": "large"}
    for _ in range(5):
        with pytest.raises(httpx.ReadTimeout):
            running_fleet.http.post("/v1/rerank", json=heavy, timeout=0.02)
    assert running_fleet.rerank(QUERY, DOCUMENTS, model="small").status_code == 200


def test_routes(running_fleet: RunningFleet) -> None:
    http = running_fleet.http
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").json() == {"status": "ready"}
    assert [m["id"] for m in http.get("/v1/models").json()["data"]][:4] == ["auto", "small", "medium", "large"]
    assert "/v1/rerank" in http.get("/docs").text
    assert "Rankfleet" in http.get("/console").text


def test_an_infeasible_budget_is_refused_at_once_where_the_class_says_so(running_fleet: RunningFleet) -> None:
    body: dict[str, Any] = {"query": QUERY, "documents": [f"{RIGHT} {i}" for i in range(500)], "model": "interactive"}
    # What the fastest tier takes is this machine's. Planning also reads the texts, so that the budget does not end
    # before that: such a request may well be tried again.
    plan = running_fleet.http.post("/v1/plan", json=body | {"slo_ms": 1000}).json()
    predicted_ms = {each["tier"]: each["predicted_ms"] for each in plan["considered"]}
    reply = running_fleet.http.post("/v1/rerank", json=body | {"slo_ms": predicted_ms["small"] / 4})
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "infeasible")
    assert "retry-after" not in reply.headers, "the fleet is idle: trying again would not help"
    assert re.match(r"no tier fits \d+ ms; the fastest, small, would take", reply.json()["error"]["message"])


def test_budgets_choose_tiers(running_fleet: RunningFleet) -> None:
    documents = [f"{RIGHT} {i}" for i in range(60)]
    relaxed = {"query": QUERY, "documents": documents, "model": "relaxed"}
    # The load of earlier tests makes device time dear until it is forgotten, and what their clients have left may
    # still be computed.
    answers: list[dict[str, Any]] = []

    def is_large() -> bool:
        answers.append(running_fleet.http.post("/v1/rerank", json=relaxed).json()["rankfleet"])
        return bool(answers[-1]["tier"] == "large")

    wait_for(is_large, "an idle fleet takes the large tier for a budget of 20 s", lambda: answers)
    # More than the small tier is predicted to take, and less than the large one is. Predictions learn from what has
    # just been scored; a plan scores nothing, so that the next one predicts the same.
    plan = running_fleet.http.post("/v1/plan", json=relaxed).json()
    predicted_ms = {each["tier"]: each["predicted_ms"] for each in plan["considered"]}
    between = predicted_ms["small"] + (predicted_ms["large"] - predicted_ms["small"]) / 4
    tight = {"query": QUERY, "documents": documents, "slo_ms": between}
    plan = running_fleet.http.post("/v1/plan", json=tight).json()
    assert plan["tier"] in ("small", "medium"), plan
    assert "large" in plan["reason"], plan
    # What was allowed for the way to the replica and was not needed is left for a larger tier when its turn comes.
    answer = running_fleet.http.post("/v1/rerank", json=tight).json()["rankfleet"]
    assert answer["tier"] in ("small", "medium") or "for the slack left" in answer["reason"], answer


def test_search_finds_and_ranks(running_fleet: RunningFleet) -> None:
    reply = running_fleet.http.post("/v1/search", json={"query": QUERY, "model": "large", "slo_ms": 20000})
    assert reply.status_code == 200
    body = reply.json()
    assert body["results"][0]["id"] == "p0"
    assert body["results"][0]["document"]["text"] == RIGHT
    assert {r["id"] for r in body["results"]} == {"p0", "p2"}
    assert body["rankfleet"]["slo"]["met"] is True
    assert set(body["rankfleet"]["timing_ms"]) == {"total", *STEPS}


def test_the_readme_request_works(running_fleet: RunningFleet) -> None:
    """The command that README and a starting fleet show."""
    command = EXAMPLE.format(address=running_fleet.url)
    reply = json.loads(subprocess.run(["bash", "-c", command], capture_output=True, check=True).stdout)
    assert reply["results"][0]["index"] == 1


def test_a_plan_is_explained_without_scoring(running_fleet: RunningFleet) -> None:
    body = {"query": QUERY, "documents": DOCUMENTS, "slo_ms": 20000}
    reply = running_fleet.http.post("/v1/plan", json=body).json()
    verdicts = {each["tier"]: each["verdict"] for each in reply["considered"]}
    assert set(verdicts) == {"small", "medium", "large"}
    # Which tier it is depends on the load of the last seconds.
    assert [tier for tier, verdict in verdicts.items() if verdict == "chosen"] == [reply["tier"]]
    assert "results" not in reply
