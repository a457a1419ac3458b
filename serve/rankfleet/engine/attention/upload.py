"""Copying index arrays to the device without stalling its computation."""

from functools import lru_cache

import numpy as np
import torch


@lru_cache(maxsize=8)
def copy_stream(device: torch.device) -> "torch.cuda.Stream":
    """The stream of this device that is used for copies only."""
    return torch.cuda.Stream(device)


def upload(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """The array as a tensor of the same type and shape on `device`.

    On CUDA the copy runs from pinned memory on its own stream: the host does not wait for it, and it does not wait for
    earlier batches. The allocator keeps the pinned pages until the copy has ended, and `record_stream` keeps the device
    memory until the reading stream has.
    """
    if device.type != "cuda":
        return torch.from_numpy(array).to(device)
    pinned = torch.empty(array.shape, dtype=torch.from_numpy(array[:0]).dtype, pin_memory=True)
    pinned.numpy()[...] = array
    reader, copier = torch.cuda.current_stream(device), copy_stream(device)
    with torch.cuda.stream(copier):
        uploaded = pinned.to(device, non_blocking=True)
    reader.wait_stream(copier)
    uploaded.record_stream(reader)
    return uploaded
