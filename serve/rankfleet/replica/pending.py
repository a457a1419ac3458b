"""What was submitted to a replica: a chunk until it leaves, the part of it that is scored next, and a batch of such
parts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rankfleet.core.messages import Chunk
from rankfleet.core.work import Work
from rankfleet.replica.batching import QueuedChunk
from rankfleet.replica.hosting import HostedModel


@dataclass(slots=True, eq=False)
class PendingChunk:
    """A chunk that was submitted.

    queued_s: when that was
    unloaded_ms: mean device time at the tier of its unloaded plan; load is measured by this one
    latest_start_s: when the device must start at the latest for it to be in time
    first_entry_id, entry_id: in the queue, of the whole and of what is left of it
    infer_ms: of the parts that are scored
    logits: float32 [pairs], of which those of the scored parts are filled; None until a part is taken
    has_left: whether it was scored, has failed, has expired or was cancelled
    """

    chunk: Chunk
    queued_s: float
    unloaded_ms: float
    latest_start_s: float = math.inf
    first_entry_id: int = -1
    entry_id: int = -1
    infer_ms: float = 0.0
    logits: np.ndarray | None = None
    has_left: bool = False

    def deadline_at(self, now_s: float) -> float:
        """The deadline of a chunk with the same slack that came now; infinity if it has none."""
        slack_ms = self.chunk.slack_ms
        return math.inf if slack_ms is None else now_s + slack_ms / 1e3


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Some pairs of a chunk, or all.

    work: their size
    rows: int [n], which; None for all
    is_last: whether the others were taken before
    """

    pending: PendingChunk
    work: Work
    rows: np.ndarray | None = None
    is_last: bool = True

    @property
    def chunk(self) -> Chunk:
        """The chunk with these pairs only."""
        whole = self.pending.chunk
        return whole if self.rows is None else replace(whole, pairs=whole.pairs.take(self.rows))


Queued = QueuedChunk[Part]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What is on the device. predicted_ms: 99th percentile of its time."""

    fingerprint: str
    model: HostedModel
    queued: Sequence[Queued]
    predicted_ms: float
    started_s: float

    @property
    def chunks(self) -> list[Chunk]:
        """What is to be scored."""
        return [queued.item.chunk for queued in self.queued]  # a copy of the pairs for each part

    @property
    def tokens(self) -> int:
        """Of all its pairs."""
        return sum(queued.tokens for queued in self.queued)
