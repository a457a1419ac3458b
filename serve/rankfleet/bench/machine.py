"""The machine: its name, its matrix-product rate, and the CPU time that all its processes use."""

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Product = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]
SQUARE = {"cpu": 2048, "cuda": 8192}  # rows of the matrices: large enough that memory traffic does not limit the rate
REPEATS = 4
# Rows at first. They double up to SQUARE while a product takes less than SLOW_S: without instructions for a precision,
# a large product takes minutes.
SMALLEST = 256
SLOW_S = 0.1
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def cpu_name() -> str:
    """The processor as the kernel names it, with its cores; the architecture where the kernel does not say."""
    names = [line.split(":", 1)[1].strip() for line in _cpu_lines() if line.startswith("model name")]
    return f"{names[0]} ({len(names)} cores)" if names else platform.machine()


def cpu_instructions() -> list[str]:
    """The CPU's vector instructions that decide which precision is fast."""
    flags = next((line.split(":", 1)[1].split() for line in _cpu_lines() if line.startswith("flags")), [])
    return [name for name in INSTRUCTIONS if name in flags]


def _cpu_lines() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


def matmul_rates(device: str) -> dict[str, float]:
    """Operations per second of square matrix products by precision, the best of several runs: of large ones, but where
    a precision is slow, of the largest that is still quick (`SLOW_S`).

    float32, bfloat16, and int8 where there is a kernel. On a CPU the float32 product also runs through oneDNN:
    PyTorch's own goes through MKL, which reaches half of the rate of an AMD CPU.
    """
    import torch

    where = torch.device(device)
    n = SQUARE.get(where.type, SQUARE["cpu"])
    generator = torch.Generator().manual_seed(1)
    left, right = torch.randint(-127, 127, (2, n, n), generator=generator, dtype=torch.int8).to(where)
    one_dnn = torch.ops.mkldnn._linear_pointwise
    kernels: list[tuple[str, torch.dtype, Product]] = [
        ("float32", torch.float32, torch.matmul),
        ("float32", torch.float32, lambda a, b: one_dnn(a, b, None, "none", [], "")),
        ("bfloat16", torch.bfloat16, torch.matmul),
        ("int8", torch.int8, torch._int_mm),
    ]
    rates: dict[str, float] = {}
    for name, dtype, product in kernels:
        a, b = left.to(dtype), right.to(dtype)
        size = SMALLEST
        try:
            _product_s(product, a, b, size)  # the first one prepares much
            while size < n and _product_s(product, a, b, size) < SLOW_S:
                size *= 2
        except (RuntimeError, NotImplementedError, AttributeError):
            continue
        best_s = min(_product_s(product, a, b, size) for _ in range(REPEATS))
        rates[name] = max(rates.get(name, 0.0), 2 * size**3 / best_s)
    return rates


def _product_s(product: Product, a: "torch.Tensor", b: "torch.Tensor", size: int) -> float:
    """Seconds that one product takes, of the first so many rows and columns."""
    import torch

    a, b = a[:size, :size].contiguous(), b[:size, :size].contiguous()
    if a.is_cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    product(a, b)
    if a.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def busy_s() -> float:
    """CPU seconds used so far by all processes on the CPUs that this process may use; 0 where the kernel does not
    say."""
    try:
        return busy_ticks(Path("/proc/stat").read_text(), os.sched_getaffinity(0)) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return 0.0


def busy_ticks(stat: str, cpus: set[int]) -> int:
    """Busy clock ticks of these CPUs, from the text of /proc/stat. Time stolen by the host counts as busy."""
    counted = {f"cpu{number}" for number in cpus}
    total = 0
    for line in stat.splitlines():
        name, *fields = line.split()
        if name in counted:
            user, nice, system, _idle, _wait, irq, soft_irq, steal = (int(field) for field in fields[:8])
            total += user + nice + system + irq + soft_irq + steal
    return total
