"""A fleet whose group is in the router, beside the fleet that the tests share. One start, which ends by Ctrl-C."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.conftest import ENVIRONMENT
from tests.integration.fleet import DOCUMENTS, PASSAGES, QUERY, RIGHT, FleetFile, Load, RunningFleet, run_rankfleet
from tests.serving import READY, serving


def move_in(file: FleetFile) -> None:
    file["groups"]["demo"] = {"tiers": ["small", "medium", "large"], "cpus": 0.5, "in_router": True}


@pytest.fixture(scope="module")
def fleet(running_fleet: RunningFleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFleet]:
    config = running_fleet.changed_file(move_in)
    config = config.rename(config.with_name("in_router.yaml"))
    output = tmp_path_factory.mktemp("in_router") / "output.txt"
    with serving(config, output, environment=ENVIRONMENT) as started:
        assert READY in started.wait_for(READY), output.read_text()
        with httpx.Client(base_url=f"http://127.0.0.1:{started.port}", timeout=60, trust_env=False) as http:
            yield RunningFleet(http, config, started)
        assert started.stop() == 0, output.read_text()


def apply(fleet: RunningFleet, file: Path) -> None:
    run_rankfleet("apply", file, "--port", str(fleet.serving.port))


def test_scores_are_those_of_a_group_with_replicas(fleet: RunningFleet, running_fleet: RunningFleet) -> None:
    assert fleet.replicas().demo == set(), "no process but the router's"
    texts = [*PASSAGES, "", "word " * 700, "мир 世界 😀"]
    for tier in ("small", "medium", "large"):
        here, apart = (each.rerank(QUERY, texts, model=tier).json() for each in (fleet, running_fleet))
        assert here["rankfleet"]["tier"] == tier
        assert here["results"] == apart["results"], "to the last bit"


def test_a_reply_says_where_its_time_went(fleet: RunningFleet) -> None:
    reply = fleet.rerank(QUERY, DOCUMENTS, slo_ms=20_000).json()["rankfleet"]
    assert (reply["slo"]["met"], reply["stages"]) == (True, [{"tier": "large", "candidates": 3}])
    times = reply["timing_ms"]
    assert times["infer"] > 0
    assert times["total"] >= times["tokenize"] + times["queue"] + times["infer"]


def test_a_client_that_goes_away_leaves_the_engine_to_others(fleet: RunningFleet) -> None:
    documents = [f"{RIGHT * 4} {i}" for i in range(60)]

    def rank_all(timeout_s: float) -> None:
        body = {"query": QUERY, "documents": documents, "model": "large"}
        assert fleet.http.post("/v1/rerank", json=body, timeout=timeout_s).status_code == 200

    started_s = time.monotonic()
    rank_all(timeout_s=60)
    took_s = time.monotonic() - started_s
    for _ in range(20):
        with pytest.raises(httpx.ReadTimeout):
            rank_all(timeout_s=took_s / 10)
    started_s = time.monotonic()
    assert fleet.rerank(QUERY, DOCUMENTS, model="small").status_code == 200
    assert time.monotonic() - started_s < 5 * took_s, "of twenty, only the batch on the device is finished"


def test_health_models_and_metrics_know_the_group(fleet: RunningFleet) -> None:
    assert fleet.http.get("/readyz").json() == {"status": "ready"}
    assert {model.get("group") for model in fleet.http.get("/v1/models").json()["data"]} == {None, "demo"}
    scraped = fleet.metrics()
    assert "rankfleet_batch_tokens_count{" in scraped
    assert 'group="demo"' in scraped


def test_the_group_gets_a_new_model_live_and_moves_out_and_in_again(fleet: RunningFleet) -> None:
    def exchange(file: FleetFile) -> None:
        file["tiers"]["small"]["model"] = "demo/medium"

    def move_out(file: FleetFile) -> None:
        del file["groups"]["demo"]["in_router"]

    before = fleet.rerank(QUERY, DOCUMENTS, model="medium").json()["results"]
    router = fleet.replicas().router
    with Load(fleet.url) as load:
        apply(fleet, fleet.changed_file(exchange))
    assert not load.failed, load.failed[:3]
    assert load.answered
    assert fleet.replicas().router == router, "nothing was restarted"
    assert fleet.rerank(QUERY, DOCUMENTS, model="small").json()["results"] == before
    apply(fleet, fleet.changed_file(move_out))
    assert len(fleet.wait_for_replicas(1).demo) == 1
    assert fleet.rerank(QUERY, DOCUMENTS, model="medium").json()["results"] == before
    apply(fleet, fleet.config)
    fleet.wait_for_replicas(0)
    assert fleet.rerank(QUERY, DOCUMENTS, model="medium").json()["results"] == before
