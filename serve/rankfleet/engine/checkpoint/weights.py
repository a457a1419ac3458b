"""Named tensors of a checkpoint, checked, converted and combined into layers."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional

from rankfleet.core.errors import CheckpointError

CPU = torch.device("cpu")
META = torch.device("meta")  # for tensors with a shape and no values, which show whether a model fits together


@contextmanager
def naming(folder: Path) -> Iterator[None]:
    """Put the folder before the message of a CheckpointError that is raised inside, unless it is already there."""
    try:
        yield
    except CheckpointError as error:
        if str(folder) in str(error):
            raise
        raise CheckpointError(f"{folder}: {error}") from error


def one_line(error: BaseException) -> str:
    """A library's error message, which may span several lines, as part of a sentence."""
    return " ".join(str(error).split()) or type(error).__name__


@dataclass(frozen=True)
class Linear:
    """y = x Wᵀ + b, with W [out, in]."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.weight, self.bias)


@dataclass(frozen=True)
class LayerNorm:
    """(x − mean) / sqrt(variance + eps) · weight + bias."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    eps: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


def all_finite(tensor: torch.Tensor) -> bool:
    """Whether no value is NaN or infinite.

    Computed from minimum and maximum, which NaN propagates to: 0.2 s for 10⁹ values on two cores, where
    `isfinite(tensor).all()` takes 7 s and the memory of a mask.
    """
    return not tensor.numel() or all(map(math.isfinite, torch.stack(torch.aminmax(tensor)).tolist()))


def stacked(parts: list[torch.Tensor]) -> torch.Tensor:
    """Tensors of one shape, one below the other.

    Computing with tensors that have no values makes PyTorch import its compiler, which takes a second.
    """
    first = parts[0]
    return first.new_empty(len(parts) * len(first), *first.shape[1:]) if first.is_meta else torch.cat(parts)


class Weights:
    """The tensors of one folder under one prefix. Each is checked and moved to a device and precision on access.

    All encoders and heads read their tensors from here; those that are not read may hold anything.
    """

    def __init__(
        self,
        tensors: dict[str, torch.Tensor],
        folder: Path,
        dtype: torch.dtype = torch.float32,
        device: torch.device = CPU,
        prefix: str = "",
    ) -> None:
        """`tensors`: by name without `prefix`, which they have in the file. `folder`: where they were read from, for
        messages."""
        self._tensors = tensors
        self.folder = folder
        self.dtype = dtype
        self.device = device
        self._prefix = prefix

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def to(self, dtype: torch.dtype, device: torch.device) -> "Weights":
        """The same tensors, which are then converted to this precision and device on access."""
        return Weights(self._tensors, self.folder, dtype, device, self._prefix)

    def under(self, prefix: str) -> "Weights":
        """The tensors whose names start with `prefix`, by the rest of their names; all tensors if none starts so: a
        bare encoder is saved without the prefix that a model with a head adds."""
        inside = {n.removeprefix(prefix): t for n, t in self._tensors.items() if n.startswith(prefix)}
        if not inside:
            return self
        return Weights(inside, self.folder, self.dtype, self.device, self._prefix + prefix)

    @property
    def names(self) -> set[str]:
        return set(self._tensors)

    def tensor(self, name: str, *shape: int) -> torch.Tensor:
        """The tensor of this name. `shape`: as the config implies; none to accept any.

        Raises CheckpointError that names folder and tensor if it is missing, has another shape, is not floating point,
        or holds NaN or infinity in the precision asked for, with which every score would be NaN.
        """
        full = self._prefix + name
        if name not in self._tensors:
            raise CheckpointError(f"{self.folder} has no tensor {full!r}; is it complete, and of the right kind?")
        tensor = self._tensors[name]
        if shape and tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"{self.folder}: tensor {full!r} has the shape {list(tensor.shape)}, and by config.json {list(shape)}; "
                f"are both of the same model?"
            )
        if not tensor.is_floating_point():
            raise CheckpointError(
                f"{self.folder}: tensor {full!r} is stored as {str(tensor.dtype).removeprefix('torch.')}; weights that "
                f"were quantized elsewhere are not supported"
            )
        tensor = tensor.to(device=self.device, dtype=self.dtype)
        if not tensor.is_meta and not all_finite(tensor):
            raise CheckpointError(
                f"{self.folder}: tensor {full!r} holds values that are not finite (NaN or infinity): "
                f"the file is damaged or was saved after training diverged"
            )
        return tensor

    def linear(self, *names: str, out: int, inner: int, bias: bool = True) -> Linear:
        """One linear layer, or several of the same input stacked into one. `out`: outputs of each. `inner`: inputs."""
        weight = stacked([self.tensor(f"{n}.weight", out, inner) for n in names])
        return Linear(weight, stacked([self.tensor(f"{n}.bias", out) for n in names]) if bias else None)

    def norm(self, name: str, eps: float, width: int, bias: bool = True) -> LayerNorm:
        return LayerNorm(
            self.tensor(f"{name}.weight", width), self.tensor(f"{name}.bias", width) if bias else None, eps
        )
