"""Encoders by the kind of checkpoint: in PyTorch's operations, or run by the compiled kernels."""

from typing import Any

import torch

from rankfleet.engine.attention.packed import Attention
from rankfleet.engine.attention.varlen import attention_for
from rankfleet.engine.checkpoint.weights import Weights
from rankfleet.engine.models.bert import BertEncoder
from rankfleet.engine.models.modernbert import ModernBertEncoder
from rankfleet.engine.models.qwen2 import Qwen2Encoder
from rankfleet.engine.native.encoder import NativeEncoder, fits
from rankfleet.engine.native.library import library

TorchEncoder = BertEncoder | ModernBertEncoder | Qwen2Encoder
Encoder = TorchEncoder | NativeEncoder
ENCODERS: dict[str, tuple[type[TorchEncoder], str]] = {
    "bert": (BertEncoder, "bert."),
    "roberta": (BertEncoder, "roberta."),
    "xlm-roberta": (BertEncoder, "roberta."),
    "modernbert": (ModernBertEncoder, "model."),
    "qwen2": (Qwen2Encoder, "model."),
}


def torch_encoder(config: Any, weights: Weights, attention: Attention | None = None) -> TorchEncoder:
    """The encoder in PyTorch's operations, on the device and in the precision of the weights. attention: by default
    the best back-end that is installed."""
    build, prefix = ENCODERS[config.model_type]
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = attention or attention_for(weights.device, weights.dtype, width)
    return build(config, weights.under(prefix), attention)


def compiled_encoder(config: Any, weights: Weights, dtype: str, max_pair: int) -> NativeEncoder | None:
    """The same encoder run by the compiled kernels, or None where they do not have it."""
    kernels = library()
    if kernels is None or dtype not in kernels.dtypes:
        return None
    encoder = torch_encoder(config, weights.to(torch.float32, torch.device("cpu")))
    return NativeEncoder(encoder, dtype, kernels, max_pair) if fits(encoder) else None
