"""A Ray cluster of several nodes on this computer, with fake GPUs, whose replicas and nodes can be killed."""

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankfleet.cluster.deploy import deploy, is_running
from rankfleet.cluster.deploy import wait_until_ready as wait_until_ranks
from rankfleet.cluster.environment import check_port, prepare_environment
from rankfleet.cluster.preflight import check_files
from rankfleet.cluster.ray_private import controller_client
from rankfleet.cluster.running_fleets import one_start_at_a_time
from rankfleet.cluster.serve_config import APP_NAME, ROUTER
from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import RankfleetError

NODE: dict[str, Any] = {"num_cpus": 4, "num_gpus": 4}  # what Ray schedules on each node; the computer has less
POLL_S = 0.25
SETTLE_S = 300.0  # on one busy core a replica takes more than a minute to start
TITLE = f"ray::ServeReplica:{APP_NAME}"


class NotSettled(RankfleetError, code="not_settled"):
    """The fleet does not have all the replicas that its file asks for."""


@dataclass(frozen=True)
class ReplicaProcess:
    """A running replica. node: Ray's id of it."""

    deployment: str
    pid: int
    node: str


def running_replicas() -> list[ReplicaProcess]:
    """The running replicas of the fleet that this process has started, the longest running first."""
    client = controller_client()
    assert client is not None
    details = client.get_serve_details()["applications"][APP_NAME]["deployments"]
    found = [
        (replica["start_time_s"], ReplicaProcess(name, replica["pid"], replica["node_id"]))
        for name, deployment in details.items()
        for replica in deployment["replicas"]
        if replica["state"] == "RUNNING" and replica["pid"]
    ]
    # The controller may not yet know that one has just died.
    return [replica for _, replica in sorted(found, key=lambda each: each[0]) if is_alive(replica)]


class LocalCluster:
    """A head node with the controller and the proxy but no replicas, and worker nodes that can be removed."""

    def __init__(self, config: FleetConfig, port: int, cluster: Any) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.config = config
        self._cluster = cluster
        self._stopped: list[ReplicaProcess] = []

    def kill(self, deployment: str) -> str:
        """Send SIGKILL to the longest running replica; returns what was killed, in words."""
        victim = self._signal(deployment, signal.SIGKILL)
        return f"killed a replica of {deployment}" if victim else f"found no replica of {deployment} to kill"

    def hang(self, deployment: str) -> str:
        """Send SIGSTOP to the longest running replica: it neither answers nor closes its connections."""
        victim = self._signal(deployment, signal.SIGSTOP)
        if victim is None:
            return f"found no replica of {deployment} to stop"
        self._stopped.append(victim)
        return f"stopped a replica of {deployment}"

    def release(self) -> str:
        """Kill stopped replicas that Serve has not replaced yet."""
        left = [victim for victim in self._stopped if is_alive(victim)]
        for victim in left:
            os.kill(victim.pid, signal.SIGKILL)
        self._stopped.clear()
        return f"killed {len(left)} stopped replicas"

    def _signal(self, deployment: str, number: signal.Signals) -> ReplicaProcess | None:
        """Signal the longest running replica, and return it; None where there is none."""
        victim = next((r for r in running_replicas() if r.deployment == deployment), None)
        if victim is not None:
            os.kill(victim.pid, number)
        return victim

    def remove_node(self) -> str:
        """Kill all processes of the node with the most replicas at once."""
        running = running_replicas()
        node = max(self._cluster.worker_nodes, key=lambda n: sum(r.node == n.node_id for r in running))
        lost = [replica.deployment for replica in running if replica.node == node.node_id]
        self._cluster.remove_node(node, allow_graceful=False)
        return f"removed a node with {', '.join(sorted(lost)) or 'no replica'}"

    def add_node(self) -> str:
        self._cluster.add_node(**NODE)
        return "added a node"

    def deploy(self, config: FleetConfig) -> str:
        self.config = config
        deploy(config)
        return "deployed a changed fleet"

    def settle(self) -> None:
        """Wait until all deployments have the replicas that the fleet file asks for. Raises NotSettled."""
        time.sleep(1.0)  # the controller reads a new config in its next round
        until = time.monotonic() + SETTLE_S
        while True:
            with contextlib.suppress(RankfleetError):
                if is_running(lambda _: None) and self._complete():
                    return
            if time.monotonic() > until:
                raise NotSettled(
                    f"the fleet lacks replicas {SETTLE_S:.0f} s after it changed; see the logs of Serve's controller"
                )
            time.sleep(POLL_S)

    def _complete(self) -> bool:
        counts: dict[str, int] = {}
        for replica in running_replicas():
            counts[replica.deployment] = counts.get(replica.deployment, 0) + 1
        required = {name: group.replicas.min for name, group in self.config.groups.items()} | {
            ROUTER: self.config.routers
        }
        return all(counts.get(name, 0) >= count for name, count in required.items())

    def processes(self) -> dict[str, list[int]]:
        """Process ids by role: each deployment's replicas, Serve's controller and proxies, and HAProxy."""
        found: dict[str, list[int]] = {}
        for replica in running_replicas():
            found.setdefault(replica.deployment, []).append(replica.pid)
        below = descendants(self._cluster)
        for pid, title in command_lines():
            if pid not in below:
                continue
            if "ServeController" in title:
                found.setdefault("controller", []).append(pid)
            elif "Proxy" in title and title.startswith("ray::"):
                found.setdefault("proxy", []).append(pid)
            elif Path(title.split("\0")[0]).name == "haproxy":
                found.setdefault("haproxy", []).append(pid)
        return found


def is_alive(replica: ReplicaProcess) -> bool:
    """Whether the process exists and still is this replica."""
    try:
        title = Path(f"/proc/{replica.pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return False
    return title.startswith(f"{TITLE}:{replica.deployment}")


def command_lines() -> Iterator[tuple[int, str]]:
    """(pid, command line) of every process that this user may read."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield int(entry.parent.name), entry.read_bytes().decode(errors="replace")


def descendants(cluster: Any) -> set[int]:
    """Process ids of the nodes and of all their descendants."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parents[int(entry.parent.name)] = int(entry.read_text().rsplit(")", 1)[1].split()[1])
    nodes = cluster.list_all_nodes()
    found = {info.process.pid for node in nodes for infos in node.all_processes.values() for info in infos}
    newest = found
    while newest:
        newest = {pid for pid, parent in parents.items() if parent in newest} - found
        found |= newest
    return found


@contextlib.contextmanager
def cluster_head(port: int, progress: Callable[[str], None], nodes: int = 0) -> Iterator[Any]:
    """Ray's `Cluster` with a head that runs no replicas, with this many worker nodes, and Serve on this port of
    127.0.0.1; everything is stopped afterwards."""
    starting = contextlib.ExitStack()
    starting.enter_context(one_start_at_a_time(progress))
    prepare_environment()
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster
    from ray.serve.config import HTTPOptions, ProxyLocation
    from ray.serve.schema import LoggingConfig

    progress("starting the nodes")
    logging.getLogger("ray").setLevel(logging.ERROR)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(nodes):
            cluster.add_node(**NODE)
        ray.init(address=cluster.address, namespace="serve", logging_level=logging.ERROR, log_to_driver=False)
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(
            proxy_location=ProxyLocation.HeadOnly,
            http_options=HTTPOptions(host="127.0.0.1", port=port),
            logging_config=LoggingConfig(enable_access_log=False),
        )
        starting.close()
        yield cluster
    finally:
        starting.close()
        ray.shutdown()
        cluster.shutdown()


@contextlib.contextmanager
def local_cluster(
    config: FleetConfig, port: int, nodes: int, progress: Callable[[str], None]
) -> Iterator[LocalCluster]:
    """Start a fleet on a cluster with this many worker nodes, wait until it ranks, and stop everything afterwards."""
    check_port("127.0.0.1", port)
    check_files(config, progress)
    with cluster_head(port, progress, nodes) as cluster:
        running = LocalCluster(config, port, cluster)
        running.deploy(config)
        progress("waiting for the fleet")
        wait_until_ranks(running.url, progress)
        running.settle()
        try:
            yield running
        finally:
            running.release()
