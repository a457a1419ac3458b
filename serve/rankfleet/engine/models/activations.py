"""Activation functions by the names that checkpoints use."""

from collections.abc import Callable

import torch
from torch.nn import functional

from rankfleet.core.errors import CheckpointError

Activation = Callable[[torch.Tensor], torch.Tensor]


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    return functional.gelu(x, approximate="tanh")


def identity(x: torch.Tensor) -> torch.Tensor:
    return x


GELU: Activation = functional.gelu  # the exact one; the compiled kernels have no other
# By the names in config.json, several of which mean the same function.
ACTIVATIONS: dict[str, Activation] = {
    "gelu": GELU,
    "gelu_python": GELU,
    "gelu_new": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_accurate": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu_python_tanh": gelu_tanh,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": functional.relu,
    "relu2": lambda x: functional.relu(x).square(),
    "relu6": functional.relu6,
    "leaky_relu": functional.leaky_relu,
    "silu": functional.silu,
    "swish": functional.silu,
    "mish": functional.mish,
    "hardswish": functional.hardswish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "linear": identity,
}
# Classes of torch.nn that Sentence Transformers builds without arguments. Not PReLU, which has weights, nor Softmax,
# which needs a dimension.
TORCH_CLASSES = {
    *("CELU", "ELU", "GELU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "Identity", "LeakyReLU"),
    *("LogSigmoid", "Mish", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus", "Softshrink", "Softsign"),
    *("Tanh", "Tanhshrink"),
}
TORCH_MODULES = ("torch.nn", "torch.nn.modules.activation", "torch.nn.modules.linear")


def activation(name: str) -> Activation:
    """The activation of this name in config.json, such as `gelu`. Raises CheckpointError for an unknown name."""
    known = ACTIVATIONS.get(name)
    if known is None:
        raise CheckpointError(f"activation {name!r} is not one of {', '.join(ACTIVATIONS)}")
    return known


def torch_activation(path: object) -> Activation:
    """The activation of this class, as Sentence Transformers saves it (`torch.nn.modules.activation.GELU`).

    Raises CheckpointError for what Sentence Transformers does not load, such as null, and for a class outside of torch:
    without remote code Sentence Transformers replaces it by Tanh, which is not what the model was trained with.
    """
    if not isinstance(path, str):
        raise CheckpointError(
            f"its activation_function is {'null' if path is None else repr(path)}, which Sentence Transformers does "
            f"not load; none at all is written as torch.nn.modules.linear.Identity"
        )
    module, _, name = path.rpartition(".")
    if module not in TORCH_MODULES or name not in TORCH_CLASSES:
        raise CheckpointError(
            f"its activation_function {path!r} is not supported; supported are, of torch.nn, "
            f"{', '.join(sorted(TORCH_CLASSES))}"
        )
    if name == "GELU":
        return GELU
    found: Activation = getattr(torch.nn, name)()
    return found
