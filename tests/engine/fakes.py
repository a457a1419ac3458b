"""Stand-ins that are handed over as arguments."""

from collections.abc import Callable

import torch


class FakeRecorder:
    """Stands in for CUDA's recorder: a replay runs the work again, and reads and writes the same memory as a graph."""

    def __init__(self, fails: dict[int, Exception] | None = None) -> None:
        self.fails = fails or {}  # the error of each recording that fails, counted from 0
        self.asked = 0

    def record(self, work: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, Callable[[], None]]:
        self.asked += 1
        if error := self.fails.get(self.asked - 1):
            raise error
        out = work()

        def replay() -> None:
            out.copy_(work())

        return out, replay


class FakeCompiler:
    """Keeps the sizes that its compiled steps were called with; fails when told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.sizes: list[int] = []

    def __call__(self, plain: Callable[..., object]) -> Callable[..., object]:
        def compiled(x: torch.Tensor, *more: object) -> object:
            self.sizes.append(len(x))
            if self.error:
                raise self.error
            return plain(x, *more)

        return compiled
