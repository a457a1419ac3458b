"""Whether the tiers of a fleet fit into memory, decided before they are loaded: from the headers of their weight files
and the memory that is free."""

import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from rankfleet.cluster.failures import LaunchError
from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import CheckpointError
from rankfleet.engine.checkpoint.files import find_checkpoint
from rankfleet.engine.runtime.cgroup import ALL_FILE_PAGES
from rankfleet.engine.runtime.model_size import model_size
from rankfleet.engine.runtime.pass_budget import free_memory
from rankfleet.estimates.memory import CUDA_CONTEXT_BYTES, PROCESS_BYTES, MemoryNeed, gigabytes, memory_need

NVIDIA_SMI = ("nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits")  # in MiB
REMEDY = "give the group fewer or smaller tiers, a narrower `dtype`, or a machine with more memory"


def replica_need(fleet: FleetConfig, group: str, tiers: Iterable[str], process: int = 0) -> MemoryNeed:
    """What one replica of a group needs for these of its tiers, whose models are on this computer.

    `process`: what it takes before they are loaded, in bytes. Raises CheckpointError.
    """
    settings = fleet.groups[group]
    on_gpu = settings.gpus > 0
    sizes = {
        tier: model_size(
            find_checkpoint(fleet.tiers[tier].model, fleet.tiers[tier].revision),
            settings.dtype,
            fleet.tiers[tier].max_tokens,
            on_gpu,
        )
        for tier in tiers
    }
    return memory_need(sizes, settings.dtype, process)


def reclaimable_memory(device: torch.device) -> int:
    """Bytes that this device can give: also those in which the system only keeps files at hand, such as checkpoints."""
    return free_memory(device, file_pages=ALL_FILE_PAGES)


def check_replica(
    fleet: FleetConfig,
    group: str,
    tiers: Sequence[str],
    free_on: Callable[[torch.device], int] = reclaimable_memory,
) -> None:
    """Raises CheckpointError, with the arithmetic, if these tiers do not fit into the free memory of this process's
    device. It has loaded none of them yet. `free_on`: free bytes of a device."""
    on_gpu = fleet.groups[group].gpus > 0 and torch.cuda.is_available()
    free, need = free_on(torch.device("cuda" if on_gpu else "cpu")), replica_need(fleet, group, tiers)
    if need.total > free:
        where = "its GPU has" if on_gpu else "this machine or its container has"
        raise CheckpointError(
            f"group {group} does not fit into memory: a replica needs {need}, and {where} {gigabytes(free)} GB free; "
            f"{REMEDY}"
        )


def check_memory(fleet: FleetConfig) -> None:
    """Raises LaunchError, with the arithmetic, if the replicas that start on this computer do not fit into its memory
    or that of its GPUs together."""
    needs = {
        name: replica_need(fleet, name, group.tiers, CUDA_CONTEXT_BYTES if group.gpus else PROCESS_BYTES)
        for name, group in fleet.groups.items()
    }
    check_needs(fleet, needs, reclaimable_memory(torch.device("cpu")), free_gpu_memory())


def check_needs(fleet: FleetConfig, needs: Mapping[str, MemoryNeed], free: int, free_on_gpus: Sequence[int]) -> None:
    """As `check_memory`. `needs`: of one replica, by group. `free`, `free_on_gpus`: bytes; no GPUs if unknown."""
    for on_gpu, bytes_free, what in (
        (False, free, "this computer or its container has"),
        (True, sum(free_on_gpus), "its GPUs together have"),
    ):
        if on_gpu and not free_on_gpus:
            continue
        groups = {name: group for name, group in fleet.groups.items() if (group.gpus > 0) == on_gpu}
        counts = {name: max(1, fleet.replicas_of(name).min) for name in groups}
        total = sum(counts[name] * needs[name].total for name in groups)
        largest = max((needs[name].total for name in groups), default=0)
        if on_gpu and largest > max(free_on_gpus):
            total, bytes_free, what = largest, max(free_on_gpus), "the largest GPU has"
        if total > bytes_free:
            lines = [f"  group {name}: {counts[name]} × {needs[name]}" for name in groups]
            raise LaunchError(
                f"the fleet does not fit into memory: {what} {gigabytes(bytes_free)} GB free, and its replicas need at "
                f"least {gigabytes(total)} GB\n" + "\n".join(lines) + f"\n  {REMEDY}, or fewer replicas"
            )


def free_gpu_memory(command: Sequence[str] = NVIDIA_SMI) -> list[int]:
    """Free bytes of each GPU of this computer; empty if the command is missing or does not say.

    Asking CUDA itself would leave a context of several hundred MB in this process.
    """
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
        return [int(line) * 2**20 for line in shown.split()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
