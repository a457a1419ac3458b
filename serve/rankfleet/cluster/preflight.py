"""Checks before anything is started or changed: files, cores and GPUs."""

from collections.abc import Callable

from rankfleet.cluster.failures import LaunchError
from rankfleet.cluster.named_files import check_named_files
from rankfleet.core.config import FleetConfig
from rankfleet.core.cpus import usable_cpus
from rankfleet.core.errors import CheckpointError
from rankfleet.core.model_ids import may_be_hub_id
from rankfleet.engine.checkpoint.files import find_checkpoint, look_up_all
from rankfleet.engine.checkpoint.hub import in_tenths
from rankfleet.engine.runtime.checkpoint_checks import check_checkpoint


def check_files(config: FleetConfig, progress: Callable[[str], None], fetch: bool = True) -> list[str]:
    """Check the files that a fleet file names: models, quality table, profile and index. `config check`, `serve` and
    `apply` all use this.

    `fetch`: whether models are fetched from the hub, here and once, and not by every replica at the same time; all are
    looked up before the first is downloaded. If not, only the cache is searched. Returns the tiers whose model could
    not be checked because it is not in the cache.

    Raises what a replica would raise for a file that is missing or wrong.
    """
    unchecked, on_hub = [], {}
    if fetch:
        progress("looking up the models")
        on_hub = look_up_all({name: (tier.model, tier.revision) for name, tier in config.tiers.items()})
    for name, tier in config.tiers.items():
        progress(f"model {name}: {tier.model}")
        say = in_tenths(f"downloading {name}", on_hub[name].missing_bytes if name in on_hub else 0, progress)
        try:
            checkpoint = find_checkpoint(tier.model, tier.revision, local_only=not fetch, progress=say)
        except CheckpointError as error:
            if not fetch and may_be_hub_id(tier.model):
                unchecked.append(name)
                continue
            raise CheckpointError(f"tier {name}: {error}") from error
        try:
            check_checkpoint(checkpoint, config.groups[config.group_of(name)].dtype, tier.max_tokens)
        except CheckpointError as error:
            raise CheckpointError(f"tier {name}: {error}") from error
    check_named_files(config)
    return unchecked


def reserved_resources(
    config: FleetConfig, count: Callable[[int], int] = lambda replicas: replicas
) -> dict[str, float]:
    """CPU cores and GPUs that the replicas reserve when the fleet starts.

    `count`: maps the number of replicas of a deployment to the number that is counted.
    """
    reserved = {"CPU cores": config.cpus_per_router * count(config.routers), "GPUs": 0.0}
    for group in config.deployed.values():
        replicas = count(max(1, group.replicas.min))
        reserved["CPU cores"] += group.cpus * replicas
        reserved["GPUs"] += group.gpus * replicas
    return reserved


def machine_resources() -> dict[str, float]:
    """CPU cores and GPUs of this computer."""
    import torch

    return {"CPU cores": float(usable_cpus()), "GPUs": float(torch.cuda.device_count())}


def room_to_surge(config: FleetConfig) -> bool:
    """Whether this computer has room for new replicas beside the old ones. If not, Serve would wait for it forever."""
    available = machine_resources()
    needed = reserved_resources(config, config.updates.max_during_update)
    return all(amount <= available[resource] for resource, amount in needed.items())


def check_fits(config: FleetConfig) -> None:
    """Raises LaunchError if the replicas reserve more than this computer has: Ray would wait for it forever."""
    available = machine_resources()
    for resource, amount in reserved_resources(config).items():
        if amount > available[resource]:
            raise LaunchError(
                f"this fleet reserves {amount:g} {resource} but the computer has {available[resource]:g}; lower `cpus` "
                "or `gpus` of the groups (fractions are allowed), or use fewer groups"
            )
    if custom := sorted({name for group in config.groups.values() for name in group.resources}):
        raise LaunchError(f"custom resources ({', '.join(custom)}) are for clusters; this computer has none")
