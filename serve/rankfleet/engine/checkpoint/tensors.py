"""Reading the JSON and safetensors files of a checkpoint's folder."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from rankfleet.core.errors import CheckpointError
from rankfleet.engine.checkpoint.weights import META, one_line

SCALE_SUFFIX = ".int8_scale"  # of the tensor that holds the scales of an int8 matrix
STORED_DTYPES = {  # by their names in safetensors files; others do not hold weights
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def read_json(path: Path) -> Any:
    """The content of a checkpoint's JSON file. Raises CheckpointError that names the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: {path.parent} is not a complete checkpoint") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def weight_files(folder: Path) -> list[Path]:
    """`model.safetensors`, or the shards in its index. Raises CheckpointError if there is neither."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        return [single]
    if not index.exists():
        raise CheckpointError(f"{folder} has no model.safetensors; only safetensors checkpoints are loaded")
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} has no weight_map from tensors to files") from error
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{index} names a shard outside of its folder: {name}")
    return [folder / name for name in names]


def read_tensors(folder: Path, *, values: bool = True) -> dict[str, torch.Tensor]:
    """All tensors of `weight_files`, by name.

    `values`: False reads only the headers of the files, and returns tensors on the device `meta`, which have a shape
    and a type.

    A tensor stored as int8 with a float scale per row (`NAME.int8_scale`, [rows, 1]) is returned as float32.
    """
    tensors: dict[str, torch.Tensor] = {}
    for path in weight_files(folder):
        try:
            tensors.update(load_file(path) if values else read_headers(path))
        except Exception as error:  # safetensors raises its own class, OSError or a header error
            raise CheckpointError(f"{path} is not a readable safetensors file: {one_line(error)}") from error
    for name in [n for n in tensors if n.endswith(SCALE_SUFFIX)]:
        scale, target = tensors.pop(name), name.removesuffix(SCALE_SUFFIX)
        if target not in tensors:
            raise CheckpointError(f"{folder} has {name!r}, a scale, without the tensor {target!r}")
        stored, scales = tensors[target].float(), scale.float().expand_as(tensors[target])
        # A product of tensors without values makes PyTorch import its compiler, which takes a second.
        tensors[target] = stored * scales if values else stored
    return tensors


def read_headers(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, without their values."""
    with safe_open(path, framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is not a dict)
        return {
            name: torch.empty(part.get_shape(), dtype=STORED_DTYPES.get(part.get_dtype(), torch.int8), device=META)
            for name, part in slices.items()
        }
