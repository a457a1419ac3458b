"""Rotary positions (Su et al. 2021): each pair of a head's dimensions is rotated by position × frequency."""

from dataclasses import dataclass

import torch


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x rotated: x · cos + (−right half, left half) · sin, in float32 as in Transformers.

    `x`: [tokens, ..., head dim]. `cos`, `sin`: float32 of as many dimensions, broadcast over those between.
    """
    wide = x.float()
    left, right = wide.chunk(2, dim=-1)
    return (wide * cos + torch.cat([-right, left], dim=-1) * sin).to(x.dtype)


@dataclass(frozen=True)
class Rotary:
    """cos and sin of position × frequency, each float32 [tokens, 1, head dim]."""

    cos: torch.Tensor
    sin: torch.Tensor

    @staticmethod
    def at(positions: torch.Tensor, theta: float, width: int) -> "Rotary":
        """Of these positions, [tokens]. `width`: of a head."""
        exponents = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width
        angles = positions.float()[:, None] * theta**-exponents
        angles = torch.cat([angles, angles], dim=-1)[:, None, :]
        return Rotary(angles.cos(), angles.sin())

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """`x`, [tokens, heads, head dim], rotated."""
        return rotate(x, self.cos, self.sin)

    def rows(self, at: torch.Tensor) -> "Rotary":
        """For the tokens at these indices only."""
        return Rotary(self.cos[at], self.sin[at])
