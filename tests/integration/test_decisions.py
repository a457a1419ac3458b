"""Decisions that a live router has logged are made again, equal to the last field."""

import itertools
import random
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from rankfleet.cli.plan import read_decisions
from tests.integration.fleet import PASSAGES, QUERY, RunningFleet

REQUESTS, CLIENTS = 1000, 16


def mixed(count: int) -> Iterator[dict[str, Any]]:
    """Bodies of few and many, short and long documents; of every budget and class; for any tier and for one."""
    draw = random.Random(1)
    for _ in range(count):
        documents = [draw.choice(PASSAGES) * draw.randint(1, 4) for _ in range(draw.choice((1, 3, 10, 25)))]
        time: dict[str, Any] = draw.choice(
            [{}, {"slo_class": "interactive"}, {"slo_class": "relaxed"}]
            + [{"slo_ms": ms} for ms in (4, 15, 40, 100, 400, 3000)]
        )
        tier: dict[str, Any] = draw.choice([{}, {}, {}, {"model": "medium"}, {"user": f"user-{draw.randint(0, 9)}"}])
        quality: dict[str, Any] = draw.choice([{}, {}, {"min_quality": 0.35}, {"min_quality": 0.9}])
        yield {"query": QUERY, "documents": documents} | time | tier | quality


def send(fleet: RunningFleet, bodies: Iterator[dict[str, Any]]) -> Counter[int]:
    """Send these from CLIENTS clients without pause, each with its number as id. Returns the status codes."""
    numbers, lock, codes = itertools.count(), threading.Lock(), Counter[int]()

    def client() -> None:
        with httpx.Client(base_url=fleet.url, timeout=60, trust_env=False) as http:
            while True:
                with lock:
                    body, number = next(bodies, None), next(numbers)
                if body is None:
                    return
                reply = http.post("/v1/rerank", json=body, headers={"x-request-id": f"r-{number}"})
                with lock:
                    codes[reply.status_code] += 1

    clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    return codes


def test_every_decision_of_a_busy_router_is_replayed_equal(running_fleet: RunningFleet, tmp_path: Path) -> None:
    running_fleet.apply(lambda file: file.update(decision_log={"folder": str(tmp_path / "decisions"), "share": 1.0}))
    try:
        codes = send(running_fleet, mixed(REQUESTS))
    finally:
        running_fleet.apply()
    assert 500 not in codes, codes
    (path,) = (tmp_path / "decisions").iterdir()
    written = path.stat().st_size
    send(running_fleet, mixed(3))
    assert path.stat().st_size == written, "it is written on without `decision_log`"
    logged = list(read_decisions(path))
    assert {f"r-{i}" for i in range(REQUESTS)} <= {each.request_id for each in logged}
    assert [each.request_id for each in logged if each.differences(each.replayed())] == []
    assert {each.decision["kind"] for each in logged} == {"Plan", "GivenOrder", "Refusal"}
    assert sum(each.fleet.groups["demo"].backlog_s > 0 for each in logged) > REQUESTS / 2, "the router was not busy"
    assert any(each.request.lengths is None for each in logged), "nothing was decided before tokenizing"


def test_a_folder_that_cannot_be_made_is_refused_and_the_fleet_goes_on(running_fleet: RunningFleet) -> None:
    refused = running_fleet.refused_apply(lambda file: file.update(decision_log={"folder": "/dev/null/decisions"}))
    assert "decision_log.folder: /dev/null/decisions: Not a directory" in refused
    assert "the fleet goes on as it was" in refused
    assert send(running_fleet, mixed(20))[200]
