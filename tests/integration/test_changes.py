"""`rankfleet apply` under steady load: whatever changes, no request fails, and what cannot work changes nothing."""

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from safetensors.torch import load_file, save_file

from rankfleet.engine.checkpoint.files import MODELS
from rankfleet.engine.native.library import library
from tests.integration.conftest import RunningFleet
from tests.integration.test_live import replicas, wait_for
from tests.integration.test_serve import DOCUMENTS, QUERY

Fleet = dict[str, Any]
INT8 = (kernels := library()) is not None and "int8" in kernels.dtypes


class Load:
    """A few clients that ask all the time: for any tier, for one by name, as a user of an experiment."""

    def __init__(self, url: str) -> None:
        self.answered = 0
        self.failed: list[str] = []
        self._url = url
        self._over = threading.Event()
        wishes: list[dict[str, Any]] = [{}, {"model": "small"}, {"model": "large"}, {"user": "u"}]
        self._clients = [threading.Thread(target=self._ask, args=(wish,)) for wish in wishes]

    def _ask(self, wish: dict[str, Any]) -> None:
        body = {"query": QUERY, "documents": DOCUMENTS, "slo_ms": 5000} | wish
        with httpx.Client(base_url=self._url, timeout=30, trust_env=False) as http:
            while not self._over.is_set():
                try:
                    reply = http.post("/v1/rerank", json=body)
                    if reply.status_code != 200 or not reply.json()["rankfleet"]["stages"]:
                        self.failed.append(f"{wish}: {reply.status_code} {reply.text[:300]}")
                except httpx.HTTPError as error:
                    self.failed.append(f"{wish}: {error!r}")
                self.answered += 1
                time.sleep(0.03)

    def __enter__(self) -> "Load":
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for client in self._clients:
            client.join()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of other content than those that the fleet begins with."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(MODELS / "demo/medium", folder / "new")
    return folder


@pytest.fixture
def changed(running_fleet: RunningFleet) -> Iterator[Callable[[Callable[[Fleet], None]], None]]:
    """Apply the running fleet's file with something changed; in the end as it was."""
    wait_for(lambda: len(replicas(running_fleet, "demo")) == 1, "one replica")
    file = running_fleet.config.with_name("changed.yaml")

    def change(how: Callable[[Fleet], None]) -> None:
        settings = yaml.safe_load(running_fleet.config.read_text())
        how(settings)
        file.write_text(yaml.safe_dump(settings))
        running_fleet.command("apply", str(file))

    yield change
    running_fleet.command("apply", str(running_fleet.config))


def models(fleet: RunningFleet) -> dict[str, str]:
    return {m["id"]: m.get("model", "") for m in fleet.http.get("/v1/models").json()["data"]}


def test_no_request_fails_while_the_fleet_changes(
    running_fleet: RunningFleet, changed: Callable[[Callable[[Fleet], None]], None], folder: Path
) -> None:
    group = lambda **settings: lambda fleet: fleet["groups"]["demo"].update(settings)  # noqa: E731

    def add_tier(fleet: Fleet) -> None:
        fleet["tiers"]["tiny"] = {"model": str(folder / "new"), "quality": 0.2}
        fleet["groups"]["demo"]["tiers"].append("tiny")

    def swap_model(fleet: Fleet) -> None:
        fleet["tiers"]["small"]["model"] = str(folder / "new")

    def remove_tier(fleet: Fleet) -> None:
        del fleet["tiers"]["medium"]
        fleet["groups"]["demo"]["tiers"].remove("medium")

    before = replicas(running_fleet, "router"), replicas(running_fleet, "demo")
    with Load(str(running_fleet.http.base_url)) as load:
        for name, how in {
            "a tier more": add_tier,
            "another model by a name": swap_model,
            "a tier less": remove_tier,
            "another precision": group(dtype="float32"),
            "threads and batches": group(threads=2, batch_tokens=8192),
            "classes": lambda fleet: fleet["slo_classes"].update(fast={"slo_ms": 30}),
            "a split": lambda fleet: fleet["experiments"]["size"]["arms"]["small"].update(weight=10),
            "limits": lambda fleet: fleet.update(limits={"max_documents": 500}),
            "more replicas at most": group(replicas={"min": 1, "max": 3}),
            "cores and precision": group(cpus=0.25, dtype="int8" if INT8 else "float32"),
        }.items():
            asked = load.answered
            changed(how)
            assert load.answered > asked
            assert not load.failed, f"{name}: {load.failed[:3]}"
            if name == "a tier more":
                assert running_fleet.rerank(QUERY, DOCUMENTS, model="tiny").status_code == 200
            if name == "another model by a name":
                assert models(running_fleet)["small"] == str(folder / "new")
            if name == "a tier less":
                assert running_fleet.rerank(QUERY, DOCUMENTS, model="medium").status_code == 404
            if name == "more replicas at most":
                assert replicas(running_fleet, "router") == before[0], "no process was restarted"
                assert replicas(running_fleet, "demo") >= before[1]


def no_file(weights: Path) -> None:
    weights.write_bytes(b"nothing of use")


def not_finite(weights: Path) -> None:
    """Which only a replica finds out."""
    tensors = load_file(weights)
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    save_file(tensors | {name: tensors[name] * float("nan")}, weights)


@pytest.mark.parametrize("breaks", [no_file, not_finite])
def test_a_change_that_cannot_work_changes_nothing(
    running_fleet: RunningFleet, folder: Path, breaks: Callable[[Path], None]
) -> None:
    settings = yaml.safe_load(running_fleet.config.read_text())
    broken = folder / breaks.__name__
    shutil.copytree(MODELS / "demo/medium", broken)
    breaks(broken / "model.safetensors")
    settings["tiers"]["small"]["model"] = str(broken)
    file = running_fleet.config.with_name("broken.yaml")
    file.write_text(yaml.safe_dump(settings))
    with Load(str(running_fleet.http.base_url)) as load:
        error = running_fleet.refused("apply", str(file))
        assert "tier small" in error
        assert str(broken) in error
        assert running_fleet.http.get("/readyz").status_code == 200
        assert models(running_fleet)["small"] == "demo/small"
        settings["tiers"]["small"]["model"] = str(folder / "new")
        file.write_text(yaml.safe_dump(settings))
        running_fleet.command("apply", str(file))  # corrected at once
        assert models(running_fleet)["small"] == str(folder / "new")
        running_fleet.command("apply", str(running_fleet.config))
    assert not load.failed, load.failed[:3]


BY_HAND = """
import logging, os, sys
from pathlib import Path

from rankfleet.cluster.environment import prepare_environment
from rankfleet.cluster.running_fleets import pick_fleet, running_fleets
from rankfleet.core.config import read_config
from rankfleet.cluster.serve_config import serve_config

fleet = pick_fleet(running_fleets(), int(sys.argv[2]))
prepare_environment()
if fleet.token:
    os.environ["RAY_AUTH_TOKEN_PATH"] = fleet.token
import ray
from ray.serve.schema import ServeDeploySchema

from rankfleet.cluster.ray_private import controller_client

ray.init(address=fleet.cluster, namespace="serve", log_to_driver=False, logging_level=logging.ERROR)
whole = serve_config(read_config(Path(sys.argv[1])))
for deployment in whole["applications"][0]["deployments"]:
    deployment["user_config"] = {"tiers": "none of this"}
controller_client().deploy_apps(ServeDeploySchema.model_validate(whole))
ray.shutdown()
"""


def test_a_config_written_by_hand_that_is_wrong_keeps_the_old_one(running_fleet: RunningFleet) -> None:
    before = replicas(running_fleet, "router"), replicas(running_fleet, "demo")
    port = running_fleet.http.base_url.port
    with Load(str(running_fleet.http.base_url)) as load:
        arguments = [sys.executable, "-c", BY_HAND, str(running_fleet.config), str(port)]
        subprocess.run(arguments, check=True, timeout=60)
        wait_for(lambda: "not_changed" in running_fleet.http.get("/readyz").json(), "a reason")
        (why,) = running_fleet.http.get("/readyz").json()["not_changed"]
        assert "tiers" in why
        running_fleet.command("apply", str(running_fleet.config))
        wait_for(lambda: running_fleet.http.get("/readyz").json() == {"status": "ready"}, "the fleet file")
    assert not load.failed, load.failed[:3]
    assert (replicas(running_fleet, "router"), replicas(running_fleet, "demo")) == before
