"""`rankfleet apply` under steady load: no change makes a request fail; one that cannot work changes nothing."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from rankfleet.engine.checkpoint.files import MODELS
from rankfleet.engine.native.library import library
from tests.integration.fleet import DOCUMENTS, QUERY, FleetFile, Load, RunningFleet, wait_for

INT8 = (kernels := library()) is not None and "int8" in kernels.dtypes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `new`, a model that the fleet does not begin with."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(MODELS / "demo/medium", folder / "new")
    return folder


@pytest.fixture
def fleet(running_fleet: RunningFleet) -> Iterator[RunningFleet]:
    """The running fleet with one replica in its group; in the end its own file is applied again."""
    running_fleet.wait_for_replicas(1)
    yield running_fleet
    running_fleet.apply()


def test_no_request_fails_while_the_fleet_changes(fleet: RunningFleet, folder: Path) -> None:
    before = fleet.replicas()
    with Load(fleet.url) as load:

        def apply(change: Callable[[FleetFile], None]) -> None:
            answered = load.answered
            fleet.apply(change)
            assert load.answered > answered
            assert not load.failed, f"{change.__name__}: {load.failed[:3]}"

        def add_a_tier(file: FleetFile) -> None:
            file["tiers"]["tiny"] = {"model": str(folder / "new"), "quality": 0.2}
            file["groups"]["demo"]["tiers"].append("tiny")

        apply(add_a_tier)
        assert fleet.rerank(QUERY, DOCUMENTS, model="tiny").status_code == 200

        def change_a_model(file: FleetFile) -> None:
            file["tiers"]["small"]["model"] = str(folder / "new")

        apply(change_a_model)
        assert fleet.models()["small"] == str(folder / "new")

        def remove_a_tier(file: FleetFile) -> None:
            del file["tiers"]["medium"]
            file["groups"]["demo"]["tiers"].remove("medium")

        apply(remove_a_tier)
        assert fleet.rerank(QUERY, DOCUMENTS, model="medium").status_code == 404

        def change_precision_threads_and_batches(file: FleetFile) -> None:
            file["groups"]["demo"] |= {"dtype": "float32", "threads": 2, "batch_tokens": 8192}

        apply(change_precision_threads_and_batches)

        def change_classes_split_limits_and_maximum(file: FleetFile) -> None:
            file["slo_classes"]["fast"] = {"slo_ms": 30000}
            file["experiments"]["size"]["arms"]["large"]["weight"] = 0
            file["limits"] = {"max_documents": 500}
            file["groups"]["demo"]["replicas"] = {"min": 1, "max": 3}

        apply(change_classes_split_limits_and_maximum)
        reply = fleet.rerank(QUERY, DOCUMENTS, model="fast", user="user-1")
        assert reply.json()["rankfleet"]["slo"]["budget_ms"] == 30000
        assert fleet.rerank(QUERY, DOCUMENTS, user="user-1").json()["rankfleet"]["tier"] == "small"
        assert fleet.rerank(QUERY, ["a"] * 501).status_code == 413
        after = fleet.replicas()
        assert after.router == before.router, "no process was restarted up to here"
        assert after.demo >= before.demo

        def change_cores_and_precision(file: FleetFile) -> None:
            file["groups"]["demo"] |= {"cpus": 0.25, "dtype": "int8" if INT8 else "float32"}

        apply(change_cores_and_precision)
        assert fleet.replicas().demo.isdisjoint(before.demo), "Ray reserves cores when a process starts"


def no_weights(path: Path) -> None:
    """Weights that `apply` itself finds to be wrong."""
    path.write_bytes(b"nothing of use")


def not_finite(path: Path) -> None:
    """Weights that only a replica finds to be wrong."""
    tensors = load_file(path)
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    save_file(tensors | {name: tensors[name] * float("nan")}, path)


def test_a_change_that_cannot_work_changes_nothing(running_fleet: RunningFleet, folder: Path) -> None:
    def use(model: Path) -> Callable[[FleetFile], None]:
        return lambda file: file["tiers"]["small"].update(model=str(model))

    with Load(running_fleet.url) as load:
        for spoil in (no_weights, not_finite):
            broken = folder / spoil.__name__
            shutil.copytree(MODELS / "demo/medium", broken)
            spoil(broken / "model.safetensors")
            error = running_fleet.refused_apply(use(broken))
            assert "tier small" in error
            assert str(broken) in error
            assert running_fleet.http.get("/readyz").status_code == 200
            assert running_fleet.models()["small"] == "demo/small"
        running_fleet.apply(use(folder / "new"))  # the corrected file works at once
        assert running_fleet.models()["small"] == str(folder / "new")
        running_fleet.apply()
        assert running_fleet.models()["small"] == "demo/small"
    assert not load.failed, load.failed[:3]


BY_HAND = """
import logging, os, sys
from pathlib import Path

from rankfleet.cluster.environment import prepare_environment
from rankfleet.cluster.running_fleets import pick_fleet, running_fleets
from rankfleet.core.fleet_file import read_config
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
    before = running_fleet.wait_for_replicas(1)
    with Load(running_fleet.url) as load:
        arguments = [sys.executable, "-c", BY_HAND, str(running_fleet.config), str(running_fleet.serving.port)]
        subprocess.run(arguments, check=True, timeout=60)
        wait_for(lambda: "not_changed" in running_fleet.http.get("/readyz").json(), "/readyz has a reason")
        (reason,) = running_fleet.http.get("/readyz").json()["not_changed"]
        assert "tiers" in reason
        running_fleet.apply()
        wait_for(lambda: running_fleet.http.get("/readyz").json() == {"status": "ready"}, "the file is served again")
    assert not load.failed, load.failed[:3]
    after = running_fleet.replicas()  # on a slow computer the load needs one more
    assert (after.router, after.demo & before.demo) == before
