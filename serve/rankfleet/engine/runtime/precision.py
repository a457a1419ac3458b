"""The precision that a model computes in."""

import torch

from rankfleet.core.errors import CheckpointError
from rankfleet.engine.native.library import cpu_flags, library

DTYPES = ("float32", "bfloat16", "int8")
TORCH_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def choose_dtype(dtype: str, device: torch.device) -> str:
    """The precision to compute in: `dtype`, or what `auto` means on this device.

    `auto` is bfloat16 where its matrix products are faster than those of float32 (GPUs that have it, CPUs with
    AVX512-BF16 or AMX), else float32. Raises CheckpointError for int8 where it cannot be computed.
    """
    if dtype == "int8":
        kernels = library() if device.type == "cpu" else None
        if kernels is None or "int8" not in kernels.dtypes:
            raise CheckpointError("int8 needs a CPU with AVX512-VNNI and a C++ compiler; set dtype to auto")
    if dtype != "auto":
        return dtype
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if cpu_flags() & {"avx512_bf16", "amx_bf16"} else "float32"
