"""Element-wise steps of an encoder, which a compiler fuses into one kernel each."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

log = logging.getLogger(__name__)


def add_norm(
    x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """x + y, and the layer norm of that sum. x, y: [rows, hidden]."""
    x = x + y
    return x, functional.layer_norm(x, weight.shape, weight, bias, eps)


class Fused:
    """A compiled step. If the compiler fails, the step runs as written, and the reason is logged once."""

    def __init__(self, plain: Callable[..., Any], compiler: Callable[..., Any] = torch.compile) -> None:
        self._plain = plain
        self._compiled: Callable[..., Any] | None = compiler(plain)

    def __call__(self, x: torch.Tensor, *more: Any) -> Any:
        # A first dimension of 1 would be compiled separately, while a request waits.
        if self._compiled is None or len(x) < 2:
            return self._plain(x, *more)
        try:
            return self._compiled(x, *more)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers may raise anything; a real fault recurs in the plain step
            log.warning("%s runs uncompiled: %s", self._plain.__name__, str(error).strip().split("\n")[0])
            self._compiled = None
            return self._plain(x, *more)
