"""The rendered Serve config of overlays on a local Ray cluster with the nodes of their pods, and demo tiers in place of
models from the hub. The test starts Ray in a process of its own: Ray reads its environment when it is imported."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rankfleet.cli.k8s import load_cluster
from rankfleet.cli.options import load_config
from rankfleet.core.config import FleetConfig
from rankfleet.core.fleet_file import parse_config
from rankfleet.k8s.contents import contents
from rankfleet.k8s.service import ray_service

ROOT = Path(__file__).parents[2]
NAMES = {"17m": "small", "32m": "medium", "1b": "large", "68m": "", "150m": "", "400m": ""}
LIMIT_S = 1200

pytestmark = pytest.mark.slow


def with_demo_tiers(name: str) -> dict[str, Any]:
    """A shipped fleet file with three demo tiers in place of its six."""
    settings = load_config(name).model_dump(mode="json")
    settings["tiers"] = {tier: {"model": f"demo/{tier}", "quality": 0.5} for tier in ("small", "medium", "large")}
    for group in list(settings["groups"]):
        kept = [NAMES.get(tier, tier) for tier in settings["groups"][group]["tiers"]]
        settings["groups"][group] |= {"tiers": [tier for tier in kept if tier], "dtype": "float32"}
        if not settings["groups"][group]["tiers"]:
            del settings["groups"][group]
    return settings


def rendered(config: FleetConfig, cluster: str | None) -> dict[str, Any]:
    settings = load_cluster(cluster, {"allow_anyone": True})
    return ray_service(contents(config, settings), settings)


def in_a_process(function: str) -> None:
    code = f"from tests.integration import test_kubernetes as t; t.{function}"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'serve'}"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]


def answers(url: str, tiers: list[str]) -> None:
    import httpx

    from tests.integration.fleet import DOCUMENTS, QUERY

    for tier in tiers:
        body = {"query": QUERY, "documents": DOCUMENTS, "model": tier}
        reply = httpx.post(f"{url}/v1/rerank", json=body, timeout=120, trust_env=False)
        assert reply.status_code == 200, reply.text
        assert reply.json()["results"][0]["index"] == 1, reply.text


def run_whole() -> None:
    """`production`: runs, answers, and no request fails while a pod ends, one is lost, and the fleet is updated and put
    back."""
    from rankfleet.cluster.environment import free_port
    from tests.integration.fleet import Load
    from tests.integration.kubernetes_cluster import kubernetes_cluster

    port, settings = free_port(), with_demo_tiers("production")
    service = rendered(parse_config(settings), "production")
    settings["groups"]["main"]["cpus"] = 0.9
    changed = rendered(parse_config(settings), "production")
    with kubernetes_cluster(port) as cluster:
        cluster.add_pods(service)
        cluster.add_pod("main")  # the room that an update takes
        cluster.deploy(service, port)
        answers(cluster.url, ["small", "medium"])
        before = {replica.pid for replica in cluster.replicas("main")}
        with Load(cluster.url, models=("small", "medium")) as load:

            def check(step: str, answered: int) -> None:
                print(step, load.answered - answered, "answered,", len(load.failed), "failed", flush=True)
                assert load.answered > answered, step
                assert not load.failed, f"{step}: {load.failed[:3]}"

            answered = load.answered
            cluster.end_pod("main", seconds=120)
            check("a pod ended", answered)
            cluster.add_pod("main")
            answered = load.answered
            cluster.lose_pod("main")
            cluster.add_pod("main")
            cluster.deploy(service, port)
            check("a pod was lost", answered)
            assert before.isdisjoint(replica.pid for replica in cluster.replicas("main"))
            for step, wanted in (("an update", changed), ("a rollback", service)):
                answered, replaced = load.answered, {replica.pid for replica in cluster.replicas("main")}
                cluster.deploy(wanted, port)
                check(step, answered)
                assert replaced.isdisjoint(replica.pid for replica in cluster.replicas("main")), step


def run_and_answer(name: str, cluster_file: str | None) -> None:
    from rankfleet.cluster.environment import free_port
    from tests.integration.kubernetes_cluster import kubernetes_cluster

    port, config = free_port(), parse_config(with_demo_tiers(name))
    service = rendered(config, cluster_file)
    with kubernetes_cluster(port) as cluster:
        cluster.add_pods(service)
        cluster.deploy(service, port)
        answers(cluster.url, list(config.tiers))


def test_production_runs_whole() -> None:
    in_a_process("run_whole()")


@pytest.mark.parametrize(("name", "cluster"), [("demo", None), ("gpu", None), ("fleet", "fleet")])
def test_the_others_run_and_answer(name: str, cluster: str | None) -> None:
    in_a_process(f"run_and_answer({name!r}, {cluster!r})")
