"""The cluster file: what a Kubernetes cluster has and asks for, beside the fleet file, which says what to serve.

`rankfleet k8s render --cluster FILE` reads it; every key has a default. Some of the keys are values of a rendered Helm
chart, too.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, Field, ValidationError

from rankfleet import __version__
from rankfleet.core.errors import ConfigError
from rankfleet.core.fleet_file import explain
from rankfleet.core.sections import Section

MAX_NAME = 47  # KubeRay's limit; it appends to the name, up to 63 characters
IMAGE = f"rankfleet:{__version__}"


def check_name(name: str) -> str:
    """The name of a RayService unchanged. Raises ValueError for one that Kubernetes or KubeRay would refuse."""
    if len(name) > MAX_NAME or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        raise ValueError(f"{name!r}: use at most {MAX_NAME} lower-case letters, digits and hyphens, a letter first")
    return name


def check_absolute(path: str) -> str:
    if not path.startswith("/") or path == "/":
        raise ValueError(f"{path!r} is not the absolute path of a folder in pods")
    return path.rstrip("/")


def check_url(url: str) -> str:
    if not re.fullmatch(r"https?://[^/]+:\d+", url):
        raise ValueError(f"{url!r} is not a URL such as http://HOST:PORT")
    return url


PodPath = Annotated[str, AfterValidator(check_absolute)]


class Hub(Section):
    """Where pods find the models that the fleet file names by a hub id."""

    secret: str | None = Field(
        None,
        description="secret with the key HF_TOKEN, and HF_ENDPOINT for a mirror; every worker pod gets both",
    )
    port: int = Field(443, ge=1, le=65535, description="port of the hub or its mirror, which worker pods may reach")
    home: PodPath | None = Field(
        None,
        description="folder in the image or a volume that `rankfleet models pull` has filled as HF_HOME; pods then ask "
        "no hub, and no connection to one is allowed",
    )


class Proxy(Section):
    """The HTTP proxy through which worker pods reach the hub."""

    url: Annotated[str, AfterValidator(check_url)] = Field(description="http://HOST:PORT")
    no_proxy: list[str] = Field([], description="hosts and networks to reach directly, besides those of the cluster")

    @property
    def port(self) -> int:
        return int(urlsplit(self.url).port or 0)


class Volume(Section):
    """A PersistentVolumeClaim that every worker pod mounts."""

    path: PodPath = Field(description="where it is mounted")
    claim: str = Field(description="name of the claim; several nodes must be able to mount it")
    read_only: bool = Field(True, description="whether pods may only read it")


class Nodes(Section):
    """One kind of Kubernetes nodes, such as spot instances."""

    name: str = Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", description="appended to the worker group's name")
    node_selector: dict[str, str] = Field({}, description="labels of these nodes")
    tolerations: list[dict[str, Any]] = Field([], description="taints of these nodes that the pods tolerate")


class PoolSettings(Section):
    """Where the pods of one worker group run, and what they get."""

    node_selector: dict[str, str] = Field({}, description="labels of the nodes")
    tolerations: list[dict[str, Any]] = Field(
        [], description="taints that the pods tolerate, besides nvidia.com/gpu for pods with GPUs"
    )
    memory_gib: int | None = Field(None, ge=1, description="memory of each pod; null for the default of its kind")
    max_pods: int | None = Field(
        None,
        ge=1,
        description="largest number of pods; null for what `replicas.max` needs. KubeRay does not hand another number "
        "to a cluster that runs, so that a change starts a second cluster; more than is needed leaves room to raise "
        "`replicas.max` without one",
    )
    nodes: list[Nodes] = Field(
        [],
        description="kinds of nodes with the same hardware, the preferred first, such as spot before on-demand: a "
        "worker group each. The pods of `replicas.min` are on the last",
    )


class Ingress(Section):
    """An Ingress, which ends TLS."""

    class_name: str = Field(description="its IngressClass")
    host: str = Field(description="DNS name of the API")
    tls_secret: str = Field(description="secret with the certificate of `host`; cert-manager or you put it there")
    annotations: dict[str, str] = Field(
        {},
        description="what its controller needs to be told: bodies of up to `limits.max_body_bytes`, replies that take "
        "as long as your longest budget, or cert-manager's issuer",
    )


class Route(Section):
    """An HTTPRoute to the fleet from a Gateway that the cluster has, and which ends TLS."""

    gateway: str = Field(description="name of the Gateway")
    gateway_namespace: str = Field(description="its namespace, which is allowed to reach the API")
    host: str = Field(description="DNS name of the API")


class Incremental(Section):
    """Upgrades that move the traffic to the new cluster step by step (NewClusterWithIncrementalUpgrade)."""

    gateway_class: str = Field(description="GatewayClass of the Gateway that KubeRay creates")
    surge_percent: int = Field(
        100, ge=1, le=100, description="capacity that the new cluster gets at a time; 100 needs room for all of it"
    )
    step_percent: int = Field(10, ge=1, le=100, description="share of the traffic that moves at a time")
    interval_s: int = Field(30, ge=1, description="time between two steps")


class ClusterFile(Section):
    """A whole cluster file."""

    name: Annotated[str, AfterValidator(check_name)] = Field("rankfleet", description="name of the RayService")
    image: str = Field(IMAGE, description="container image of all pods (k8s/Dockerfile)")
    image_pull_secrets: list[str] = Field([], description="secrets for the image's registry")
    in_image: list[PodPath] = Field(
        [], description="folders of the image with files that the fleet file names: models, tables, indexes"
    )
    allow_anyone: bool = Field(False, description="ask for no API keys: whoever reaches port 8000 may use the fleet")
    user_id: Annotated[int, Field(ge=1)] | Literal["cluster"] | None = Field(
        None,
        description="user and group that pods run as; null: the image's user; `cluster`: what the cluster assigns, as "
        "OpenShift does",
    )
    cache_gib: int = Field(20, ge=1, description="disk of each pod for models from the hub, kernels and measured rates")
    hub: Hub = Field(Hub(), description="models from a hub")
    proxy: Proxy | None = Field(None, description="HTTP proxy to the hub; null for none")
    volumes: list[Volume] = Field([], description="claims with files that the fleet file names")
    pools: dict[str, PoolSettings] = Field(
        {}, description="by worker group: `router`, `shared-gpu`, or a group's name in lower case with hyphens"
    )
    redis: bool = Field(
        False,
        description="keep Ray's state in a Redis (secret NAME-redis, key `password`), so that losing the head "
        "loses no state",
    )
    redis_image: str = Field("redis:7.4", description="container image of that Redis")
    redis_storage_class: str | None = Field(
        None, description="storage class of its volume of 2 GiB; null for the cluster's default"
    )
    availability: bool = Field(
        False, description="routers on different nodes, and disruption budgets; needs `redis` and `routers: 2`"
    )
    monitoring: bool = Field(False, description="PodMonitor and alert rules for the Prometheus Operator")
    monitoring_labels: dict[str, str] = Field(
        {}, description="labels by which your Prometheus selects these: `release: NAME` with kube-prometheus-stack"
    )
    ingress: Ingress | None = Field(None, description="Ingress with TLS; null for none")
    route: Route | None = Field(None, description="HTTPRoute of a Gateway; null for none")
    incremental: Incremental | None = Field(
        None, description="upgrades in steps, by Gateway API; null: the new cluster takes all traffic when it is ready"
    )

    def pool(self, name: str) -> PoolSettings:
        return self.pools.get(name, PoolSettings())


def parse_cluster(settings: Any, source: str = "cluster file") -> ClusterFile:
    """A cluster file from plain data. Raises ConfigError that names every wrong key."""
    if not isinstance(settings, dict):
        raise ConfigError(f"{source}: expected a mapping, found {type(settings).__name__}")
    try:
        return ClusterFile.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(explain(error, source)) from error


def read_cluster(path: Path) -> ClusterFile:
    """The cluster file at this path. Raises ConfigError."""
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    return parse_cluster({} if settings is None else settings, str(path))
