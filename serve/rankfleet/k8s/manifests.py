"""A fleet as a RayService: the one document that KubeRay needs, rendered from the file `rankfleet serve` takes.

Pods are sized here, from what each replica reserves: one pod per replica, except that replicas with a fraction of
a GPU share pods of one GPU. Everything else (network, monitoring, Redis) is plain Kustomize under `k8s/`.
"""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import yaml

from rankfleet import __version__
from rankfleet.cluster.deployment_options import ROUTER
from rankfleet.cluster.environment import LOW_LATENCY
from rankfleet.cluster.serve_config import APP_NAME, serve_config
from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import ConfigError
from rankfleet.core.sections import Group, Updates

RAY_VERSION = "2.60.0"  # of the image; KubeRay picks probes and checks features by it
IMAGE = f"rankfleet:{__version__}"
SHARED = "shared-gpu"  # the worker group of replicas with a fraction of a GPU
POOL = "rankfleet/pool"  # Ray label that ties a deployment to the worker group sized for it
LABELS = {"app.kubernetes.io/part-of": "rankfleet"}  # what the policies and monitors of k8s/base select
PORTS = {"serve": 8000, "metrics": 8080}  # of every pod
# Packing fills shared GPUs before it asks for another pod; Serve's default spreads and strands fractions.
ENVIRONMENT = LOW_LATENCY | {"RAY_SERVE_USE_PACK_SCHEDULING_STRATEGY": "1", "RAY_USAGE_STATS_ENABLED": "0"}

# Per pod, besides the replicas' own cores: raylet, agent, Serve's proxy and HAProxy. An estimate.
OVERHEAD_CORES = 0.5
# Estimates that leave room: on a CPU a router takes 0.4 GiB and the demo tiers 0.7 GiB, Ray's own processes come on
# top; on a GPU each replica holds CUDA's libraries and, while loading, the weights.
MEMORY_GIB = {"head": 4, "router": 2, "cpu": 4, "gpu": 16}
HEAD_CORES = 2
AUTOSCALER = (0.5, 0.5)  # cores and GiB of the container that KubeRay puts beside the head
IDLE_S = 120  # an empty pod is kept so long: starting one means loading its model
GRACE_S = 60  # HAProxy drains for up to 35 s before the pod may go
MAX_NAME = 47  # KubeRay's limit: it appends to the name and must stay within 63 characters


@dataclass(frozen=True)
class Pool:
    """A worker group: pods of one shape, from `least` to `most` of them.

    cpus, gpus, resources: what Ray hands out in each. cores, memory_gib: what each asks Kubernetes for.
    """

    name: str
    min_pods: int
    max_pods: int
    cpus: int
    cores: float
    memory_gib: int
    gpus: int = 0
    resources: dict[str, int] = field(default_factory=dict)


def pools(config: FleetConfig) -> list[Pool]:
    """The worker groups of a fleet. Raises ConfigError for replicas that fit into no pod."""
    count = config.routers
    router_cores = config.router_cpus + OVERHEAD_CORES
    found = [
        Pool(
            ROUTER,
            count,
            config.updates.max_during_update(count),
            math.ceil(config.router_cpus),
            router_cores,
            MEMORY_GIB["router"],
        )
    ]
    for name, group in config.groups.items():
        if group.gpus > 1 and group.gpus % 1:
            raise ConfigError(f"groups.{name}.gpus is {group.gpus:g}: a replica takes a part of one GPU, or whole GPUs")
        if not shares_gpu(group):
            found.append(own_pool(pool_name(name), group, config.updates))
    if sharing := [group for group in config.groups.values() if shares_gpu(group)]:
        found.append(shared_pool(sharing, config.updates))
    names = [pool.name for pool in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"groups: more than one worker group would be named {', '.join(sorted(twice))}; rename one")
    return found


def shares_gpu(group: Group) -> bool:
    return 0 < group.gpus < 1


def pool_name(group: str) -> str:
    """A group's name as it may stand in the name of a pod."""
    return re.sub(r"[._]", "-", group.lower())


def own_pool(name: str, group: Group, updates: Updates) -> Pool:
    """One pod per replica, those of an update too."""
    on_gpu = group.gpus > 0
    return Pool(
        name,
        group.replicas.min,
        updates.max_during_update(group.replicas.max),
        math.ceil(group.cpus),
        (group.cpus if on_gpu else max(group.cpus, group.threads)) + OVERHEAD_CORES,
        MEMORY_GIB["gpu" if on_gpu else "cpu"],
        int(group.gpus),
        {resource: math.ceil(amount) for resource, amount in group.resources.items()},
    )


def shared_pool(groups: list[Group], updates: Updates) -> Pool:
    """Pods of one GPU each that hold any mix of these groups' replicas."""

    def max_per_gpu(reserved: Iterable[float]) -> int:
        # A mix never takes more per GPU than its greediest member would alone.
        return math.ceil(max(amount / group.gpus for amount, group in zip(reserved, groups, strict=True)))

    min_pods = bins(group.gpus for group in groups for _ in range(group.replicas.min))
    max_pods = bins(group.gpus for group in groups for _ in range(updates.max_during_update(group.replicas.max)))
    if len({group.gpus for group in groups}) > 1:
        max_pods += 1  # replicas do not come and go in the order that packs best
    cpus = max_per_gpu(group.cpus for group in groups)
    names = sorted({name for group in groups for name in group.resources})
    resources = {name: max_per_gpu(group.resources.get(name, 0) for group in groups) for name in names}
    return Pool(SHARED, min_pods, max_pods, cpus, cpus + OVERHEAD_CORES, MEMORY_GIB["gpu"], 1, resources)


def bins(sizes: Iterable[float]) -> int:
    """How many bins of size 1 the sizes need, first fit from the largest down."""
    free: list[float] = []
    for size in sorted(sizes, reverse=True):
        place = next((i for i, room in enumerate(free) if room > size - 1e-9), None)
        if place is None:
            free.append(1 - size)
        else:
            free[place] -= size
    return len(free)


def kube_serve_config(config: FleetConfig) -> dict[str, Any]:
    """What `rankfleet serve` hands to Serve, with every deployment bound to its pool."""
    whole = serve_config(config)
    for application in whole["applications"]:
        application["deployments"] = [placed(deployment, config) for deployment in application["deployments"]]
    return whole


def placed(deployment: dict[str, Any], config: FleetConfig) -> dict[str, Any]:
    """A deployment's options, bound to the pods of its pool."""
    name = deployment["name"]
    shared = name != ROUTER and shares_gpu(config.groups[name])
    pool = SHARED if shared else pool_name(name)
    actor = deployment["ray_actor_options"] | {"label_selector": {POOL: pool}}
    return deployment | {"ray_actor_options": actor} | ({} if shared else {"max_replicas_per_node": 1})


def ray_service(config: FleetConfig, name: str = APP_NAME, image: str = IMAGE) -> dict[str, Any]:
    """The RayService object. Raises ConfigError for a name that Kubernetes or KubeRay would refuse."""
    if len(name) > MAX_NAME or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        raise ConfigError(f"--name {name!r}: at most {MAX_NAME} lower-case letters, digits and hyphens, a letter first")
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
                    "idleTimeoutSeconds": IDLE_S,
                    "securityContext": container_security(),
                },
                "headGroupSpec": head(image),
                "workerGroupSpecs": [worker_group(pool, image) for pool in pools(config)],
            },
        },
    }


def head(image: str) -> dict[str, Any]:
    """Bears no replicas. Its ports carry the names that KubeRay's services and the PodMonitor go by."""
    ports = PORTS | {"gcs-server": 6379, "dashboard": 8265, "as-metrics": 44217, "dash-metrics": 44227}
    asked = {"cpu": quantity(HEAD_CORES), "memory": f"{MEMORY_GIB['head']}Gi"}
    return {
        "rayStartParams": {"num-cpus": "0"},
        "template": pod("ray-head", image, ports, asked, {"memory": asked["memory"]}),
    }


def worker_group(pool: Pool, image: str) -> dict[str, Any]:
    """Only memory and GPUs are limited: a CPU limit would throttle, which shows as latency."""
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
        "labels": {POOL: pool.name},
        "resources": {resource: str(amount) for resource, amount in reserved.items()},
        "rayStartParams": {},
        "template": template,
    }


def pod(
    name: str, image: str, ports: dict[str, int], requests: dict[str, str], limits: dict[str, str]
) -> dict[str, Any]:
    """A pod of one container. Probes are left to KubeRay, which checks the raylet, and on workers the proxy too."""
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
            "terminationGracePeriodSeconds": GRACE_S,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
        },
    }


def container_security() -> dict[str, Any]:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def quantity(cores: float) -> str:
    """Kubernetes' way to write cores: 2 or 1500m."""
    return f"{cores:g}" if cores % 1 == 0 else f"{math.ceil(cores * 1000)}m"


def render(config: FleetConfig, command: str, name: str = APP_NAME, image: str = IMAGE) -> str:
    """The RayService as YAML, under a comment that says what it will take. command: what renders it again."""
    found = pools(config)
    lines = [
        "Rendered from a fleet file, not written by hand. Change that file, then run",
        f"  {command}",
        "",
        "SIZING: Kubernetes must find room for these pods, or the fleet stays pending. Memory is an estimate and must",
        "fit the models; see k8s/README.md. During an upgrade a second fleet of this size stands beside the first.",
        f"  head: 1 pod of {HEAD_CORES + AUTOSCALER[0]:g} CPU, {MEMORY_GIB['head'] + AUTOSCALER[1]:g} GiB",
        *(f"  {pool.name}: {describe(pool)}" for pool in found),
        f"  in all: {total(found)}",
    ]
    if paths := image_paths(config):
        lines += ["", f"The image, or a volume, must hold: {', '.join(paths)}"]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines) + to_yaml(ray_service(config, name, image))


def describe(pool: Pool) -> str:
    pods = f"{between(pool.min_pods, pool.max_pods)} pod{'s' if pool.max_pods > 1 else ''}"
    return f"{pods} of {pool.cores:g} CPU, {pool.memory_gib} GiB" + (f", {pool.gpus} GPU" if pool.gpus else "")


def total(found: list[Pool]) -> str:
    """Of all pods, the head's too, at the least and at the most number of replicas."""

    def both(head: float, size: Callable[[Pool], float]) -> str:
        return between(*(head + sum(n * size(p) for p, n in counts) for counts in (min_pods, max_pods)))

    min_pods, max_pods = [(pool, pool.min_pods) for pool in found], [(pool, pool.max_pods) for pool in found]
    cores = both(HEAD_CORES + AUTOSCALER[0], lambda pool: pool.cores)
    memory = both(MEMORY_GIB["head"] + AUTOSCALER[1], lambda pool: pool.memory_gib)
    gpus = f", {both(0, lambda pool: pool.gpus)} GPU" if any(pool.gpus for pool in found) else ""
    return f"{cores} CPU, {memory} GiB{gpus}"


def between(min_pods: float, max_pods: float) -> str:
    return f"{min_pods:g}" if min_pods == max_pods else f"{min_pods:g} to {max_pods:g}"


def image_paths(config: FleetConfig) -> list[str]:
    """Files and folders that the fleet names, which every pod has to find at the same place."""
    named = [tier.model for tier in config.tiers.values() if tier.model.startswith("/")]
    return named + [path for path in (config.profile, config.search and config.search.index) if path]


class Dumper(yaml.SafeDumper):
    """Block style: text of several lines stays readable, and nothing is an alias of something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


Dumper.add_representer(str, represent_text)


def to_yaml(data: dict[str, Any]) -> str:
    return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)
