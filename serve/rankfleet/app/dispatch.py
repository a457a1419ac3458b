"""Pairs out to a group's replicas, and their scores back."""

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rankfleet.core.config import FleetConfig
from rankfleet.core.messages import Chunk, ChunkScores, Work
from rankfleet.core.pairs import TokenizedPairs, split_rows
from rankfleet.routing.candidates import spread
from rankfleet.routing.fleet import FleetView


class GroupClient(Protocol):
    """A replica group, wherever it runs."""

    async def score(self, chunk: Chunk) -> ChunkScores: ...


@dataclass
class Scored:
    """Raw logits of all pairs, float32 [pairs], the tier that gave them, and the times of the slowest chunk."""

    logits: np.ndarray
    tier: str
    queue_ms: float = 0.0
    infer_ms: float = 0.0


class Dispatcher:
    """Cuts work into chunks of about equal tokens, one for each ready replica, and keeps the fleet view's books."""

    def __init__(
        self, config: FleetConfig, fleet: FleetView, groups: Mapping[str, GroupClient], clock: Callable[[], float]
    ) -> None:
        self._config = config
        self._fleet = fleet
        self._groups = groups
        self._clock = clock

    async def score(
        self,
        tier: str,
        pairs: TokenizedPairs,
        deadline_s: float,
        allowed: tuple[str, ...] = (),
        preferred: str = "",
    ) -> Scored:
        """deadline_s: by the clock, infinity for none. allowed: tiers of the same vocabulary and limit, of which the
        replica may choose as the work leaves its queue; such work is not cut. preferred: as in `Chunk`.

        Raises what the replicas raise: Expired where the deadline passed in the queue, Unavailable.
        """
        scored = Scored(np.empty(len(pairs), dtype=np.float32), tier)
        if len(pairs) == 0:
            return scored
        group = self._config.group_of(tier)
        parts = 1 if allowed else spread(Work.of(pairs.lengths), self._fleet.replicas(group, self._clock()))
        slices = split_rows(pairs.lengths, self._config.groups[group].batch_tokens, parts)
        if len(slices) > 1:
            allowed = ()  # one tier has to score all pairs
        models = [m for t in allowed or (tier,) if (m := self._fleet.latency(t)) is not None]

        async def send(rows: np.ndarray) -> None:
            part = pairs if len(rows) == len(pairs) else pairs.take(rows)
            sent_s = self._clock()
            slack_ms = None if math.isinf(deadline_s) else (deadline_s - sent_s) * 1e3
            least_ms = min((model.mean_ms(Work.of(part.lengths)) for model in models), default=0.0)
            ticket = self._fleet.sent(group, least_ms, sent_s, deadline_s)
            try:
                back = await self._groups[group].score(Chunk(tier, part, slack_ms, allowed, preferred))
            finally:
                self._fleet.back(group, ticket, self._clock())
            self._fleet.heard(group, back.replica, back.backlog_s, self._clock())
            scored.logits[rows] = back.logits
            scored.tier = back.tier
            scored.queue_ms = max(scored.queue_ms, back.queue_ms)
            scored.infer_ms = max(scored.infer_ms, back.infer_ms)

        tasks = [asyncio.create_task(send(rows)) for rows in slices]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:  # when one has failed or the client has gone, the others are work for nobody
                task.cancel()
        return scored
