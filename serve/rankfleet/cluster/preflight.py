"""What can be known to go wrong before anything is started or changed: files, ports, cores and GPUs."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

from rankfleet.cluster.environment import SIDE_PORTS
from rankfleet.cluster.failures import LaunchError
from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import CheckpointError
from rankfleet.engine.checkpoint.files import find_checkpoint
from rankfleet.engine.runtime.checkpoint_checks import check_checkpoint
from rankfleet.estimates.profile import read_profile
from rankfleet.estimates.quality import quality_table
from rankfleet.retrieval.bm25 import Bm25Index


def is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def check_port(host: str, port: int) -> None:
    """Raises LaunchError when nothing can listen there."""
    if not is_free(host, port):
        raise LaunchError(f"{host}:{port} is in use or not an address of this computer; choose another with --port")


def side_ports() -> dict[str, str]:
    """Free ports in place of those of Serve's side ports that are taken, as by another fleet on this computer."""
    chosen = {}
    for name, default in SIDE_PORTS.items():
        if name not in os.environ and not is_free("0.0.0.0", default):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                chosen[name] = str(probe.getsockname()[1])
    return chosen


def check_files(config: FleetConfig, progress: Callable[[str], None], fetch: bool = True) -> list[str]:
    """Everything that a fleet file names besides itself: `config check`, `serve` and `apply` all ask here.

    Raises what replicas would raise for models, quality table, profile or index that are missing or wrong. Models of
    the hub are fetched here once, not by every replica at the same time; with `fetch` False they are looked for in the
    cache alone. Returns the tiers whose model could not be looked at because it is not there yet.
    """
    unseen = []
    for name, tier in config.tiers.items():
        progress(f"model {name}: {tier.model}")
        try:
            checkpoint = find_checkpoint(tier.model, tier.revision, local_only=not fetch)
        except CheckpointError as error:
            if not fetch and may_be_of_hub(tier.model):
                unseen.append(name)
                continue
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.filename:
                raise CheckpointError(
                    f"tier {name}: {tier.model} cannot be kept at {cause.filename}: {cause.strerror}; set HF_HOME to a "
                    "folder that can be written"
                ) from error
            raise CheckpointError(f"tier {name}: {error}") from error
        if not fetch and may_be_of_hub(tier.model) and not any(checkpoint.folder.glob("*.safetensors")):
            unseen.append(name)  # a router has fetched what it needs, and no replica the weights
            continue
        try:
            check_checkpoint(checkpoint, config.groups[config.group_of(name)].dtype, tier.max_tokens)
        except CheckpointError as error:
            raise CheckpointError(f"tier {name}: {error}") from error
    quality_table(config)
    if config.profile:
        read_profile(config.profile)
    if config.search:
        Bm25Index.load(Path(config.search.index))
    return unseen


def may_be_of_hub(model: str) -> bool:
    return model.count("/") == 1 and not model.startswith((".", "/", "~"))


def reserved(config: FleetConfig, count: Callable[[int], int] = lambda replicas: replicas) -> dict[str, float]:
    """What the replicas to start with take. count: of how many there are, instead of those there should be."""
    taken = {"CPU cores": config.router_cpus * count(config.routers), "GPUs": 0.0}
    for group in config.groups.values():
        replicas = count(max(1, group.replicas.min))
        taken["CPU cores"] += group.cpus * replicas
        taken["GPUs"] += group.gpus * replicas
    return taken


def here() -> dict[str, float]:
    """What this computer has."""
    import torch

    return {"CPU cores": float(os.cpu_count() or 1), "GPUs": float(torch.cuda.device_count())}


def room_to_surge(config: FleetConfig) -> bool:
    """Whether new replicas find room beside the old ones. Serve would wait for it for ever."""
    there = here()
    return all(needed <= there[what] for what, needed in reserved(config, config.updates.max_during_update).items())


def check_fits(config: FleetConfig) -> None:
    """Raises LaunchError when the replicas to start with need more than this computer has: Ray would wait for it
    for ever."""
    groups, there = config.groups.values(), here()
    for what, needed in reserved(config).items():
        if needed > there[what]:
            raise LaunchError(
                f"this fleet reserves {needed:g} {what} and the machine has {there[what]:g}; lower `cpus` or `gpus` of "
                "the groups (fractions are fine), or take fewer groups"
            )
    if named := sorted({name for group in groups for name in group.resources}):
        raise LaunchError(f"custom resources ({', '.join(named)}) are for clusters; this computer has none")
