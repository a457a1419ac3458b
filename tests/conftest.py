"""What has to be set before any test imports PyTorch."""

import os
import shutil

if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # without a GPU, Triton's kernels are interpreted
