"""Named tensors handed out as layers."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from rankfleet.core.errors import CheckpointError


@dataclass(frozen=True)
class Linear:
    """y = x Wᵀ + b, with W [out, in]."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.weight, self.bias)


@dataclass(frozen=True)
class LayerNorm:
    weight: torch.Tensor
    bias: torch.Tensor | None
    eps: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class Weights:
    """A checkpoint's tensors under one prefix, moved to a device and precision when asked for."""

    def __init__(self, tensors: dict[str, torch.Tensor], dtype: torch.dtype, device: torch.device) -> None:
        self._tensors = tensors
        self._dtype = dtype
        self._device = device

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def under(self, prefix: str) -> "Weights":
        """The tensors whose names start with `prefix`, without it; all of them if none does (a bare encoder
        saves its names without the prefix its classifier adds)."""
        inside = {n.removeprefix(prefix): t for n, t in self._tensors.items() if n.startswith(prefix)}
        return Weights(inside or self._tensors, self._dtype, self._device)

    def tensor(self, name: str) -> torch.Tensor:
        """Raises CheckpointError that names the tensor when it is absent."""
        if name not in self._tensors:
            raise CheckpointError(f"the checkpoint has no tensor {name!r}; is it complete, and of the right kind?")
        return self._tensors[name].to(device=self._device, dtype=self._dtype)

    def linear(self, *names: str) -> Linear:
        """One linear layer, or several over the same input stacked into one."""
        weight = torch.cat([self.tensor(f"{n}.weight") for n in names])
        has_bias = f"{names[0]}.bias" in self
        return Linear(weight, torch.cat([self.tensor(f"{n}.bias") for n in names]) if has_bias else None)

    def norm(self, name: str, eps: float) -> LayerNorm:
        return LayerNorm(
            self.tensor(f"{name}.weight"),
            self.tensor(f"{name}.bias") if f"{name}.bias" in self else None,
            eps,
        )
