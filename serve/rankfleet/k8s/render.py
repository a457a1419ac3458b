"""The files of a fleet on Kubernetes: for Kustomize a base and an overlay, whose objects the Helm chart has, too.

Objects that depend on nothing but a few names are texts in `parts`, with their comments.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from rankfleet.core.config import FleetConfig
from rankfleet.k8s.cluster_file import ClusterFile
from rankfleet.k8s.contents import contents
from rankfleet.k8s.memory import check_pod_memory
from rankfleet.k8s.pods import LABELS
from rankfleet.k8s.pools import MEMORY_GIB, Pool
from rankfleet.k8s.service import AUTOSCALER_CORES, AUTOSCALER_GIB, HEAD_CORES, ray_service, secret_of, sized_pools
from rankfleet.k8s.yaml_text import to_yaml

PARTS = Path(__file__).parent / "parts"
REDIS_USER = 999  # in its image
REDIS_CORES, REDIS_GIB = 0.25, 0.5  # of parts/redis.yaml
BASE = (
    "# What every fleet needs besides its own objects. Selects pods by the label that `rankfleet k8s render` sets.\n"
    "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n  - network-policy.yaml\n"
)


@dataclass(frozen=True)
class Rendering:
    """One fleet's objects. `base`: texts by file name that are the same for every fleet. `overlay`: this fleet's.
    `service`: the RayService that is in the overlay as text."""

    base: dict[str, str]
    overlay: dict[str, str]
    service: dict[str, Any]
    fleet: FleetConfig
    pools: list[Pool]

    def kustomize(self, overlay: str) -> dict[str, str]:
        """Texts by path: `base`, and the overlay of this name."""
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": ["../../base", *self.overlay],
        }
        texts = {f"base/{name}": text for name, text in self.base.items()}
        texts |= {"base/kustomization.yaml": BASE, f"overlays/{overlay}/kustomization.yaml": to_yaml(kustomization)}
        return texts | {f"overlays/{overlay}/{name}": text for name, text in self.overlay.items()}

    @property
    def stream(self) -> str:
        """All objects in one text, for `kubectl apply -f -`."""
        return "---\n".join([*self.overlay.values(), *self.base.values()])


def render(config: FleetConfig, cluster: ClusterFile, command: str) -> Rendering:
    """`command`: the one that renders these files; it is named in them.

    Raises ConfigError, with what to do, where a pod would die or never start.
    """
    placed = contents(config, cluster)
    service, workers = ray_service(placed, cluster), sized_pools(placed.fleet, cluster)
    check_pod_memory(config, workers)
    name = cluster.name
    overlay = {"rayservice.yaml": header(workers, cluster, command) + to_yaml(service)}
    if placed.files:
        # Kept, as pods of an earlier rendering may still mount it.
        annotations = {"helm.sh/resource-policy": "keep"}
        metadata = {"name": placed.config_map_of(name), "labels": dict(LABELS), "annotations": annotations}
        overlay["files.yaml"] = to_yaml(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "immutable": True, "data": placed.files}
        )
    if placed.asks_hub:
        overlay["hub.yaml"] = part("hub", name=name, port=cluster.proxy.port if cluster.proxy else cluster.hub.port)
    if cluster.redis:
        secrets = json.dumps([{"name": secret} for secret in cluster.image_pull_secrets])
        overlay["redis.yaml"] = redis(cluster, secrets)
    if cluster.availability:
        budgets = [disruption_budget(name, pool) for pool in workers if pool.min_pods > 1]
        overlay["disruption-budgets.yaml"] = "---\n".join(map(to_yaml, budgets))
    if cluster.monitoring:
        overlay["monitoring.yaml"] = monitoring(name, json.dumps(cluster.monitoring_labels))
    if cluster.ingress:
        settings = {**cluster.ingress.model_dump(), "annotations": json.dumps(cluster.ingress.annotations)}
        overlay["ingress.yaml"] = part("ingress", name=name, **settings)
    if cluster.route:
        overlay["route.yaml"] = part("route", name=name, **cluster.route.model_dump())
    return Rendering({"network-policy.yaml": part("network-policy")}, overlay, service, placed.fleet, workers)


def part(part_name: str, **names: object) -> str:
    """A text of `parts` with these names filled in."""
    return Template((PARTS / f"{part_name}.yaml").read_text(encoding="utf-8")).substitute(names)


def monitoring(name: str, labels: str) -> str:
    """`labels`: as JSON, of PodMonitor and PrometheusRule."""
    return part("pod-monitor", name=name, labels=labels) + "---\n" + part("alerts", name=name, labels=labels)


def redis(cluster: ClusterFile, secrets: str) -> str:
    """`secrets`: for its image's registry, as JSON."""
    named = cluster.redis_storage_class
    storage_class = f"storageClassName: {named}" if named else "# storageClassName: the cluster's default"
    texts = {"ids": redis_ids(cluster), "image": cluster.redis_image, "storage_class": storage_class}
    return part("redis", name=cluster.name, secrets=secrets, **texts)


def redis_ids(cluster: ClusterFile) -> str:
    """The users of Redis's pod. Its image would start as root."""
    if cluster.user_id == "cluster":
        return "# user and group: those that the cluster assigns"
    user = cluster.user_id or REDIS_USER
    return f"runAsUser: {user}\n        fsGroup: {user}"


def disruption_budget(name: str, pool: Pool) -> dict[str, Any]:
    """A node drain may evict one pod at a time. For pods of a RayCluster Kubernetes takes a number, no percentage. A
    group with one replica has no budget: it would block every drain."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": f"{name}-{pool.name}"},
        "spec": {
            "minAvailable": pool.min_pods - 1,
            "selector": {"matchLabels": LABELS | {"rankfleet/pool": pool.name}},
        },
    }


def header(workers: list[Pool], cluster: ClusterFile, command: str) -> str:
    """A comment that says where the file comes from, what room it takes and which secrets it waits for."""
    name, hub = cluster.name, cluster.hub.secret
    secrets = [] if cluster.allow_anyone else [f"{secret_of(name, 'keys')} with the API keys (docs/keys.md)"]
    secrets += [f"{secret_of(name, 'redis')} with `password`"] if cluster.redis else []
    secrets += [f"{hub} with HF_TOKEN"] if hub else []
    lines = [
        "Rendered from a fleet file. Do not edit it: change the fleet file or the cluster file and run",
        f"  {command}",
        "",
        "SIZING: the fleet stays pending until Kubernetes has room for these pods. During an upgrade a second fleet of",
        "this size runs beside the first.",
        f"  head: 1 pod of {HEAD_CORES + AUTOSCALER_CORES:g} CPU, {MEMORY_GIB['head'] + AUTOSCALER_GIB:g} GiB",
        *(f"  {pool.name}: {describe(pool)}" for pool in workers),
        *([f"  redis: 1 pod of {REDIS_CORES:g} CPU, {REDIS_GIB:g} GiB"] if cluster.redis else []),
        f"  total: {total(workers, cluster.redis)}",
        "",
        *(["KEYS: anyone who reaches port 8000 may use this fleet."] if cluster.allow_anyone else []),
        *(["SECRETS that it waits for:", *(f"  {secret}" for secret in secrets)] if secrets else []),
    ]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def describe(pool: Pool) -> str:
    pods = f"{between(pool.min_pods, pool.max_pods)} pod{'s' if pool.max_pods > 1 else ''}"
    return f"{pods} of {pool.cores:g} CPU, {pool.memory_gib} GiB" + (f", {pool.gpus} GPU" if pool.gpus else "")


def total(workers: list[Pool], redis: bool) -> str:
    """CPU, memory and GPUs of all pods, the head's and Redis's included, at the smallest and largest number of
    replicas."""

    def both(others: float, each: list[float]) -> str:
        counts = ([pool.min_pods for pool in workers], [pool.max_pods for pool in workers])
        return between(*(others + sum(n * size for n, size in zip(count, each, strict=True)) for count in counts))

    cores = both(HEAD_CORES + AUTOSCALER_CORES + redis * REDIS_CORES, [pool.cores for pool in workers])
    memory = both(MEMORY_GIB["head"] + AUTOSCALER_GIB + redis * REDIS_GIB, [pool.memory_gib for pool in workers])
    gpus = f", {both(0, [pool.gpus for pool in workers])} GPU" if any(pool.gpus for pool in workers) else ""
    return f"{cores} CPU, {memory} GiB{gpus}"


def between(min_pods: float, max_pods: float) -> str:
    return f"{min_pods:g}" if min_pods == max_pods else f"{min_pods:g} to {max_pods:g}"
