"""How many tokens go into one forward pass, so that no mix of lengths can run a device out of memory."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from rankfleet.engine.runtime.cgroup import memory_left

log = logging.getLogger("rankfleet")

# Large enough for full matrix products; on a CPU small enough that activations stay near its caches.
MAX_TOKENS_PER_PASS = {"cpu": 4096, "cuda": 65536}
SHARE = 0.5  # of the memory that is free: weights of other tiers, graphs and the allocator's slack need the rest
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "int8": 4}  # int8 is held as floats until it is multiplied


@dataclass(frozen=True)
class PassBudget:
    """One forward pass: at most so many tokens, which take at most about so many bytes beside the weights."""

    tokens: int
    bytes: int


def bytes_per_token(hidden: int, inner: int, element: int) -> int:
    """What one token takes at the peak of a layer in PyTorch's operations: the residual stream and its norm, q, k
    and v before and after the turn by position, what attention reads, gives and puts in order, its projection; four
    values of the MLP; and positions, computed in float32. The compiled kernels take less."""
    return element * (14 * hidden + 4 * inner) + 4 * 10 * hidden


def pass_budget(hidden: int, inner: int, longest: int, element: int, device: torch.device) -> PassBudget:
    """hidden, inner: widths of the encoder; longest: tokens of the longest pair, which must fit into a pass;
    element: bytes of one activation."""
    each = bytes_per_token(hidden, inner, element)
    fit = int(free_memory(device) * SHARE) // each
    tokens = max(longest, min(fit, MAX_TOKENS_PER_PASS.get(device.type, MAX_TOKENS_PER_PASS["cpu"])))
    if fit < longest:
        log.warning("a pair of %d tokens may not fit into memory; lower the tier's max_tokens below %d", longest, fit)
    return PassBudget(tokens, tokens * each)


def free_memory(
    device: torch.device,
    meminfo: Path = Path("/proc/meminfo"),
    cgroup: Path = Path("/proc/self/cgroup"),
    cgroups: Path = Path("/sys/fs/cgroup"),
) -> int:
    """Bytes that are free on the device. Of a CPU: what Linux says is available, 4 GiB where it does not say, or what
    the limits of a container leave if that is less. cgroup, cgroups: see `memory_left`."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        fields = dict(line.split(":") for line in meminfo.read_text(encoding="ascii").splitlines())
        host = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, LookupError):
        host = 4 * 2**30
    left = memory_left(cgroup, cgroups)
    return host if left is None else min(host, left)
