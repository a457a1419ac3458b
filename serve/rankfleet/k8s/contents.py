"""Where pods find what a fleet file names: in the image, in a volume, in a ConfigMap, on the hub, or in a secret.

A fleet is refused if a pod would look for something in vain, and die.
"""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import ConfigError
from rankfleet.core.model_ids import SHIPPED_MODELS, may_be_hub_id
from rankfleet.core.sections import is_url
from rankfleet.k8s.cluster_file import ClusterFile

CACHE = PurePosixPath("/var/cache/rankfleet")  # a folder of each pod's own that it may write, and its home
FILES = PurePosixPath("/etc/rankfleet/files")  # where the ConfigMap is mounted
KEYS = PurePosixPath("/etc/rankfleet/keys")  # where the secret with the API keys is mounted, which no manifest holds
MAX_FILES_BYTES = 1_000_000  # Kubernetes allows 1 MiB for a ConfigMap with its keys


@dataclass(frozen=True)
class Contents:
    """`fleet`: the fleet file with the paths that pods see. `files`: texts of the ConfigMap by file name.
    `asks_hub`: whether pods fetch models from the hub."""

    fleet: FleetConfig
    asks_hub: bool
    files: dict[str, str] = field(default_factory=dict)

    def config_map_of(self, name: str) -> str:
        """Name of the ConfigMap of the fleet `name`. It changes with the texts, so that pods that run keep theirs."""
        digest = hashlib.sha256(repr(sorted(self.files.items())).encode()).hexdigest()
        return f"{name}-files-{digest[:10]}"


def contents(config: FleetConfig, cluster: ClusterFile) -> Contents:
    """Raises ConfigError that names the key of what no pod would find."""
    if cluster.hub.home and not provided(cluster.hub.home, cluster):
        raise ConfigError(f"hub.home: {cluster.hub.home} {NOWHERE}")
    asks_hub = False
    for name, tier in config.tiers.items():
        key = f"tiers.{name}.model"
        if is_shipped(tier.model):
            continue
        if not may_be_hub_id(tier.model):
            require_provided(key, tier.model, cluster)
        elif cluster.hub.home is None:
            asks_hub = True
            if not re.fullmatch("[0-9a-f]{40}", tier.revision or ""):
                raise ConfigError(
                    f"tiers.{name}.revision: give the commit of {tier.model}; pods that start after a push to the hub "
                    "would load another model than those that run"
                )
    if config.search:
        require_provided("search.index", config.search.index, cluster)
    for section, folder in (("decision_log", config.decision_log.folder), ("events", config.events.folder)):
        if folder and not is_url(folder) and not writable(folder, cluster):
            raise ConfigError(
                f"{section}.folder: pods cannot write to {folder}; name a folder under {CACHE}, which lasts as long as "
                "the pod, or under a volume with `read_only: false`"
            )
    files: dict[str, str] = {}
    table, profile = config.quality.table, config.profile
    if table and not is_shipped(table):
        table = place_file("quality.table", table, "quality.json", cluster, files)
    if profile:
        profile = place_file("profile", profile, "profile.json", cluster, files)
    if sum(len(text.encode()) for text in files.values()) > MAX_FILES_BYTES:
        raise ConfigError(
            f"{' and '.join(files)} have more than {MAX_FILES_BYTES} bytes, which no ConfigMap may hold; put them into "
            "the image (`in_image` of the cluster file) or a volume"
        )
    update: dict[str, Any] = {
        "quality": config.quality.model_copy(update={"table": table}),
        "profile": profile,
        "keys": None if cluster.allow_anyone else str(KEYS / "keys"),
    }
    return Contents(config.model_copy(update=update), asks_hub, files)


NOWHERE = (
    "is in no pod; put it into the image and name its folder under `in_image` of the cluster file, or into a volume "
    "and name the claim under `volumes`"
)


def is_shipped(path: str) -> bool:
    """Whether a model or a table comes with the package, and so with the image."""
    return not path.startswith("/") and (SHIPPED_MODELS / path).exists()


def provided(path: str, cluster: ClusterFile) -> bool:
    """Whether the image or a volume holds a path."""
    return any(PurePosixPath(path).is_relative_to(f) for f in [*cluster.in_image, *(v.path for v in cluster.volumes)])


def require_provided(key: str, path: str, cluster: ClusterFile) -> None:
    if not provided(path, cluster):
        raise ConfigError(f"{key}: {path} {NOWHERE}")


def writable(folder: str, cluster: ClusterFile) -> bool:
    places = [str(CACHE), *(volume.path for volume in cluster.volumes if not volume.read_only)]
    return any(PurePosixPath(folder).is_relative_to(place) for place in places)


def place_file(key: str, path: str, name: str, cluster: ClusterFile, files: dict[str, str]) -> str:
    """The path that pods see of a file. One that neither the image nor a volume holds is added to `files`."""
    if provided(path, cluster):
        return path
    try:
        files[name] = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{key}: {path} cannot be read here ({error}), and {NOWHERE}") from error
    return str(FILES / name)
