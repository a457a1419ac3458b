"""The worker groups of a RayCluster for a fleet: how many pods of which size its replicas need."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from rankfleet.cluster.deployment_options import ROUTER
from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import ConfigError
from rankfleet.core.sections import Group, Updates

SHARED_GPU = "shared-gpu"  # worker group for replicas with a fraction of a GPU
# Cores per pod for raylet, agent, Serve's proxy and HAProxy. An estimate.
OVERHEAD_CORES = 0.5
# Memory per pod, estimates with room to spare. On a CPU a router takes 0.4 GiB and the demo tiers 0.7 GiB, and Ray's
# processes come on top, and HAProxy and the kernel with 2 GiB for MAX_CONNECTIONS at their worst. On a GPU each replica
# holds CUDA's libraries and, while it loads, the weights.
MEMORY_GIB = {"head": 4, "router": 3, "cpu": 4, "gpu": 16}


@dataclass(frozen=True)
class Pool:
    """A worker group: between `min_pods` and `max_pods` pods of one shape.

    `cpus`, `gpus`, `resources`: what Ray may reserve in each pod. `cores`, `memory_gib`: what each pod requests from
    Kubernetes.
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
    """The worker groups of a fleet. Raises ConfigError if a replica fits into no pod."""
    count = config.routers
    in_router = [group for group in config.groups.values() if group.in_router]
    router_cores = config.router_cpus + sum(max(group.cpus, group.threads) for group in in_router) + OVERHEAD_CORES
    worker_groups = [
        Pool(
            ROUTER,
            count,
            config.updates.max_during_update(count),
            math.ceil(config.cpus_per_router),
            router_cores,
            MEMORY_GIB["router"] + len(in_router) * MEMORY_GIB["cpu"],
        )
    ]
    for name, group in config.deployed.items():
        if group.gpus > 1 and group.gpus % 1:
            raise ConfigError(f"groups.{name}.gpus is {group.gpus:g}: give a fraction of one GPU, or whole GPUs")
        if not shares_gpu(group):
            worker_groups.append(own_pool(pool_name(name), group, config.updates))
    if sharing := [group for group in config.groups.values() if shares_gpu(group)]:
        worker_groups.append(shared_pool(sharing, config.updates))
    names = [pool.name for pool in worker_groups]
    if duplicates := {name for name in names if names.count(name) > 1}:
        raise ConfigError(
            f"groups: more than one worker group would be named {', '.join(sorted(duplicates))}; rename one"
        )
    return worker_groups


def shares_gpu(group: Group) -> bool:
    return 0 < group.gpus < 1


def pool_name(group: str) -> str:
    """A group's name in the characters that Kubernetes allows in a pod's name."""
    return re.sub(r"[._]", "-", group.lower())


def own_pool(name: str, group: Group, updates: Updates) -> Pool:
    """The worker group of one replica group: one pod per replica, including those that an update adds."""
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
    """The worker group of pods with one GPU each, which hold any mix of replicas of these groups."""

    def max_per_gpu(reserved: Iterable[float]) -> int:
        # A mix never reserves more per GPU than a GPU full of replicas of the one group that reserves most.
        return math.ceil(max(amount / group.gpus for amount, group in zip(reserved, groups, strict=True)))

    min_pods = bins(group.gpus for group in groups for _ in range(group.replicas.min))
    max_pods = bins(group.gpus for group in groups for _ in range(updates.max_during_update(group.replicas.max)))
    if len({group.gpus for group in groups}) > 1:
        max_pods += 1  # replicas do not start in the order that packs best
    cpus = max_per_gpu(group.cpus for group in groups)
    names = sorted({name for group in groups for name in group.resources})
    resources = {name: max_per_gpu(group.resources.get(name, 0) for group in groups) for name in names}
    return Pool(SHARED_GPU, min_pods, max_pods, cpus, cpus + OVERHEAD_CORES, MEMORY_GIB["gpu"], 1, resources)


def bins(sizes: Iterable[float]) -> int:
    """Number of bins of size 1 that the sizes need, by first fit from the largest to the smallest."""
    free: list[float] = []
    for size in sorted(sizes, reverse=True):
        index = next((i for i, room in enumerate(free) if room > size - 1e-9), None)
        if index is None:
            free.append(1 - size)
        else:
            free[index] -= size
    return len(free)
