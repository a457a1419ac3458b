"""The memory that a replica needs at least for its tiers, with the arithmetic in words.

A lower bound: what exceeds it cannot run. Batches, CUDA graphs and Ray take more, but they take what is left
(`engine/runtime/pass_budget.py`).
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

# Bytes of a weight at the least that the precision may mean: `auto` may choose bfloat16. In any other precision the
# compiled kernels hold int8.
WEIGHT_BYTES = {"float32": 4, "bfloat16": 2, "auto": 2}
# Of a replica on a CPU before it loads a model, without pages that processes share. Measured with Ray 2.60 and PyTorch
# 2.13 on Linux: a router, which loads no model, holds 268 MiB of its own.
PROCESS_BYTES = 250_000_000
# Of a process that has only initialised CUDA. `nvidia-smi` shows 300 to 600 MB by GPU and driver.
CUDA_CONTEXT_BYTES = 300_000_000


@dataclass(frozen=True)
class ModelSize:
    """`parameters`: their number. `pass_bytes`: of a forward pass of the longest pair, besides the weights.
    `load_bytes`: of what exists besides the weights only while the model is loaded."""

    parameters: int
    pass_bytes: int
    load_bytes: int = 0


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes that a replica needs at the same time.

    `weight_bytes`: of one weight. `weights`: of all, by tier. `work`: besides, to load a model or to score its longest
    pair, whichever takes more.
    `process`: before the first model is loaded.
    """

    weight_bytes: int
    weights: Mapping[str, int]
    work: int
    process: int

    @property
    def total(self) -> int:
        return sum(self.weights.values()) + self.work + self.process

    def __str__(self) -> str:
        tiers = " + ".join(f"{tier} {gigabytes(size)}" for tier, size in self.weights.items())
        process = f" + {gigabytes(self.process)} of the process itself" if self.process else ""
        return (
            f"{gigabytes(self.total)} GB: weights at {self.weight_bytes} bytes ({tiers}) + {gigabytes(self.work)} to "
            f"load a model or score its longest pair{process}"
        )


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f}"


def memory_need(sizes: Mapping[str, ModelSize], dtype: str, process: int) -> MemoryNeed:
    """What a replica with these models needs, loaded in this order. `process`: see `MemoryNeed`."""
    each = WEIGHT_BYTES.get(dtype, 1)
    weights = {tier: each * size.parameters for tier, size in sizes.items()}
    loaded = [*itertools.accumulate(weights.values())]
    peak = max(before + size.load_bytes for before, size in zip(loaded, sizes.values(), strict=True))
    longest = max(size.pass_bytes for size in sizes.values())
    return MemoryNeed(each, weights, max(peak - loaded[-1], longest), process)
