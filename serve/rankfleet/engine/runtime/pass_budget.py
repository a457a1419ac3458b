"""The token budget of a forward pass, with which no mix of lengths runs a device out of memory."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rankfleet.engine.runtime.cgroup import INACTIVE, memory_left

log = logging.getLogger("rankfleet")

# Large enough for efficient matrix products; on a CPU small enough that activations stay in its caches.
MAX_TOKENS_PER_PASS = {"cpu": 4096, "cuda": 65536}
MEMORY_SHARE = 0.5  # of the free memory; other tiers' weights, graphs and fragmentation need the rest
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "int8": 4}  # int8 is held as floats until it is multiplied


@dataclass(frozen=True)
class PassBudget:
    """Upper bounds of one forward pass: its tokens, and about how many bytes they take besides the weights."""

    tokens: int
    bytes: int


def bytes_per_token(hidden: int, inner: int, element: int) -> int:
    """Bytes that one token takes at the peak of a layer in PyTorch's operations. The compiled kernels take less.

    14 × hidden: the residual stream and its norm, q, k and v before and after rotation, attention's input, output and
    reordered output, and its projection. 4 × inner: the MLP. 10 × hidden in float32: rotary positions.
    """
    return element * (14 * hidden + 4 * inner) + 4 * 10 * hidden


def pass_budget(hidden: int, inner: int, longest: int, element: int, device: torch.device) -> PassBudget:
    """The budget on this device, from the memory that is free now, but at least the longest pair.

    `hidden`, `inner`: widths of the encoder. `longest`: tokens of the longest pair. `element`: bytes of an activation.
    """
    each = bytes_per_token(hidden, inner, element)
    fit = int(free_memory(device) * MEMORY_SHARE) // each
    tokens = max(longest, min(fit, MAX_TOKENS_PER_PASS.get(device.type, MAX_TOKENS_PER_PASS["cpu"])))
    if fit < longest:
        log.warning("a pair of %d tokens may not fit into memory; lower the tier's max_tokens below %d", longest, fit)
    return PassBudget(tokens, tokens * each)


def free_memory(
    device: torch.device,
    meminfo: Path = Path("/proc/meminfo"),
    cgroup: Path = Path("/proc/self/cgroup"),
    cgroups: Path = Path("/sys/fs/cgroup"),
    file_pages: Sequence[str] = INACTIVE,
) -> int:
    """Free bytes on the device.

    For a CPU: the available memory of `meminfo` (4 GiB if that cannot be read), or what a container's limits leave if
    that is less. `cgroup`, `cgroups`, `file_pages`: see `memory_left`.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        fields = dict(line.split(":") for line in meminfo.read_text(encoding="ascii").splitlines())
        host = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, LookupError):
        host = 4 * 2**30
    left = memory_left(cgroup, cgroups, file_pages)
    return host if left is None else min(host, left)
