"""Pairs out to a group's replicas, and their scores back."""

import asyncio
import itertools
import math
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import Expired, ReplicaLost, Unavailable
from rankfleet.core.messages import Chunk, ChunkScores, Work
from rankfleet.core.pairs import TokenizedPairs, split_rows
from rankfleet.routing.candidates import spread
from rankfleet.routing.fleet import FleetView
from rankfleet.scheduling.retry import retry, wait_s

EXPIRED = "the budget ended before a replica answered"


class GroupClient(Protocol):
    """A replica group, wherever it runs."""

    async def score(self, chunk: Chunk, predicted_s: float) -> ChunkScores:
        """predicted_s: until an answer is to be expected. Raises ReplicaLost when the replica went away with the
        chunk, and what the replica raises."""
        ...


@dataclass
class Scored:
    """Raw logits of all pairs, float32 [pairs], the tier that gave them, and the times of the slowest chunk."""

    logits: np.ndarray
    tier: str
    queue_ms: float = 0.0
    infer_ms: float = 0.0


def slices_of(lengths: np.ndarray, batch_tokens: int, replicas: int) -> list[np.ndarray]:
    """Rows of each chunk: as many for each of `replicas`, so that none works on while the others are done. Fewer
    where a chunk would be too small to be worth its transfer."""
    work = Work.of(lengths)
    parts = spread(work, replicas)
    rounds = -(-work.tokens // (parts * batch_tokens))
    return split_rows(lengths, batch_tokens, parts * rounds)


class Dispatcher:
    """Cuts work into chunks of about equal tokens, one for each ready replica, sends again what was lost with its
    replica, and keeps the fleet view's books."""

    def __init__(
        self,
        config: FleetConfig,
        fleet: FleetView,
        groups: Mapping[str, GroupClient],
        clock: Callable[[], float],
        within: Callable[[float | None], AbstractAsyncContextManager[object]] = asyncio.timeout,
    ) -> None:
        """within: raises TimeoutError when so many seconds have passed in it; None for no end."""
        self._config = config
        self._fleet = fleet
        self._groups = groups
        self._clock = clock
        self._within = within
        self._name = uuid.uuid4().hex

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

        Raises Expired where the deadline passed first, Unavailable where replicas keep going away, and what the
        replicas raise.
        """
        scored = Scored(np.empty(len(pairs), dtype=np.float32), tier)
        if len(pairs) == 0:
            return scored
        group = self._config.group_of(tier)
        replicas = 1 if allowed else self._fleet.replicas(group, self._clock())
        slices = slices_of(pairs.lengths, self._config.groups[group].batch_tokens, replicas)
        if len(slices) > 1:
            allowed = ()  # one tier has to score all pairs
        request = uuid.uuid4().hex if len(slices) > 1 else None

        async def send(rows: np.ndarray) -> None:
            part = pairs if len(rows) == len(pairs) else pairs.take(rows)
            chunk = Chunk(tier, part, None, allowed, request, preferred=preferred, sender=self._name)
            back = await self._send(group, chunk, deadline_s)
            scored.logits[rows] = back.logits
            scored.tier = back.tier
            scored.queue_ms = max(scored.queue_ms, back.queue_ms)
            scored.infer_ms = max(scored.infer_ms, back.infer_ms)

        if len(slices) == 1:
            await send(slices[0])
            return scored
        tasks = [asyncio.create_task(send(rows)) for rows in slices]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:  # when one has failed or the client has gone, the others are work for nobody
                task.cancel()
        return scored

    async def _send(self, group: str, chunk: Chunk, deadline_s: float) -> ChunkScores:
        """One chunk, to one replica after the other while they go away and time is left."""
        work = Work.of(chunk.pairs.lengths)
        models = [m for t in chunk.tiers or (chunk.tier,) if (m := self._fleet.latency(t)) is not None]
        least_ms = self._fleet.least_ms(dict.fromkeys(chunk.tiers or (chunk.tier,), work), 0.0)
        usual_ms = min((model.mean_ms(work) for model in models), default=0.0)
        most_ms = max((model.p99_ms(work) for model in models), default=0.0)
        first_s = self._clock()
        for attempts in itertools.count(1):
            sent_s = self._clock()
            slack_ms = None if math.isinf(deadline_s) else (deadline_s - sent_s) * 1e3
            predicted_s = self._fleet.backlog_s(group, sent_s) + most_ms / 1e3
            ticket = self._fleet.sent(group, least_ms, sent_s, deadline_s)
            try:
                async with self._within(wait_s(sent_s, deadline_s)):
                    back = await self._groups[group].score(
                        replace(chunk, slack_ms=slack_ms, least_ms=least_ms), predicted_s
                    )
            except TimeoutError as error:
                raise Expired(EXPIRED) from error
            except ReplicaLost as lost:
                self._fleet.lost(group, lost.replica)
                verdict = retry(attempts, first_s, self._clock(), deadline_s, usual_ms)
                if not verdict.in_time:
                    raise Expired(verdict.reason) from lost
                if not verdict.again:
                    raise Unavailable(f"group {group}: {verdict.reason}; see the replicas' logs, then retry") from lost
                continue
            finally:
                self._fleet.back(group, ticket, self._clock())
            self._fleet.heard(group, back.replica, back.backlog_s, self._clock(), back.others_s)
            return back
        raise AssertionError
