"""A local Ray cluster with the nodes that KubeRay would make of a RayService.

There is one for each pod, with its labels and what Ray reserves there; GPUs are fake. One computer has room for one
proxy on a port, so that only the head has one.
"""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from rankfleet.bench.local_cluster import ReplicaProcess, cluster_head, running_replicas
from rankfleet.cluster.deploy import is_running
from rankfleet.cluster.ray_private import controller_client
from rankfleet.core.errors import RankfleetError
from tests.serving import RANKFLEET

SETTLE_S = 300.0


def hushed(text: object) -> None: ...


class KubernetesCluster:
    """`url`: of the API."""

    def __init__(self, cluster: Any, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._cluster = cluster
        self._nodes: dict[str, dict[str, Any]] = {}

    def add_pods(self, service: dict[str, Any], spare: int = 0) -> None:
        """Start the nodes of all pods that a RayService begins with, and `spare` more of each worker group."""
        for group in service["spec"]["rayClusterConfig"]["workerGroupSpecs"]:
            self._nodes[group["labels"]["rankfleet/pool"]] = {
                "num_cpus": int(group["resources"]["CPU"]),
                "num_gpus": int(group["resources"].get("GPU", 0)),
                "labels": group["labels"],
            }
            for _ in range(group["replicas"] + spare):
                self.add_pod(group["labels"]["rankfleet/pool"])

    def add_pod(self, pool: str) -> None:
        """Start a node. Ray gives it half a minute, which a busy computer may exceed; a second try is worth it."""
        try:
            self._cluster.add_node(**self._nodes[pool])
        except Exception:  # Ray raises no narrower one
            self._cluster.add_node(**self._nodes[pool])

    def lose_pod(self, deployment: str) -> None:
        """Kill all processes of a node that runs a replica of this deployment."""
        node = self._node_of(self.replicas(deployment)[0])
        self._cluster.remove_node(node, allow_graceful=False)

    def end_pod(self, deployment: str, seconds: int) -> None:
        """What preStop does, on a node that runs a replica: tell Ray that it ends, and wait until it is empty."""
        victim = self.replicas(deployment)[0]
        words = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "the pod ends")
        address = ("--address", self._cluster.address, "--node-id", victim.node)
        command = (Path(RANKFLEET).with_name("ray"), "drain-node", *address, *words)
        subprocess.run([*command, "--deadline-remaining-seconds", str(seconds)], check=True, capture_output=True)
        until = time.monotonic() + seconds
        while any(replica.node == victim.node for replica in running_replicas()):
            assert time.monotonic() < until, "Serve has not moved the replica"
            time.sleep(0.5)

    def _node_of(self, replica: ReplicaProcess) -> Any:
        return next(node for node in self._cluster.worker_nodes if node.node_id == replica.node)

    def replicas(self, deployment: str) -> list[ReplicaProcess]:
        return [replica for replica in running_replicas() if replica.deployment == deployment]

    def deploy(self, service: dict[str, Any], port: int) -> None:
        """Hand Serve the config that KubeRay would, on one proxy at this port; wait until all runs."""
        from ray.serve.schema import ServeDeploySchema

        config = yaml.safe_load(service["spec"]["serveConfigV2"])
        config |= {"proxy_location": "HeadOnly", "http_options": {"host": "127.0.0.1", "port": port}}
        client = controller_client()
        assert client is not None
        client.deploy_apps(ServeDeploySchema.model_validate(config))
        time.sleep(1.0)  # the controller reads a new config in its next round
        self.settle(config)

    def settle(self, config: dict[str, Any]) -> None:
        """Wait until Serve says that all runs, and each deployment has its smallest number of replicas."""
        deployments = config["applications"][0]["deployments"]
        wanted = {each["name"]: each["autoscaling_config"]["min_replicas"] for each in deployments}
        until = time.monotonic() + SETTLE_S
        while True:
            with contextlib.suppress(RankfleetError):
                if is_running(hushed) and all(len(self.replicas(name)) >= count for name, count in wanted.items()):
                    return
            assert time.monotonic() < until, f"not running after {SETTLE_S:.0f} s"
            time.sleep(0.5)


@contextlib.contextmanager
def kubernetes_cluster(port: int) -> Iterator[KubernetesCluster]:
    """A head that runs no replicas and has no other nodes yet; everything is stopped afterwards."""
    with cluster_head(port, hushed) as cluster:
        yield KubernetesCluster(cluster, port)
