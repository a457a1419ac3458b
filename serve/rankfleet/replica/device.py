"""The device of a replica: scores one batch at a time in a thread of its own, and knows how long it has been at it."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from rankfleet.core.messages import Chunk
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.replica.hosting import HostedModel

# A batch that takes longer than both STUCK_S and STUCK_FACTOR times its prediction will not come back.
STUCK_S = 30.0
STUCK_FACTOR = 20.0
# Eight pairs of 64 tokens, all of id 0, which every vocabulary has: any healthy model can score them.
PROBE_PAIRS = TokenizedPairs(np.zeros(512, np.int32), np.full(8, 64, np.int32), np.full(8, 8, np.int32))


@dataclass(frozen=True)
class RunningBatch:
    """The batch on the device. fingerprints: the models that must stay hosted until it is answered."""

    started_s: float
    predicted_ms: float
    fingerprints: frozenset[str]


class Device:
    """One device. Called on one event loop; only scoring runs in `executor`, which has one thread."""

    def __init__(self, executor: Executor, clock: Callable[[], float]) -> None:
        self._executor = executor
        self._clock = clock
        self.running: RunningBatch | None = None
        self.ended_s = clock()  # when the last batch ended; before the first, when the device was ready

    @contextmanager
    def occupied(self, predicted_ms: float, fingerprints: frozenset[str]) -> Iterator[None]:
        """A batch is on the device for as long as this lasts."""
        self.running = RunningBatch(self._clock(), predicted_ms, fingerprints)
        try:
            yield
        finally:
            self.running = None
            self.ended_s = self._clock()

    async def score(self, model: HostedModel, chunks: Sequence[Chunk]) -> tuple[list[np.ndarray], float]:
        """Logits of each chunk, and the seconds that scoring took. Raises what scoring raises.

        The seconds are without the wait for the thread, which may be measuring a new model.
        """
        return await asyncio.get_running_loop().run_in_executor(self._executor, timed, model, chunks, self._clock)

    async def probe(self, model: HostedModel) -> None:
        """Score PROBE_PAIRS. Raises what scoring raises."""
        await asyncio.get_running_loop().run_in_executor(self._executor, model.score, PROBE_PAIRS)

    @property
    def left_ms(self) -> float:
        """Predicted milliseconds until the batch on the device is done; 0 if there is none."""
        if self.running is None:
            return 0.0
        return max(0.0, self.running.predicted_ms - (self._clock() - self.running.started_s) * 1e3)

    @property
    def stuck(self) -> bool:
        """Whether the batch on the device has taken so long that it will not come back."""
        if self.running is None:
            return False
        max_s = max(STUCK_S, STUCK_FACTOR * self.running.predicted_ms / 1e3)
        return self._clock() - self.running.started_s > max_s


def timed(model: HostedModel, chunks: Sequence[Chunk], clock: Callable[[], float]) -> tuple[list[np.ndarray], float]:
    """Logits of each chunk, and the seconds that scoring took. Runs in the executor."""
    started_s = clock()
    return model.score_chunks(chunks), clock() - started_s
