"""What changes while the fleet runs: traffic splits, replicas, and their number."""

import os
import re
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest
import yaml

from rankfleet.core.config import read_config
from rankfleet.router.experiments import arm_of
from tests.integration.conftest import RunningFleet, descendants
from tests.integration.test_serve import DOCUMENTS, QUERY, RIGHT

PATIENCE_S = 90


def replicas(fleet: RunningFleet, deployment: str) -> set[int]:
    """Process ids of a deployment's replicas."""
    title = f"ray::ServeReplica:rankfleet:{deployment}"
    found = set()
    for pid in descendants(fleet.process.pid):
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes().decode().startswith(title):
                found.add(pid)
        except OSError:  # it has ended meanwhile
            continue
    return found


def wait_for(condition, what: str) -> None:  # type: ignore[no-untyped-def]
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, f"{what} did not come about within {PATIENCE_S} s"
        time.sleep(0.2)


def arms(fleet: RunningFleet, users: range) -> dict[str, str]:
    replies = {f"user-{i}": fleet.rerank(QUERY, DOCUMENTS[:2], user=f"user-{i}").json() for i in users}
    for reply in replies.values():
        assert reply["rankfleet"]["experiment"]["arm"] == reply["rankfleet"]["tier"]
    return {user: reply["rankfleet"]["experiment"]["arm"] for user, reply in replies.items()}


def test_users_are_split_as_the_hash_says(running_fleet: RunningFleet) -> None:
    experiment = read_config(running_fleet.config).experiments["size"]
    served = arms(running_fleet, range(40))
    assert served == {user: arm_of("size", experiment, user) for user in served}
    assert set(served.values()) == {"small", "large"}


def test_weights_change_live_and_restart_nothing(running_fleet: RunningFleet) -> None:
    wait_for(lambda: len(replicas(running_fleet, "demo")) == 1, "one replica, whatever was asked before")
    before = replicas(running_fleet, "router"), replicas(running_fleet, "demo")
    assert all(before)
    settings = yaml.safe_load(running_fleet.config.read_text())
    settings["experiments"]["size"]["arms"]["small"]["weight"] = 0
    changed = running_fleet.config.with_name("changed.yaml")
    changed.write_text(yaml.safe_dump(settings))
    running_fleet.command("apply", str(changed))
    wait_for(lambda: set(arms(running_fleet, range(20)).values()) == {"large"}, "the new split")
    assert (replicas(running_fleet, "router"), replicas(running_fleet, "demo")) == before
    running_fleet.command("apply", str(running_fleet.config))
    wait_for(lambda: set(arms(running_fleet, range(20)).values()) == {"small", "large"}, "the old split")


def test_a_burst_grows_the_group_and_calm_shrinks_it_with_no_request_lost(running_fleet: RunningFleet) -> None:
    assert len(replicas(running_fleet, "demo")) == 1
    documents = [f"{RIGHT} {i}" for i in range(200)]  # more than a fast machine scores in the time between reports
    calm, codes = threading.Event(), []

    def load() -> None:
        while not calm.is_set():
            codes.append(running_fleet.rerank(QUERY, documents, model="large").status_code)

    clients = [threading.Thread(target=load) for _ in range(12)]
    for client in clients:
        client.start()
    try:
        wait_for(lambda: len(replicas(running_fleet, "demo")) == 2, "a second replica")
        time.sleep(5)  # both serve
    finally:
        calm.set()
        for client in clients:
            client.join()
    assert set(codes) == {200}, codes
    wait_for(lambda: len(replicas(running_fleet, "demo")) == 1, "the way back to one replica")
    assert running_fleet.rerank(QUERY, DOCUMENTS).status_code == 200


def test_the_autoscaler_is_tuned_live_and_no_replica_is_restarted(running_fleet: RunningFleet) -> None:
    wait_for(lambda: len(replicas(running_fleet, "demo")) == 1, "one replica")
    routers, before = replicas(running_fleet, "router"), replicas(running_fleet, "demo")
    settings = yaml.safe_load(running_fleet.config.read_text())
    settings["autoscaling"] |= {"utilisation": 0.001}
    changed = running_fleet.config.with_name("eager.yaml")
    changed.write_text(yaml.safe_dump(settings))
    running_fleet.command("apply", str(changed))

    def grown() -> bool:
        running_fleet.rerank(QUERY, DOCUMENTS)
        return len(replicas(running_fleet, "demo")) == 2

    wait_for(grown, "a second replica for next to no load")
    assert replicas(running_fleet, "router") == routers
    assert replicas(running_fleet, "demo") > before
    running_fleet.command("apply", str(running_fleet.config))
    wait_for(lambda: len(replicas(running_fleet, "demo")) == 1, "the way back to one replica")
    assert replicas(running_fleet, "router") == routers


def test_a_killed_replica_is_replaced_and_its_request_answered(running_fleet: RunningFleet) -> None:
    victims = replicas(running_fleet, "demo")
    replies = []

    def ask() -> None:
        replies.append(running_fleet.rerank(QUERY, [f"{RIGHT} {i}" for i in range(300)], model="large"))

    client = threading.Thread(target=ask)
    client.start()
    time.sleep(0.3)  # the request is on the replica
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    client.join()
    assert replies[0].status_code == 200, replies[0].text
    assert replicas(running_fleet, "demo").isdisjoint(victims)


def test_a_change_of_the_number_of_replicas_restarts_none(running_fleet: RunningFleet) -> None:
    # What went before may have grown the group, and a replica that is about to be let go is no sign of a restart.
    wait_for(lambda: len(replicas(running_fleet, "demo")) == 1, "one replica")
    before = replicas(running_fleet, "router"), replicas(running_fleet, "demo")
    assert all(before)
    settings = yaml.safe_load(running_fleet.config.read_text())
    settings["groups"]["demo"]["replicas"] = {"min": 2, "max": 2}
    changed = running_fleet.config.with_name("more.yaml")
    changed.write_text(yaml.safe_dump(settings))
    running_fleet.command("apply", str(changed))
    wait_for(lambda: len(replicas(running_fleet, "demo")) == 2, "a second replica")
    assert replicas(running_fleet, "router") == before[0]
    assert replicas(running_fleet, "demo") >= before[1]
    running_fleet.command("apply", str(running_fleet.config))
    wait_for(lambda: len(replicas(running_fleet, "demo")) == 1, "one replica again")
    assert replicas(running_fleet, "router") == before[0]
    assert running_fleet.rerank(QUERY, DOCUMENTS).status_code == 200


def test_work_of_clients_that_went_away_is_dropped(running_fleet: RunningFleet) -> None:
    documents = [f"{RIGHT} {i}" for i in range(1000)]

    def batches() -> float:
        wait_for(lambda: "ray_rankfleet_batch_tokens_sum" in metrics(running_fleet), "figures of batches")
        found = re.findall(r"^ray_rankfleet_batch_tokens_sum{.*} (\S+)$", metrics(running_fleet), re.MULTILINE)
        return sum(float(tokens) for tokens in found)

    whole = running_fleet.rerank(QUERY, documents, model="large").json()["usage"]["total_tokens"]
    time.sleep(12)  # Ray passes figures on every ten seconds
    before = batches()

    def leave() -> None:
        with pytest.raises(httpx.ReadTimeout):
            running_fleet.http.post(
                "/v1/rerank", json={"query": QUERY, "documents": documents, "model": "large"}, timeout=0.5
            )

    clients = [threading.Thread(target=leave) for _ in range(10)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert running_fleet.rerank(QUERY, DOCUMENTS, model="small").status_code == 200
    time.sleep(12)
    # What was on the device as they left is finished; most of it never got there.
    assert batches() - before < 5 * whole


@pytest.mark.parametrize(
    "name",
    [
        "rankfleet_requests_total",
        "rankfleet_request_duration_seconds",
        "rankfleet_backlog_seconds",
        "serve_deployment_replica_healthy",
    ],
)
def test_metrics_are_exported(running_fleet: RunningFleet, name: str) -> None:
    running_fleet.rerank(QUERY, DOCUMENTS)
    wait_for(lambda: f"ray_{name}" in metrics(running_fleet), name)


def metrics(fleet: RunningFleet) -> str:
    """Everything at the address that the start announces."""
    found = re.search(r"http://\S+/metrics", fleet.output.read_text())
    assert found
    return httpx.get(found[0], timeout=10).text
