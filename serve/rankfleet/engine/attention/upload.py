"""Index arrays to the device, without holding up what it computes."""

from functools import lru_cache

import numpy as np
import torch


@lru_cache(maxsize=8)
def copy_stream(device: torch.device) -> "torch.cuda.Stream":
    return torch.cuda.Stream(device)


def upload(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """The array on `device`, same type and shape.

    On CUDA the copy goes through pinned memory on a stream of its own: the host does not wait for it, and it does
    not wait for the batches computed before. The allocator keeps the pinned pages until the copy is done, and
    `record_stream` keeps the device memory until the reader is.
    """
    if device.type != "cuda":
        return torch.from_numpy(array).to(device)
    pinned = torch.empty(array.shape, dtype=torch.from_numpy(array[:0]).dtype, pin_memory=True)
    pinned.numpy()[...] = array
    reader, copier = torch.cuda.current_stream(device), copy_stream(device)
    with torch.cuda.stream(copier):
        there = pinned.to(device, non_blocking=True)
    reader.wait_stream(copier)
    there.record_stream(reader)
    return there
