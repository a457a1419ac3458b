"""Events and feedback of a live router: what is lost when it is killed, and what it leaves when it ends."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from rankfleet.experiments.store import open_store
from tests.integration.fleet import DOCUMENTS, QUERY, FleetFile, RunningFleet, wait_for

SENDING_S = 3.0


def rows(folder: Path, query: str) -> list[Any]:
    return open_store(str(folder)).sql(query).fetchall()


def test_a_killed_router_loses_a_second_of_events_at_most_and_one_that_ends_none(
    running_fleet: RunningFleet, tmp_path: Path
) -> None:
    folder = tmp_path / "events"

    def with_events(file: FleetFile) -> None:
        file["events"] = {"folder": str(folder)}

    def with_events_and_another_router(file: FleetFile) -> None:
        with_events(file)
        file["router_cpus"] = 0.4

    running_fleet.apply(with_events)
    try:
        reply = running_fleet.rerank(QUERY, DOCUMENTS, user="user-0", slo_ms=20_000)
        request_id = reply.headers["x-request-id"]
        for said in ({"clicks": [1]}, {"clicks": [0], "converted": True}):
            assert running_fleet.http.post("/v1/feedback", json={"request_id": request_id} | said).status_code == 202
        refused = running_fleet.rerank(QUERY, DOCUMENTS, model="huge").headers["x-request-id"]
        answered: dict[str, float] = {}
        ends_s = time.monotonic() + SENDING_S
        while time.monotonic() < ends_s:
            sent = running_fleet.rerank(QUERY, DOCUMENTS)
            answered[sent.headers["x-request-id"]] = time.monotonic()
        (router,) = running_fleet.replicas().router
        os.kill(router, signal.SIGKILL)
        killed_s = time.monotonic()
        written = {found for (found,) in rows(folder, "SELECT request_id FROM events")}
        assert {each for each, at_s in answered.items() if at_s < killed_s - 1.0} <= written
        arm = "SELECT experiment, arm, tier, status, met, ranking FROM events WHERE request_id = "
        assert rows(folder, f"{arm}'{request_id}'") == [
            ("size", "small", "small", 200, True, [each["index"] for each in reply.json()["results"]])
        ]
        assert rows(folder, f"{arm}'{refused}'") == [(None, None, None, 404, None, [])]
        assert rows(folder, "SELECT request_id, clicks, converted FROM feedback") == [(request_id, [0, 1], True)]
        texts = b"".join(path.read_bytes() for path in folder.rglob("*.jsonl"))
        assert not [text for text in (QUERY, *DOCUMENTS, "user-0") if text.encode() in texts]

        wait_for(lambda: running_fleet.rerank(QUERY, DOCUMENTS).status_code == 200, "the router is replaced")
        running_fleet.apply(with_events_and_another_router)
        wait_for(lambda: any(folder.rglob("*.parquet")), "the router that ended has left Parquet")
        assert len(rows(folder, "FROM events")) > len(written)
    finally:
        running_fleet.apply()
