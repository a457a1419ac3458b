"""The C structures that the compiled kernels read (`encoder.cpp`, field by field), and weights in their tile order."""

from collections.abc import Sequence
from ctypes import POINTER, Structure, c_float, c_int64, c_void_p

import torch

from rankfleet.engine.checkpoint import weights

COLUMNS = 64  # columns of a tile
UNIT = {"float32": 1, "bfloat16": 2, "int8": 4}  # elements in a 32-bit unit


class NormStruct(Structure):
    _fields_ = (("weight", c_void_p), ("bias", c_void_p))


class LinearStruct(Structure):
    _fields_ = (
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("scale", c_void_p),
        ("shift", c_void_p),
        ("inputs", c_int64),
        ("outputs", c_int64),
    )


class LayerStruct(Structure):
    _fields_ = (
        ("attention_norm", NormStruct),
        ("mlp_norm", NormStruct),
        ("qkv", LinearStruct),
        ("attention_out", LinearStruct),
        ("mlp_in", LinearStruct),
        ("mlp_out", LinearStruct),
        ("window", c_int64),
        ("rotary", c_void_p),
    )


class ModelStruct(Structure):
    _fields_ = (
        ("word_embeddings", c_void_p),
        ("position_embeddings", c_void_p),
        ("type_embeddings", c_void_p),
        ("embedding_norm", NormStruct),
        ("final_norm", NormStruct),
        ("layers", POINTER(LayerStruct)),
        ("hidden", c_int64),
        ("layer_count", c_int64),
        ("head_width", c_int64),
        ("pre_norm", c_int64),
        ("gated", c_int64),
        ("eps", c_float),
    )


class BatchStruct(Structure):
    _fields_ = (
        ("bounds", c_void_p),
        ("token_ids", c_void_p),
        ("positions", c_void_p),
        ("position_ids", c_void_p),
        ("type_ids", c_void_p),
        ("items", c_void_p),
        ("tokens", c_int64),
        ("pairs", c_int64),
        ("item_count", c_int64),
    )


class WorkspaceStruct(Structure):
    _fields_ = (("hidden", c_void_p), ("qkv", c_void_p), ("attended", c_void_p))


class NativeWeights:
    """Copies tensors into the order that the kernels read, and keeps the copies alive."""

    def __init__(self, dtype: str) -> None:
        """`dtype`: of the matrix products: float32, bfloat16 or int8."""
        self.dtype = dtype
        self._kept: list[torch.Tensor] = []

    def keep(self, tensor: torch.Tensor | None, dtype: torch.dtype = torch.float32) -> int | None:
        """The address of a contiguous copy; None for None."""
        if tensor is None:
            return None
        self._kept.append(tensor.to(dtype).contiguous())
        return self._kept[-1].data_ptr()

    def norm(self, norm: weights.LayerNorm | None) -> NormStruct:
        return NormStruct(self.keep(norm.weight), self.keep(norm.bias)) if norm else NormStruct(None, None)

    def linear(self, linear: weights.Linear, gated: bool = False) -> LinearStruct:
        """W [out, in] in tiles: [out / 64][in / unit][64] units.

        `gated`: the second half of the rows are the gates of the first half; each tile gets 32 rows and their gates.
        """
        weight, bias = linear.weight.float(), linear.bias
        if bias is None:
            bias = torch.zeros(len(weight))
        if gated:
            half = len(weight) // 2
            order = torch.arange(len(weight)).view(2, half // 32, 32).transpose(0, 1).reshape(-1)
            weight, bias = weight[order], bias[order]
        scale = shift = None
        if self.dtype == "int8":
            scale = weight.abs().amax(dim=1).clamp(min=1e-12) / 127
            weight = torch.round(weight / scale[:, None]).clamp(-127, 127)
            shift = weight.sum(dim=1)
        out, inner, unit = *weight.shape, UNIT[self.dtype]
        tiles = weight.view(out // COLUMNS, COLUMNS, inner // unit, unit).transpose(1, 2)
        return LinearStruct(
            weight=self.keep(tiles, getattr(torch, self.dtype)),
            bias=self.keep(bias),
            scale=self.keep(scale),
            shift=self.keep(shift, torch.int32),
            inputs=inner,
            outputs=out,
        )

    def model(
        self,
        layers: Sequence[LayerStruct],
        *,
        word_embeddings: torch.Tensor,
        position_embeddings: torch.Tensor | None,
        type_embeddings: torch.Tensor | None,
        embedding_norm: weights.LayerNorm,
        final_norm: weights.LayerNorm | None,
        heads: int,
        pre_norm: bool,
        gated: bool,
    ) -> ModelStruct:
        """A whole model. `pre_norm`: layers norm their input and not their output. `gated`: the MLP has gates."""
        hidden = word_embeddings.shape[1]
        return ModelStruct(
            word_embeddings=self.keep(word_embeddings),
            position_embeddings=self.keep(position_embeddings),
            type_embeddings=self.keep(type_embeddings),
            embedding_norm=self.norm(embedding_norm),
            final_norm=self.norm(final_norm),
            layers=(LayerStruct * len(layers))(*layers),
            hidden=hidden,
            layer_count=len(layers),
            head_width=hidden // heads,
            pre_norm=pre_norm,
            gated=gated,
            eps=embedding_norm.eps,
        )
