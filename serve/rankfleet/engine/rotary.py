"""Rotary positions (Su et al. 2021): each pair of a head's dimensions is turned by position × frequency."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Rotary:
    """cos and sin of position × frequency, each float32 [tokens, 1, head dim]."""

    cos: torch.Tensor
    sin: torch.Tensor

    @staticmethod
    def at(positions: torch.Tensor, theta: float, width: int) -> "Rotary":
        """positions: [tokens]; width: of a head."""
        exponents = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width
        angles = positions.float()[:, None] * theta**-exponents
        angles = torch.cat([angles, angles], dim=-1)[:, None, :]
        return Rotary(angles.cos(), angles.sin())

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x: [tokens, heads, head dim]. Computed in float32, as the reference does."""
        wide = x.float()
        left, right = wide.chunk(2, dim=-1)
        return (wide * self.cos + torch.cat([-right, left], dim=-1) * self.sin).to(x.dtype)

    def rows(self, at: torch.Tensor) -> "Rotary":
        """Of some tokens only."""
        return Rotary(self.cos[at], self.sin[at])
