"""Whether pods have the memory that their tiers need, where the checkpoints are on this computer."""

from rankfleet.cluster.deployment_options import ROUTER
from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import CheckpointError, ConfigError
from rankfleet.core.sections import Group
from rankfleet.estimates.memory import PROCESS_BYTES, ModelSize, gigabytes, memory_need
from rankfleet.k8s.pools import Pool, pool_name


def check_pod_memory(config: FleetConfig, sized: list[Pool]) -> None:
    """Raises ConfigError, with the arithmetic, if a pod on a CPU has less memory than its tiers need: Kubernetes would
    end it again and again. `config`: with paths of this computer. Tiers whose checkpoint is not here are left out."""
    room = {pool.name: pool.memory_gib for pool in sized}
    needs: dict[str, list[str]] = {}
    total: dict[str, int] = {}
    for name, group in config.groups.items():
        if group.gpus == 0 and (sizes := sizes_here(config, group)):
            pod = ROUTER if group.in_router else pool_name(name)
            need = memory_need(sizes, group.dtype, PROCESS_BYTES if pod not in total else 0)
            total[pod] = total.get(pod, 0) + need.total
            needs.setdefault(pod, []).append(f"group {name}: {need}")
    for pod, need_bytes in total.items():
        if need_bytes > room[pod] * 2**30:
            raise ConfigError(
                f"pods of {pod} have {room[pod]} GiB, and their tiers need at least {gigabytes(need_bytes)} GB; set "
                f"`pools.{pod}.memory_gib` in the cluster file\n  " + "\n  ".join(needs[pod])
            )


def sizes_here(config: FleetConfig, group: Group) -> dict[str, ModelSize]:
    """The sizes of those tiers of a group whose checkpoints are on this computer."""
    from rankfleet.engine.checkpoint.files import find_checkpoint  # both import PyTorch
    from rankfleet.engine.runtime.model_size import model_size

    sizes = {}
    for name in group.tiers:
        tier = config.tiers[name]
        try:
            checkpoint = find_checkpoint(tier.model, tier.revision, local_only=True)
        except CheckpointError:
            continue
        sizes[name] = model_size(checkpoint, group.dtype, tier.max_tokens, on_gpu=False)
    return sizes
