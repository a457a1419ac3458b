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
