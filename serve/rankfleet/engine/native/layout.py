"""How an encoder becomes what the compiled kernels read: one `NativeLayout` a family."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch

from rankfleet.engine.attention.packing import PackedBatch
from rankfleet.engine.native.structs import COLUMNS, ModelStruct, NativeWeights


class EncoderSizes(Protocol):
    """The sizes that any encoder has."""

    heads: int

    @property
    def vocabulary(self) -> int: ...
    @property
    def hidden(self) -> int: ...
    @property
    def inner(self) -> int: ...


E = TypeVar("E", bound=EncoderSizes, contravariant=True)


def positions_in_pair(batch: PackedBatch) -> torch.Tensor:
    """int32 [tokens], counted from 0 in each pair."""
    return batch.positions


@dataclass(frozen=True)
class NativeModel:
    """A model as the kernels read it.

    `struct`: addresses of its weights, which NativeWeights keeps alive.
    `position_ids`: the row of the position table that each token takes, int32 [tokens].
    """

    struct: ModelStruct
    position_ids: Callable[[PackedBatch], torch.Tensor] = positions_in_pair


@dataclass(frozen=True)
class NativeLayout(Generic[E]):
    """Where the kernels find the weights of a family's encoder, in a family that they can compute.

    `fits`: whether they can run this encoder: its activation, and the widths of its layers.
    `build`: its weights as structures of the kernels. Third argument: tokens of the longest pair, for tables by
        position.
    """

    fits: Callable[[E], bool]
    build: Callable[[E, NativeWeights, int], NativeModel]


def widths_fit(encoder: EncoderSizes, head_widths: Collection[int], gated: bool) -> bool:
    """Whether all widths are whole tiles of the kernels, and heads have one of `head_widths`.

    `gated`: a tile of the MLP's first layer holds half values and half gates.
    """
    return (
        encoder.hidden % COLUMNS == 0
        and encoder.inner % (COLUMNS // 2 if gated else COLUMNS) == 0
        and encoder.hidden // encoder.heads in head_widths
    )
