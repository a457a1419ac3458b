"""Activation functions by the names that configs use."""

from collections.abc import Callable

import torch

from rankfleet.core.errors import CheckpointError

Activation = Callable[[torch.Tensor], torch.Tensor]

ACTIVATIONS: dict[str, Activation] = {
    "gelu": torch.nn.functional.gelu,
    "gelu_new": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "relu": torch.nn.functional.relu,
    "silu": torch.nn.functional.silu,
    "tanh": torch.tanh,
    "identity": lambda x: x,
}


def activation(name: str) -> Activation:
    """By config name (`gelu`) or by the torch class that Sentence Transformers writes down
    (`torch.nn.modules.activation.GELU`). Raises CheckpointError for a name it does not know."""
    known = ACTIVATIONS.get(name.rsplit(".", 1)[-1].lower())
    if known is None:
        raise CheckpointError(f"activation {name!r} is not one of {', '.join(ACTIVATIONS)}")
    return known
