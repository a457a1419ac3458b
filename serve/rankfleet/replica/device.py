"""The device of a replica: scores one batch at a time in a thread of its own."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor

import numpy as np

from rankfleet.core.messages import Chunk
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.replica.hosting import HostedModel

# Eight pairs of 64 tokens, all of id 0, which every vocabulary has: any healthy model can score them.
PROBE_PAIRS = TokenizedPairs(np.zeros(512, np.int32), np.full(8, 64, np.int32), np.full(8, 8, np.int32))

# Scores chunks as one batch: logits of each chunk, and the seconds that it took. Raises what scoring raises.
ScoreBatch = Callable[[HostedModel, Sequence[Chunk]], Awaitable[tuple[list[np.ndarray], float]]]


def executor_scorer(executor: Executor, clock: Callable[[], float]) -> ScoreBatch:
    """Scores in `executor`, which has one thread.

    The seconds are without the wait for the thread, which may be measuring a new model.
    """

    def timed(model: HostedModel, chunks: Sequence[Chunk]) -> tuple[list[np.ndarray], float]:
        started_s = clock()
        return model.score_chunks(chunks), clock() - started_s

    async def score(model: HostedModel, chunks: Sequence[Chunk]) -> tuple[list[np.ndarray], float]:
        return await asyncio.get_running_loop().run_in_executor(executor, timed, model, chunks)

    return score
