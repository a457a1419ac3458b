"""Renders a fleet file as a RayService, the object that KubeRay runs.

Pods are sized by what replicas reserve: one pod per replica, except that replicas with a fraction of a GPU share pods
with one GPU. Everything else (network policies, monitoring, Redis) is plain Kustomize under `k8s/`.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from rankfleet import __version__
from rankfleet.cluster.deployment_options import ROUTER
from rankfleet.cluster.environment import LOW_LATENCY
from rankfleet.cluster.serve_config import APP_NAME, serve_config
from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import ConfigError
from rankfleet.k8s.pools import MEMORY_GIB, SHARED_GPU, Pool, pool_name, pools, shares_gpu

RAY_VERSION = "2.60.0"  # of Ray in the image; KubeRay chooses probes and allows features by it
IMAGE = f"rankfleet:{__version__}"
POOL_LABEL = "rankfleet/pool"  # Ray label by which a deployment runs only on the worker group sized for it
LABELS = {"app.kubernetes.io/part-of": "rankfleet"}  # which the policies and monitors of k8s/base select
KEYS_FILE = Path("/etc/rankfleet/keys")  # where the secret with the API keys is mounted, which no manifest holds
PORTS = {"serve": 8000, "metrics": 8080}  # of every pod
# Serve's packing fills shared GPUs before it needs another pod; its default spreads replicas and strands fractions.
ENVIRONMENT = LOW_LATENCY | {"RAY_SERVE_USE_PACK_SCHEDULING_STRATEGY": "1", "RAY_USAGE_STATS_ENABLED": "0"}

HEAD_CORES = 2
AUTOSCALER_CORES, AUTOSCALER_GIB = 0.5, 0.5  # of the container that KubeRay adds to the head pod
IDLE_TIMEOUT_S = 120  # how long an empty pod is kept; a new one has to load its models
GRACE_PERIOD_S = 60  # for a pod to terminate; HAProxy drains for up to 35 s
MAX_NAME = 47  # KubeRay's limit; it appends to the name, up to 63 characters


def kube_serve_config(config: FleetConfig) -> dict[str, Any]:
    """The config that `rankfleet serve` gives to Serve, with every deployment bound to its pods."""
    whole = serve_config(config)
    for application in whole["applications"]:
        application["deployments"] = [placed(deployment, config) for deployment in application["deployments"]]
    return whole


def placed(deployment: dict[str, Any], config: FleetConfig) -> dict[str, Any]:
    """A deployment's options, bound to the pods of its worker group."""
    name = deployment["name"]
    is_shared = name != ROUTER and shares_gpu(config.groups[name])
    pool = SHARED_GPU if is_shared else pool_name(name)
    actor = deployment["ray_actor_options"] | {"label_selector": {POOL_LABEL: pool}}
    return deployment | {"ray_actor_options": actor} | ({} if is_shared else {"max_replicas_per_node": 1})


def ray_service(
    config: FleetConfig, name: str = APP_NAME, image: str = IMAGE, allow_anyone: bool = False
) -> dict[str, Any]:
    """The RayService object, whose pods wait for a secret with the API keys unless it is to `allow_anyone`. Raises
    ConfigError for a name that Kubernetes or KubeRay would refuse."""
    if len(name) > MAX_NAME or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        raise ConfigError(
            f"--name {name!r}: use at most {MAX_NAME} lower-case letters, digits and hyphens, a letter first"
        )
    config = config.model_copy(update={"keys": None if allow_anyone else str(KEYS_FILE / "keys")})
    workers = {pool.name: worker_group(pool, image) for pool in pools(config)}
    if not allow_anyone:
        mount_secret(workers[ROUTER]["template"]["spec"], secret_of(name))
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": name, "labels": LABELS},
        "spec": {
            "excludeHeadPodFromServeSvc": True,
            "upgradeStrategy": {"type": "NewCluster"},
            "serveConfigV2": to_yaml(kube_serve_config(config)),
            "rayClusterConfig": {
                "rayVersion": RAY_VERSION,
                "authOptions": {"mode": "token"},
                "enableInTreeAutoscaling": True,
                "autoscalerOptions": {
                    "version": "v2",
                    "idleTimeoutSeconds": IDLE_TIMEOUT_S,
                    "securityContext": container_security(),
                },
                "headGroupSpec": head(image),
                "workerGroupSpecs": list(workers.values()),
            },
        },
    }


def head(image: str) -> dict[str, Any]:
    """The head pod, which runs no replicas. KubeRay's services and the PodMonitor select its ports by name."""
    ports = PORTS | {"gcs-server": 6379, "dashboard": 8265, "as-metrics": 44217, "dash-metrics": 44227}
    requests = {"cpu": quantity(HEAD_CORES), "memory": f"{MEMORY_GIB['head']}Gi"}
    return {
        "rayStartParams": {"num-cpus": "0"},
        "template": pod("ray-head", image, ports, requests, {"memory": requests["memory"]}),
    }


def worker_group(pool: Pool, image: str) -> dict[str, Any]:
    """A group of worker pods. Memory and GPUs are limited, CPU is not: throttling would show as latency."""
    memory = {"memory": f"{pool.memory_gib}Gi"}
    gpus = {"nvidia.com/gpu": str(pool.gpus)} if pool.gpus else {}
    template = pod(
        "ray-worker",
        image,
        PORTS,
        {"cpu": quantity(pool.cores)} | memory | gpus,
        memory | gpus,
    )
    template["spec"]["automountServiceAccountToken"] = False
    if pool.gpus:
        template["spec"]["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    reserved = {"CPU": pool.cpus} | ({"GPU": pool.gpus} if pool.gpus else {}) | pool.resources
    return {
        "groupName": pool.name,
        "replicas": pool.min_pods,
        "minReplicas": pool.min_pods,
        "maxReplicas": pool.max_pods,
        "labels": {POOL_LABEL: pool.name},
        "resources": {resource: str(amount) for resource, amount in reserved.items()},
        "rayStartParams": {},
        "template": template,
    }


def secret_of(name: str) -> str:
    """The secret with the API keys of the fleet of this name."""
    return f"{name}-keys"


def mount_secret(spec: dict[str, Any], secret: str) -> None:
    """Let a pod read the file of API keys. Kubernetes starts no pod whose secret is missing, and updates the file when
    the secret changes."""
    spec["volumes"] = [{"name": "keys", "secret": {"secretName": secret}}]
    spec["containers"][0]["volumeMounts"] = [{"name": "keys", "mountPath": str(KEYS_FILE), "readOnly": True}]


def pod(
    name: str, image: str, ports: dict[str, int], requests: dict[str, str], limits: dict[str, str]
) -> dict[str, Any]:
    """A pod with one container. KubeRay adds the probes, of the raylet and, on workers, of Serve's proxy."""
    container = {
        "name": name,
        "image": image,
        "env": [{"name": variable, "value": value} for variable, value in ENVIRONMENT.items()],
        "ports": [{"name": port, "containerPort": number} for port, number in ports.items()],
        "resources": {"requests": requests, "limits": limits},
        "securityContext": container_security(),
        "lifecycle": {"preStop": {"exec": {"command": ["/bin/sh", "-c", "ray stop"]}}},
    }
    return {
        "metadata": {"labels": LABELS},
        "spec": {
            "terminationGracePeriodSeconds": GRACE_PERIOD_S,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
        },
    }


def container_security() -> dict[str, Any]:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def quantity(cores: float) -> str:
    """Cores as Kubernetes writes them: 2 or 1500m."""
    return f"{cores:g}" if cores % 1 == 0 else f"{math.ceil(cores * 1000)}m"


def render(
    config: FleetConfig, command: str, name: str = APP_NAME, image: str = IMAGE, allow_anyone: bool = False
) -> str:
    """The RayService as YAML, with a comment on top that says what it takes. `command`: the one that renders it.
    allow_anyone: without API keys."""
    workers = pools(config)
    lines = [
        "Rendered from a fleet file. Do not edit it: change the fleet file and run",
        f"  {command}",
        "",
        "SIZING: the fleet stays pending until Kubernetes has room for these pods. Memory is an estimate and must fit",
        "the models; see k8s/README.md. During an upgrade a second fleet of this size runs beside the first.",
        f"  head: 1 pod of {HEAD_CORES + AUTOSCALER_CORES:g} CPU, {MEMORY_GIB['head'] + AUTOSCALER_GIB:g} GiB",
        *(f"  {pool.name}: {describe(pool)}" for pool in workers),
        f"  total: {total(workers)}",
    ]
    if paths := image_paths(config):
        lines += ["", f"The image, or a volume, must contain: {', '.join(paths)}"]
    lines += ["", "KEYS: anyone who reaches port 8000 may use this fleet."]
    if not allow_anyone:
        lines[-1] = f"KEYS: routers start when there is a secret {secret_of(name)} with the API keys; see docs/keys.md"
    service = ray_service(config, name, image, allow_anyone)
    return "".join(f"# {line}".rstrip() + "\n" for line in lines) + to_yaml(service)


def describe(pool: Pool) -> str:
    pods = f"{between(pool.min_pods, pool.max_pods)} pod{'s' if pool.max_pods > 1 else ''}"
    return f"{pods} of {pool.cores:g} CPU, {pool.memory_gib} GiB" + (f", {pool.gpus} GPU" if pool.gpus else "")


def total(workers: list[Pool]) -> str:
    """CPU, memory and GPUs of all pods, the head's included, at the smallest and largest number of replicas."""

    def both(head: float, size: Callable[[Pool], float]) -> str:
        return between(*(head + sum(n * size(p) for p, n in counts) for counts in (min_pods, max_pods)))

    min_pods, max_pods = [(pool, pool.min_pods) for pool in workers], [(pool, pool.max_pods) for pool in workers]
    cores = both(HEAD_CORES + AUTOSCALER_CORES, lambda pool: pool.cores)
    memory = both(MEMORY_GIB["head"] + AUTOSCALER_GIB, lambda pool: pool.memory_gib)
    gpus = f", {both(0, lambda pool: pool.gpus)} GPU" if any(pool.gpus for pool in workers) else ""
    return f"{cores} CPU, {memory} GiB{gpus}"


def between(min_pods: float, max_pods: float) -> str:
    return f"{min_pods:g}" if min_pods == max_pods else f"{min_pods:g} to {max_pods:g}"


def image_paths(config: FleetConfig) -> list[str]:
    """Files and folders that the fleet file names, which every pod needs at the same path."""
    models = [tier.model for tier in config.tiers.values()]
    files = [config.profile, config.search and config.search.index, config.quality.table]
    return [path for path in models + files if path and path.startswith("/")]


class Dumper(yaml.SafeDumper):
    """Writes text of several lines in block style, and no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


Dumper.add_representer(str, represent_text)


def to_yaml(data: dict[str, Any]) -> str:
    return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)
