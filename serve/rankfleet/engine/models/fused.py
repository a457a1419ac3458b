"""Element-wise steps of an encoder, each of which a compiler makes one kernel instead of several."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

log = logging.getLogger(__name__)


def add_norm(
    x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """x + y, and its layer norm. x, y: [rows, hidden]."""
    x = x + y
    return x, functional.layer_norm(x, weight.shape, weight, bias, eps)


class Fused:
    """A step as compiled, or as written where the compiler fails: the reason is logged once."""

    def __init__(self, plain: Callable[..., Any], compiler: Callable[..., Any] = torch.compile) -> None:
        self._plain = plain
        self._fast: Callable[..., Any] | None = compiler(plain)

    def __call__(self, x: torch.Tensor, *more: Any) -> Any:
        # A first dimension of 1 would be compiled again, for itself alone, while a request waits.
        if self._fast is None or len(x) < 2:
            return self._plain(x, *more)
        try:
            return self._fast(x, *more)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers raise what they like; what is really wrong, the plain step raises too
            log.warning("%s runs uncompiled: %s", self._plain.__name__, str(error).strip().split("\n")[0])
            self._fast = None
            return self._plain(x, *more)
