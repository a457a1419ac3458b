"""Writing checkpoints with matrices in int8, one scale per row, or with all tensors in plain float32.

Only the storage is int8; the scorer computes in its own precision. A row w is stored as round(w / s) with the scale
s = max|w| / 127 in bfloat16, so that no weight changes by more than about s / 2.
"""

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from rankfleet.core.errors import CheckpointError
from rankfleet.engine.checkpoint.files import DESCRIPTION, Checkpoint
from rankfleet.engine.checkpoint.tensors import SCALE_SUFFIX, read_tensors

# Never read in a reranker with the Ettin head, which replaces BERT's pooler.
UNUSED = ("pooler.dense.weight", "pooler.dense.bias")


def quantize_rows(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A float matrix [rows, columns] as int8 of the same shape, and its bfloat16 scales [rows, 1]."""
    scale = (matrix.float().abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127).bfloat16()
    return torch.round(matrix.float() / scale.float()).clamp(-127, 127).to(torch.int8), scale


def write_int8(source: Checkpoint, out: Path) -> None:
    """Copy a Sentence Transformers reranker, with its matrices in int8 and its vectors in float32."""
    for folder, target, tensors in _modules(source, out):
        stored: dict[str, torch.Tensor] = {}
        for name, tensor in tensors.items():
            if tensor.ndim == 2 and len(tensor) > 1:
                stored[name], stored[name + SCALE_SUFFIX] = quantize_rows(tensor)
            else:
                stored[name] = tensor.float().contiguous()
        _write(folder, target, stored)


def write_float32(source: Checkpoint, out: Path) -> None:
    """Copy a reranker with all tensors in plain float32, which Sentence Transformers and others can load."""
    for folder, target, tensors in _modules(source, out):
        _write(folder, target, {name: tensor.float().contiguous() for name, tensor in tensors.items()})


def _modules(source: Checkpoint, out: Path) -> list[tuple[Path, Path, dict[str, torch.Tensor]]]:
    """(folder, folder to write, tensors) of the encoder and of each head module.

    Raises CheckpointError unless `out` is empty.
    """
    if out.exists() and any(out.iterdir()):
        raise CheckpointError(f"{out} is not empty; give a new folder")
    folders = [folder for _, folder in source.modules] or [source.folder]
    modules = []
    for folder in folders:
        tensors = read_tensors(folder) if any(folder.glob("*.safetensors*")) else {}
        kept = {name: tensor for name, tensor in tensors.items() if name not in UNUSED}
        modules.append((folder, out / folder.relative_to(source.folder), kept))
    return modules


def _write(folder: Path, target: Path, tensors: dict[str, torch.Tensor]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for pattern in DESCRIPTION:
        for path in folder.glob(pattern):
            if not path.name.endswith(".safetensors.index.json"):  # the tensors are written to one file
                shutil.copyfile(path, target / path.name)
    if tensors:
        save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
