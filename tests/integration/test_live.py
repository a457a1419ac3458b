"""What changes while the fleet runs: traffic splits, replicas, and their number."""

import os
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from rankfleet.cli.news import BURST
from tests.integration.fleet import DOCUMENTS, QUERY, RIGHT, FleetFile, RunningFleet, run_rankfleet, wait_for

# Users of user-0 … user-19 whose bucket is below 5,000, so that an even split gives them the first arm. The bucket is
# the first 16 hex digits of `printf 'size\0001\000user-0' | sha256sum` (experiment, seed, user), modulo 10,000.
SMALL_USERS = {f"user-{i}" for i in (0, 3, 4, 5, 7, 8, 9, 10, 11, 15, 17, 18)}


def arms(fleet: RunningFleet, users: range) -> dict[str, str]:
    """The arm that each of user-N was given, which is also the tier that scored for it."""
    replies = {f"user-{i}": fleet.rerank(QUERY, DOCUMENTS[:2], user=f"user-{i}").json() for i in users}
    for reply in replies.values():
        assert reply["rankfleet"]["experiment"]["arm"] == reply["rankfleet"]["tier"]
    return {user: reply["rankfleet"]["experiment"]["arm"] for user, reply in replies.items()}


def test_users_are_split_by_their_hash(running_fleet: RunningFleet) -> None:
    served = arms(running_fleet, range(20))
    assert {user for user, arm in served.items() if arm == "small"} == SMALL_USERS
    assert {user for user, arm in served.items() if arm == "large"} == set(served) - SMALL_USERS


def test_weights_and_the_number_of_replicas_change_and_no_replica_is_restarted(running_fleet: RunningFleet) -> None:
    # A second replica that is left from an earlier test would be let go now, which looks like a restart.
    before = running_fleet.wait_for_replicas(1)

    def change(file: FleetFile) -> None:
        file["experiments"]["size"]["arms"]["small"]["weight"] = 0
        file["groups"]["demo"]["replicas"] = {"min": 2, "max": 2}

    running_fleet.apply(change)
    wait_for(lambda: set(arms(running_fleet, range(20)).values()) == {"large"}, "the new split")
    after = running_fleet.wait_for_replicas(2)
    assert after.router == before.router
    assert after.demo > before.demo
    running_fleet.apply()
    wait_for(lambda: set(arms(running_fleet, range(20)).values()) == {"small", "large"}, "the old split")
    assert running_fleet.wait_for_replicas(1).router == before.router
    assert running_fleet.rerank(QUERY, DOCUMENTS).status_code == 200


def refused_burst(fleet: RunningFleet, documents: list[str]) -> list[int]:
    """The statuses of a burst of which at least BURST are refused for load. Its budget is looked for: enough for an
    idle fleet, whose speed differs, and not for this busy one."""
    budget_ms, codes = 200.0, list[int]()
    for _ in range(15):
        fields = {"slo_class": "interactive", "slo_ms": budget_ms}
        with ThreadPoolExecutor(16) as pool:
            codes = [*pool.map(lambda _: fleet.rerank(QUERY, documents, **fields).status_code, range(48))]  # noqa: B023
        if codes.count(429) >= BURST:
            break
        budget_ms *= 1.2 if codes.count(422) > codes.count(200) else 0.7
    return codes


def test_a_burst_grows_the_group_and_calm_shrinks_it_and_no_request_fails(running_fleet: RunningFleet) -> None:
    running_fleet.wait_for_replicas(1)
    documents = [f"{RIGHT} {i}" for i in range(200)]  # more than a fast machine scores in the time between reports
    calm, codes = threading.Event(), []

    def load() -> None:
        while not calm.is_set():
            codes.append(running_fleet.rerank(QUERY, documents, model="large").status_code)

    clients = [threading.Thread(target=load) for _ in range(12)]
    for client in clients:
        client.start()
    try:
        running_fleet.wait_for_replicas(2)
        time.sleep(5)  # both serve
        change = running_fleet.scaling()["last_change"]
        refused = refused_burst(running_fleet, documents)
    finally:
        calm.set()
        for client in clients:
            client.join()
    assert set(codes) == {200}, codes
    assert (change["before"], change["after"]) == (1, 2)
    assert re.search(r"demand of .* s of work per second .* need .* replicas; 1 run", change["reason"])
    assert f"group demo scaled 1 → 2, {change['reason']}\n" in running_fleet.serving.wait_for("scaled 1 → 2")
    assert refused.count(429) >= BURST, refused
    assert re.search(
        r"\d\d requests refused in \d+ s: overloaded", running_fleet.serving.wait_for(" requests refused in ")
    )
    running_fleet.wait_for_replicas(1)
    # What the controller tells is up to two seconds old.
    wait_for(lambda: running_fleet.scaling()["last_change"]["after"] == 1, "the change is told")
    assert "group demo scaled 2 → 1, fewer" in running_fleet.serving.wait_for("scaled 2 → 1")
    assert running_fleet.rerank(QUERY, DOCUMENTS).status_code == 200


def test_the_autoscaler_is_tuned_live_and_no_replica_is_restarted(running_fleet: RunningFleet) -> None:
    before = running_fleet.wait_for_replicas(1)
    running_fleet.apply(lambda file: file["autoscaling"].update(utilisation=0.001))

    def grown() -> bool:
        running_fleet.rerank(QUERY, DOCUMENTS)
        return len(running_fleet.replicas().demo) == 2

    wait_for(grown, "a second replica for next to no load")
    after = running_fleet.replicas()
    assert after.router == before.router
    assert after.demo > before.demo
    running_fleet.apply()
    assert running_fleet.wait_for_replicas(1).router == before.router


def test_a_killed_replica_is_replaced_and_its_request_answered(running_fleet: RunningFleet) -> None:
    victims = running_fleet.wait_for_replicas(1).demo
    replies = []

    def ask() -> None:
        replies.append(running_fleet.rerank(QUERY, [f"{RIGHT} {i}" for i in range(1000)], model="large"))

    client = threading.Thread(target=ask)
    client.start()
    time.sleep(0.3)  # the request is on the replica
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    assert client.is_alive(), "the request was answered before its replica was killed"
    client.join()
    assert replies[0].status_code == 200, replies[0].text
    assert running_fleet.wait_for_replicas(1).demo.isdisjoint(victims)
    assert "group demo has lost a replica, 0 run" in running_fleet.serving.wait_for("has lost a replica")
    running_fleet.serving.wait_for("group demo has all its replicas again")


def test_the_work_of_clients_that_went_away_is_dropped(running_fleet: RunningFleet) -> None:
    documents = [f"{RIGHT} {i}" for i in range(1000)]
    before = device_tokens(running_fleet)

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
    # Best-effort work is done in the order of arrival, so what the clients left behind would be done before this.
    last = running_fleet.rerank(QUERY, documents, model="large")
    assert last.status_code == 200
    tokens = last.json()["usage"]["total_tokens"]
    scored = sum(total - before.get(replica, 0.0) for replica, total in device_tokens(running_fleet).items())
    # What was on the device as they left is finished; most of it never got there.
    assert tokens <= scored < 5 * tokens


def device_tokens(fleet: RunningFleet) -> dict[str, float]:
    """Tokens of all batches so far, by the labels of the replica that scored them."""
    time.sleep(3)  # metrics are published once a second
    found = re.findall(r"^ray_rankfleet_batch_tokens_sum({.*}) (\S+)$", fleet.metrics(), re.MULTILINE)
    return {labels: float(tokens) for labels, tokens in found}


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
    wait_for(lambda: f"ray_{name}" in running_fleet.metrics(), f"{name} is exported")


def test_a_broken_arm_is_stopped_and_weights_are_set_while_the_fleet_runs(running_fleet: RunningFleet) -> None:
    before, port = running_fleet.replicas(), str(running_fleet.serving.port)

    def break_large(file: FleetFile) -> None:
        file["slo_classes"]["impossible"] = {"slo_ms": 1, "when_none_fits": "refuse"}
        file["experiments"]["size"]["arms"] = {
            "control": {"weight": 50, "model": "small"},
            "other": {"weight": 0, "model": "large"},
            "broken": {"weight": 50, "slo_class": "impossible"},
        }

    def told() -> dict[str, str | None]:
        (experiment,) = running_fleet.http.get("/v1/fleet").json()["experiments"]
        return {arm["name"]: arm["stopped"] for arm in experiment["arms"]}

    def ask(users: range) -> set[int]:
        return {running_fleet.rerank(QUERY, DOCUMENTS, user=f"user-{i}").status_code for i in users}

    running_fleet.apply(break_large)
    assert ask(range(60)) - {429} == {200, 422}, "infeasible; 429 where the fleet has work"
    wait_for(lambda: told()["broken"] is not None, "the broken arm is stopped", told)
    assert "requests failed" in str(told()["broken"])
    assert ask(range(60)) == {200}
    run_rankfleet("experiment", "set", "size", "control=0", "other=50", "--port", port)
    replies = [running_fleet.rerank(QUERY, DOCUMENTS, user=f"user-{i}").json()["rankfleet"] for i in range(20)]
    # Users of the broken arm stay the control's; the others have moved.
    assert {reply["experiment"]["arm"] for reply in replies} == {"control", "other"}
    run_rankfleet("experiment", "stop", "size", "--port", port)
    assert "experiment" not in running_fleet.rerank(QUERY, DOCUMENTS, user="user-0").json()["rankfleet"]
    assert running_fleet.replicas().router == before.router
    running_fleet.apply()
