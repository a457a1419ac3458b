"""What has to be set before any test imports Triton."""

import importlib.util
import os

if importlib.util.find_spec("torch") is not None:  # the environments of clients have no PyTorch
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")  # its kernels are then interpreted
