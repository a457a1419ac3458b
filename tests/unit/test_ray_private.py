"""Every private part of Ray that is used exists as it is used, and stands in `cluster/ray_private.py`."""

import dataclasses
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray import serve
from ray._private import worker
from ray._private.node import Node
from ray.experimental import internal_kv
from ray.serve import context
from ray.serve._private import constants, deployment_state
from ray.serve._private.client import ServeControllerClient
from ray.serve._private.common import DeploymentHandleSource, DeploymentID, ReplicaID
from ray.serve._private.haproxy import HAProxyConfig
from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ServeDeploySchema

from rankfleet.cluster.environment import LOCAL, LOW_LATENCY, SIDE_PORTS, haproxy_files
from rankfleet.cluster.ray_private import (
    ClusterStore,
    controller_client,
    deployment_of,
    living_replicas,
    logs_folder,
    own_replica,
    start_handle,
)
from rankfleet.cluster.request_router import LeastWorkRouter
from rankfleet.k8s.pods import ENVIRONMENT

ROOT = Path(__file__).parents[2]
PRIVATE = re.compile(
    r"\b_get_global_client\b|\._init\(|_global_node|\._deployment_id|_internal_kv_\w+|to_full_id_str|\bray\.(\w+\.)*_\w+"
)


def test_the_controller_client_deploys_a_whole_config() -> None:
    parameters = inspect.signature(context._get_global_client).parameters
    assert parameters["raise_if_no_controller_running"].default is True
    config = inspect.signature(ServeControllerClient.deploy_apps).parameters["config"]
    assert ServeDeploySchema in config.annotation.__args__
    assert inspect.signature(ServeControllerClient.get_serve_details).parameters.keys() == {"self"}


def test_there_is_no_controller_client_without_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def connect(raise_if_no_controller_running: bool) -> None:
        asked.append(raise_if_no_controller_running)

    monkeypatch.setattr(context, "_connect", connect)
    assert controller_client() is None
    assert asked == [False]


def test_a_handle_is_started_once_and_without_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(DeploymentHandle.is_initialized, property)
    handle = DeploymentHandle("demo", "rankfleet")
    started: list[DeploymentHandle] = []

    def create_router(**_: object) -> object:
        started.append(handle)
        return object()

    handle._create_router = create_router
    start_handle(handle)
    assert handle.is_initialized
    start_handle(handle)
    assert started == [handle]


def test_a_handle_takes_the_options_that_chunks_are_sent_with() -> None:
    options = inspect.signature(DeploymentHandle.options).parameters
    assert {"method_name", "request_serialization", "response_serialization"} <= options.keys()


def test_a_request_router_knows_its_deployment() -> None:
    router = LeastWorkRouter(DeploymentID("demo", "rankfleet"), DeploymentHandleSource.REPLICA)
    assert deployment_of(router) == "demo"


def test_keys_of_a_policys_contexts_are_name_and_application() -> None:
    assert [field.name for field in dataclasses.fields(DeploymentID)] == ["name", "app_name"]


def test_the_logs_of_the_cluster_that_was_started_here_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sys.modules["ray._private.worker"] is worker
    assert worker._global_node is None, "Ray does not run in unit tests"
    assert logs_folder() is None
    node = Node.__new__(Node)
    node._logs_dir = "/tmp/ray/session/logs"
    monkeypatch.setattr(worker, "_global_node", node)
    assert logs_folder() == "/tmp/ray/session/logs"


class ControlService:
    """Ray's client for the store of the control service, which is kept here."""

    def __init__(self) -> None:
        self.texts: dict[tuple[bytes, bytes], bytes] = {}

    def internal_kv_get(self, key: bytes, namespace: bytes) -> bytes | None:
        return self.texts.get((namespace, key))

    def internal_kv_put(self, key: bytes, value: bytes, overwrite: bool, namespace: bytes) -> int:
        is_new = (namespace, key) not in self.texts
        if overwrite or is_new:
            self.texts[namespace, key] = value
        return int(is_new)

    def internal_kv_del(self, key: bytes, by_prefix: bool, namespace: bytes) -> int:
        assert not by_prefix
        return int(self.texts.pop((namespace, key), None) is not None)

    def internal_kv_keys(self, prefix: bytes, namespace: bytes) -> list[bytes]:
        return [key for space, key in self.texts if space == namespace and key.startswith(prefix)]


def test_the_store_of_the_cluster_keeps_the_first_value_of_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(internal_kv, "global_gcs_client", ControlService())
    store = ClusterStore()
    assert (store.get("a/x"), store.keys("a/")) == (None, [])
    for key, value in (("a/x", "first"), ("a/x", "second"), ("a/y", ""), ("b/x", "")):
        store.put(key, value)
    assert (store.get("a/x"), store.keys("a/")) == ("first", ["a/x", "a/y"])
    store.set("a/x", "third")
    assert store.get("a/x") == "third"
    store.delete("a/x")
    assert (store.get("a/x"), store.keys("a/")) == (None, ["a/y"])


def test_actors_of_replicas_have_the_names_of_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = ReplicaID("r1", DeploymentID("demo", "rankfleet"))
    monkeypatch.setattr(serve, "get_replica_context", lambda: SimpleNamespace(replica_id=replica))
    named = [("serve", own_replica()), ("serve", "SERVE_CONTROLLER_ACTOR")]
    core_worker = SimpleNamespace(list_named_actors=lambda all_namespaces: named if all_namespaces else [])
    monkeypatch.setattr(
        worker, "global_worker", SimpleNamespace(connected=True, check_connected=int, core_worker=core_worker)
    )
    assert own_replica() == "SERVE_REPLICA::rankfleet#demo#r1"
    assert own_replica() in living_replicas()
    source = inspect.getsource(deployment_state.ActorReplicaWrapper)
    assert "self._actor_name = replica_id.to_full_id_str()" in source
    assert re.search(r'"name": self\._actor_name,\s+"namespace": SERVE_NAMESPACE,', source)


def test_options_behind_retry_on_reach_haproxys_configuration() -> None:
    """The line ends after the value, so that what stands behind it are lines of their own."""
    assert re.search(r"^\s*retry-on \{\{ config\.retry_on \}\}$", HAPROXY_CONFIG_TEMPLATE, re.MULTILINE)
    assert HAProxyConfig().retry_on == constants.RAY_SERVE_HAPROXY_RETRY_ON


def test_a_section_behind_the_balance_algorithm_begins_where_another_ends() -> None:
    assert re.search(
        r"^\s*balance \{\{ config\.balance_algorithm \}\}\nfrontend ", HAPROXY_CONFIG_TEMPLATE, re.MULTILINE
    )
    assert HAPROXY_CONFIG_TEMPLATE.count("balance_algorithm") == 1
    assert HAProxyConfig().balance_algorithm == constants.RAY_SERVE_HAPROXY_BALANCE_ALGORITHM


def test_serve_reads_every_variable_that_is_set_for_it() -> None:
    names = {*LOW_LATENCY, *LOCAL, *SIDE_PORTS, *haproxy_files({}), *(ENVIRONMENT.keys() - {"HOME", "USER"})}
    source = inspect.getsource(constants)
    serves = {name for name in names if name.startswith("RAY_SERVE_")}
    assert {name for name in serves if f'"{name}"' not in source} == set()
    assert names - serves == {"RAY_USAGE_STATS_ENABLED", "RAY_AUTH_MODE", "RAY_worker_niceness", "HF_HUB_OFFLINE"}, (
        "documented by Ray and the hub"
    )


def test_private_parts_of_ray_are_used_in_one_module() -> None:
    used = {
        str(path.relative_to(ROOT)): sorted({match[0] for match in PRIVATE.finditer(path.read_text())})
        for path in (ROOT / "serve").rglob("*.py")
        if PRIVATE.search(path.read_text())
    }
    assert used == {
        "serve/rankfleet/cluster/ray_private.py": [
            *("._deployment_id", "._init(", "_get_global_client", "_global_node"),
            *("_internal_kv_del", "_internal_kv_get", "_internal_kv_list", "_internal_kv_put"),
            *("ray._private", "to_full_id_str"),
        ],
        "serve/rankfleet/cluster/autoscaling_policy.py": ["ray.serve._private"],  # a type, in annotations only
    }


def test_ray_is_kept_below_the_next_minor_version() -> None:
    """What is private may change in any release, so that a new one is tried out first."""
    major, minor = ray.__version__.split(".")[:2]
    requirement = re.search(r'"ray\[serve\](.+?)"', (ROOT / "pyproject.toml").read_text())
    assert requirement is not None
    assert requirement[1] == f">={major}.{minor},<{major}.{int(minor) + 1}"


def test_ray_is_not_imported_before_its_environment_is_set() -> None:
    modules = "rankfleet.cluster.launch, rankfleet.cluster.update, rankfleet.cli.serve, rankfleet.cli.apply"
    check = f"import {modules}, sys; sys.exit('ray' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", check], env=os.environ | {"PYTHONPATH": ":".join(sys.path)}).returncode
        == 0
    )
