"""The size of a model, read from its config and the headers of its weight files."""

import torch

from rankfleet.engine.attention.sdpa import RunAttention
from rankfleet.engine.checkpoint.files import Checkpoint
from rankfleet.engine.checkpoint.tensors import read_tensors
from rankfleet.engine.checkpoint.weights import META
from rankfleet.engine.models.families import family_of
from rankfleet.engine.native.library import library
from rankfleet.engine.runtime.loading import build_encoder, max_pair_tokens
from rankfleet.engine.runtime.pass_budget import bytes_per_token
from rankfleet.engine.runtime.precision import DTYPES
from rankfleet.estimates.memory import ModelSize

UNUSED = "lm_head.weight"  # only the rows of two tokens are kept
WORKSPACE = 5  # values of a token in `NativeEncoder._workspace`, in hidden widths, each of at least two bytes


def model_size(checkpoint: Checkpoint, dtype: str, max_tokens: int | None, on_gpu: bool) -> ModelSize:
    """`dtype`: of the group. `max_tokens`: of the tier. Raises CheckpointError.

    The compiled kernels take less for a pass than PyTorch's operations do. But their weights are made from a copy of
    all matrices in float32, which is dropped when a model is loaded; embeddings are not copied.
    """
    config, longest = checkpoint.config, max_pair_tokens(checkpoint)
    folders = {checkpoint.folder, *(m.weights.folder for m in checkpoint.head(values=False) if m.weights.names)}
    tensors = [item for folder in folders for item in read_tensors(folder, values=False).items()]
    parameters = sum(tensor.numel() for name, tensor in tensors if name != UNUSED)
    encoder = build_encoder(config, checkpoint.weights(values=False).to(torch.float32, META), RunAttention())
    longest = min(longest, max_tokens or longest)
    kernels = None if on_gpu or not family_of(config).fits_kernels(encoder) else library()
    if kernels and (dtype in kernels.dtypes or dtype not in DTYPES):  # `auto` is one that the kernels have
        copied = parameters - encoder.vocabulary * encoder.hidden
        return ModelSize(parameters, longest * 2 * WORKSPACE * encoder.hidden, 4 * copied)
    return ModelSize(
        parameters, longest * bytes_per_token(encoder.hidden, encoder.inner, 4 if dtype == "float32" else 2)
    )
