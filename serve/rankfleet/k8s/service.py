"""A fleet file as a RayService, the object that KubeRay runs.

Pods are sized by what replicas reserve: one pod per replica, except that replicas with a fraction of a GPU share pods
with one GPU.
"""

import math
from dataclasses import replace
from typing import Any

from rankfleet.cluster.deployment_options import ROUTER
from rankfleet.cluster.serve_config import serve_config
from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import ConfigError
from rankfleet.k8s.cluster_file import ClusterFile, Nodes, PoolSettings
from rankfleet.k8s.contents import Contents
from rankfleet.k8s.pods import GPU_TAINT, HAPROXY_DRAIN_S, LABELS, Pods, container_security
from rankfleet.k8s.pools import MEMORY_GIB, SHARED_GPU, Pool, pool_name, pools, shares_gpu
from rankfleet.k8s.yaml_text import to_yaml

RAY_VERSION = "2.60.0"  # of Ray in the image; KubeRay chooses probes and allows features by it
POOL_LABEL = "rankfleet/pool"  # Ray label by which a deployment runs only on the worker group sized for it
HEAD_CORES = 2
AUTOSCALER_CORES, AUTOSCALER_GIB = 0.5, 0.5  # of the container that KubeRay adds to the head pod
IDLE_TIMEOUT_S = 120  # how long an empty pod is kept; a new one has to load its models
MIN_DELETION_DELAY_S = 60  # KubeRay's default


def secret_of(name: str, what: str) -> str:
    """The secret of the fleet `name` that holds the API `keys` or the password of `redis`."""
    return f"{name}-{what}"


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


def sized_pools(config: FleetConfig, cluster: ClusterFile) -> list[Pool]:
    """The worker groups of a fleet, as the cluster file sizes them. Raises ConfigError for pods that could not work."""
    found = {pool.name: pool for pool in pools(config)}
    if unknown := sorted(set(cluster.pools) - set(found)):
        raise ConfigError(f"pools: {', '.join(unknown)} is none of this fleet's worker groups: {', '.join(found)}")
    sized = []
    for name, pool in found.items():
        settings = cluster.pool(name)
        if settings.max_pods is not None and settings.max_pods < pool.max_pods:
            raise ConfigError(
                f"pools.{name}.max_pods is {settings.max_pods}, but `replicas.max` and an update beside it need "
                f"{pool.max_pods} pods"
            )
        max_pods, memory_gib = settings.max_pods or pool.max_pods, settings.memory_gib or pool.memory_gib
        sized.append(replace(pool, max_pods=max_pods, memory_gib=memory_gib))
    if cluster.availability and config.routers < 2:
        raise ConfigError("availability: a fleet with one router answers nobody while it is replaced; set `routers: 2`")
    if cluster.availability and not cluster.redis:
        raise ConfigError("availability: without `redis`, losing the head pod loses the fleet; set `redis: true`")
    return sized


def ray_service(contents: Contents, cluster: ClusterFile) -> dict[str, Any]:
    """The RayService object. Raises ConfigError for pods that could not work."""
    fleet, pods = contents.fleet, Pods(contents, cluster)
    ray_cluster: dict[str, Any] = {
        "rayVersion": RAY_VERSION,
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "idleTimeoutSeconds": IDLE_TIMEOUT_S,
            "env": [{"name": "HOME", "value": "/tmp"}],
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
            "securityContext": container_security(),
        },
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0"},
            "template": pods.head(HEAD_CORES, MEMORY_GIB["head"]),
        },
        "workerGroupSpecs": [
            group for pool in sized_pools(fleet, cluster) for group in worker_groups(pool, pods, cluster)
        ],
    }
    if cluster.redis:
        secret = {"name": secret_of(cluster.name, "redis"), "key": "password"}
        ray_cluster["gcsFaultToleranceOptions"] = {
            "redisAddress": f"{cluster.name}-redis:6379",
            "redisPassword": {"valueFrom": {"secretKeyRef": secret}},
        }
    finish_s = math.ceil(fleet.updates.graceful_shutdown_timeout_s) + HAPROXY_DRAIN_S
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": cluster.name, "labels": dict(LABELS)},
        "spec": {
            "excludeHeadPodFromServeSvc": True,
            "upgradeStrategy": upgrade_strategy(cluster),
            "rayClusterDeletionDelaySeconds": max(MIN_DELETION_DELAY_S, finish_s),
            "serveConfigV2": to_yaml(kube_serve_config(fleet)),
            "rayClusterConfig": ray_cluster,
        },
    }


def upgrade_strategy(cluster: ClusterFile) -> dict[str, Any]:
    """How traffic moves to a new cluster. Raises ConfigError for steps that KubeRay would refuse."""
    steps = cluster.incremental
    if steps is None:
        return {"type": "NewCluster"}
    if steps.step_percent > steps.surge_percent:
        raise ConfigError(f"incremental.step_percent ({steps.step_percent}) is above surge_percent")
    options = {
        "gatewayClassName": steps.gateway_class,
        "maxSurgePercent": steps.surge_percent,
        "stepSizePercent": steps.step_percent,
        "intervalSeconds": steps.interval_s,
    }
    return {"type": "NewClusterWithIncrementalUpgrade", "clusterUpgradeOptions": options}


def worker_groups(pool: Pool, pods: Pods, cluster: ClusterFile) -> list[dict[str, Any]]:
    """The worker group of a pool, or one for each kind of nodes that it may use."""
    settings = cluster.pool(pool.name)
    kinds = settings.nodes
    if not kinds:
        return [worker_group(pool, pool.name, settings, pods)]
    groups = []
    for rank, kind in enumerate(kinds):
        is_last = rank == len(kinds) - 1
        sized = pool if is_last else replace(pool, min_pods=0)
        group = worker_group(sized, f"{pool.name}-{kind.name}", settings, pods, kind, is_last)
        groups.append(group | {"priority": len(kinds) - rank})
    return groups


def worker_group(
    pool: Pool, name: str, settings: PoolSettings, pods: Pods, kind: Nodes | None = None, is_last: bool = True
) -> dict[str, Any]:
    """One worker group. `kind`: of nodes, if the pool may use several; `is_last`: whether it is the last of them."""
    is_router = pool.name == ROUTER
    keys = None if pods.cluster.allow_anyone or not is_router else secret_of(pods.cluster.name, "keys")
    template = pods.worker(pool, f"{pool.memory_gib}Gi", keys)
    spec = template["spec"]
    if selector := settings.node_selector | (kind.node_selector if kind else {}):
        spec["nodeSelector"] = selector
    tolerations = ([GPU_TAINT] if pool.gpus else []) + settings.tolerations + (kind.tolerations if kind else [])
    if tolerations:
        spec["tolerations"] = tolerations
    spec["topologySpreadConstraints"] = [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "DoNotSchedule" if is_router and pods.cluster.availability else "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"ray.io/group": name}},
            "matchLabelKeys": ["ray.io/cluster"],  # a second cluster during an upgrade is spread by itself
        }
    ]
    reserved = {"CPU": pool.cpus} | ({"GPU": pool.gpus} if pool.gpus else {}) | pool.resources
    return {
        "groupName": name,
        "replicas": max(1, pool.min_pods) if is_last else 0,  # of a group that may sleep, too: it starts with one
        "minReplicas": pool.min_pods,
        "maxReplicas": pool.max_pods,
        "labels": {POOL_LABEL: pool.name},
        "resources": {resource: str(amount) for resource, amount in reserved.items()},
        "rayStartParams": {},
        "template": template,
    }
