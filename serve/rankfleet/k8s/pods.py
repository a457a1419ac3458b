"""The pods of a fleet: one container each, without root, on a root file system that they cannot write."""

import math
from dataclasses import dataclass
from typing import Any

from rankfleet.cluster.environment import LOW_LATENCY
from rankfleet.core.config import FleetConfig
from rankfleet.k8s.cluster_file import ClusterFile
from rankfleet.k8s.contents import CACHE, FILES, KEYS, Contents
from rankfleet.k8s.pools import Pool

LABELS = {"app.kubernetes.io/part-of": "rankfleet"}  # which policies and monitors select
PORTS = {"serve": 8000, "metrics": 8080}  # of every pod
HEAD_PORTS = {"gcs-server": 6379, "dashboard": 8265, "as-metrics": 44217, "dash-metrics": 44227}
# Serve's packing fills shared GPUs before it needs another pod; its default spreads replicas and strands fractions.
# HOME is where Ray, PyTorch and the hub keep what they cache. USER is for PyTorch, which asks for the user's name: a
# user id that the cluster has chosen has none.
ENVIRONMENT = LOW_LATENCY | {
    "RAY_SERVE_USE_PACK_SCHEDULING_STRATEGY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HOME": str(CACHE),
    "USER": "rankfleet",
}
IN_CLUSTER = ["localhost", "127.0.0.1", ".svc", ".cluster.local"]  # which no proxy should see
GPU_TAINT = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
HAPROXY_DRAIN_S = 35  # for which HAProxy keeps connections that are open
MARGIN_S = 10  # for a pod's processes to end
RAYLET_HEALTH = "http://127.0.0.1:52365/api/local_raylet_healthz"  # KubeRay's probes ask there, too


def drain_s(fleet: FleetConfig) -> int:
    """How long a pod that has to end waits for Serve to move its replicas: a new one starts, the old one finishes."""
    return math.ceil(fleet.autoscaling.start_s + fleet.updates.graceful_shutdown_timeout_s)


def grace_s(fleet: FleetConfig) -> int:
    """terminationGracePeriodSeconds of workers."""
    return drain_s(fleet) + HAPROXY_DRAIN_S + MARGIN_S


def drain_command(seconds: int) -> str:
    """Tell Ray that this node ends, so that Serve starts its replicas elsewhere, and wait until its raylet has ended.
    Where no head answers, as when the whole cluster goes, there is nothing to wait for."""
    return (
        f"ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message 'the pod ends' "
        f"--deadline-remaining-seconds {seconds} || exit 0; "
        f"for second in $(seq {seconds}); do wget -q -T 2 -O /dev/null {RAYLET_HEALTH} || exit 0; sleep 1; done"
    )


@dataclass(frozen=True)
class Pods:
    """Pod templates of one fleet in one cluster."""

    contents: Contents
    cluster: ClusterFile

    def head(self, cores: float, memory_gib: int) -> dict[str, Any]:
        """Template of the head, which runs no replicas."""
        memory = {"memory": f"{memory_gib}Gi"}
        container = self._container(
            "ray-head", PORTS | HEAD_PORTS, {"cpu": quantity(cores)} | memory, memory, "ray stop"
        )
        return self._template(container, HAPROXY_DRAIN_S + MARGIN_S)

    def worker(self, pool: Pool, memory: str, keys_secret: str | None) -> dict[str, Any]:
        """Template of a worker group. Memory and GPUs are limited, CPU is not: throttling would show as latency.
        `memory`: of a pod, as a quantity. `keys_secret`: of the API keys, for routers."""
        fleet, cluster = self.contents.fleet, self.cluster
        limits = {"memory": memory} | ({"nvidia.com/gpu": str(pool.gpus)} if pool.gpus else {})
        preparation = drain_command(drain_s(fleet))
        container = self._container("ray-worker", PORTS, {"cpu": quantity(pool.cores)} | limits, limits, preparation)
        container["env"] += self._hub_environment()
        template = self._template(container, grace_s(fleet))
        # KubeRay does not hand another maxReplicas to a cluster that runs. A change of this annotation makes it start a
        # second one, instead of replicas that wait for pods forever.
        template["metadata"]["annotations"] = {"rankfleet/max-pods": str(pool.max_pods)}
        template["metadata"]["labels"]["rankfleet/pool"] = pool.name
        spec = template["spec"]
        spec["automountServiceAccountToken"] = False
        for index, volume in enumerate(cluster.volumes):
            claim = {"claimName": volume.claim, "readOnly": volume.read_only}
            mount(spec, f"volume-{index}", {"persistentVolumeClaim": claim}, volume.path, volume.read_only)
        if self.contents.files:
            config_map = {"name": self.contents.config_map_of(cluster.name)}
            mount(spec, "files", {"configMap": config_map}, str(FILES), True)
        if keys_secret:  # Kubernetes starts no pod whose secret is missing, and updates the file when it changes
            mount(spec, "keys", {"secret": {"secretName": keys_secret}}, str(KEYS), True)
        return template

    def _hub_environment(self) -> list[dict[str, Any]]:
        hub, proxy = self.cluster.hub, self.cluster.proxy
        variables: list[dict[str, Any]] = []
        if hub.home:
            variables.append({"name": "HF_HOME", "value": hub.home})
        if not self.contents.asks_hub:
            return [*variables, {"name": "HF_HUB_OFFLINE", "value": "1"}]
        for key, optional in (("HF_TOKEN", False), ("HF_ENDPOINT", True)) if hub.secret else ():
            reference: dict[str, Any] = {"name": hub.secret, "key": key} | ({"optional": True} if optional else {})
            variables.append({"name": key, "valueFrom": {"secretKeyRef": reference}})
        if proxy:
            # In capitals, and not HTTP_PROXY: gRPC between pods and wget in probes heed only small letters, and the hub
            # is asked by HTTPS. An empty grpc_proxy says it to gRPC once more.
            direct = ",".join([*IN_CLUSTER, *proxy.no_proxy])
            named = {"HTTPS_PROXY": proxy.url, "NO_PROXY": direct, "no_proxy": direct, "grpc_proxy": ""}
            variables += [{"name": name, "value": value} for name, value in named.items()]
        return variables

    def _container(
        self, name: str, ports: dict[str, int], requests: dict[str, str], limits: dict[str, str], before_stop: str
    ) -> dict[str, Any]:
        return {
            "name": name,
            "image": self.cluster.image,
            "env": [{"name": variable, "value": value} for variable, value in ENVIRONMENT.items()],
            "ports": [{"name": port, "containerPort": number} for port, number in ports.items()],
            "resources": {"requests": requests, "limits": limits},
            "securityContext": container_security(),
            "lifecycle": {"preStop": {"exec": {"command": ["/bin/sh", "-c", before_stop]}}},
        }

    def _template(self, container: dict[str, Any], grace: int) -> dict[str, Any]:
        """A pod with this container. KubeRay adds the probes, of the raylet and, on workers, of Serve's proxy, which is
        healthy when a router is: one that has loaded and measured what it needs."""
        user = self.cluster.user_id
        ids = dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), user) if isinstance(user, int) else {}
        spec: dict[str, Any] = {
            "terminationGracePeriodSeconds": grace,
            "securityContext": {"runAsNonRoot": True} | ids | {"seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
        }
        if self.cluster.image_pull_secrets:
            spec["imagePullSecrets"] = [{"name": secret} for secret in self.cluster.image_pull_secrets]
        mount(spec, "tmp", {"emptyDir": {}}, "/tmp")
        mount(spec, "cache", {"emptyDir": {"sizeLimit": f"{self.cluster.cache_gib}Gi"}}, str(CACHE))
        return {"metadata": {"labels": dict(LABELS)}, "spec": spec}


def mount(spec: dict[str, Any], name: str, source: dict[str, Any], path: str, read_only: bool = False) -> None:
    """Add a volume to a pod and mount it into its container."""
    spec.setdefault("volumes", []).append({"name": name} | source)
    mounted = {"name": name, "mountPath": path} | ({"readOnly": True} if read_only else {})
    spec["containers"][0].setdefault("volumeMounts", []).append(mounted)


def container_security() -> dict[str, Any]:
    """What Kubernetes's restricted pod security asks for, and a root file system that cannot be written."""
    return {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


def quantity(cores: float) -> str:
    """Cores as Kubernetes writes them: 2 or 1500m."""
    return f"{cores:g}" if cores % 1 == 0 else f"{math.ceil(cores * 1000)}m"
