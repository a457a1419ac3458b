"""Pairs out to a group's replicas, and their scores back."""

import asyncio
import logging
import math
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Protocol

import numpy as np

from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import Expired, NotHosted, ReplicaLost, Unavailable
from rankfleet.core.messages import Chunk, ChunkScores, Work
from rankfleet.core.pairs import TokenizedPairs, split_rows
from rankfleet.router.fleet import FleetView
from rankfleet.router.plan_options import spread
from rankfleet.router.retry import PATIENCE_S, retry, wait_s

EXPIRED = "the budget ended before a replica answered"
VERSIONS_S = 0.1  # between tries to find a replica of the router's own version

log = logging.getLogger("ray.serve")


class GroupClient(Protocol):
    """A replica group, wherever it runs."""

    async def score(self, chunk: Chunk, predicted_s: float) -> ChunkScores:
        """predicted_s: until an answer is to be expected. Raises ReplicaLost when the replica went away with the
        chunk, and what the replica raises."""
        ...


@dataclass
class DispatchResult:
    """Raw logits of all pairs, float32 [pairs], the tier that gave them, the models that they are of, and the times of
    the slowest chunk."""

    logits: np.ndarray
    tier: str
    models: set[str] = field(default_factory=set)
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
        models: Mapping[str, str] = MappingProxyType({}),
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """within: raises TimeoutError when so many seconds have passed in it; None for no end. models: by tier, as in
        `Chunk`. pause: lets so many seconds pass."""
        self._config = config
        self._fleet = fleet
        self._groups = groups
        self._clock = clock
        self._within = within
        self._models = models
        self._pause = pause
        self._name = uuid.uuid4().hex

    async def score(
        self,
        tier: str,
        pairs: TokenizedPairs,
        deadline_s: float,
        allowed: tuple[str, ...] = (),
        unloaded_tier: str = "",
        late_is_fine: bool = False,
    ) -> DispatchResult:
        """deadline_s: by the clock, infinity for none. allowed: tiers of the same vocabulary and limit, of which the
        replica may choose as the work leaves its queue; such work is not cut. unloaded_tier: as in `Chunk`.
        late_is_fine: what cannot be in time is done all the same, as soon as it can be.

        Raises Expired where the deadline passed first, Unavailable where replicas keep going away, and what the
        replicas raise.
        """
        group = self._config.group_of(tier)
        replicas = 1 if allowed else self._fleet.replicas(group, self._clock())
        scored = await self._spread(tier, pairs, deadline_s, allowed, unloaded_tier, late_is_fine, replicas)
        if len(scored.models) > 1:
            # Replicas of two versions have answered; or of one, on processors that compute in different precisions.
            weights = min(scored.models)
            log.warning(
                "group %s scores with more than one model by the name of %s; asking for %s", group, tier, weights
            )
            scored = await self._spread(tier, pairs, deadline_s, (), unloaded_tier, late_is_fine, replicas, weights)
        return scored

    async def _spread(
        self,
        tier: str,
        pairs: TokenizedPairs,
        deadline_s: float,
        allowed: tuple[str, ...],
        unloaded_tier: str,
        late_is_fine: bool,
        replicas: int,
        weights: str = "",
    ) -> DispatchResult:
        """weights: by which alone, where it matters."""
        scored = DispatchResult(np.empty(len(pairs), dtype=np.float32), tier)
        if len(pairs) == 0:
            return scored
        group = self._config.group_of(tier)
        slices = slices_of(pairs.lengths, self._config.groups[group].batch_tokens, replicas)
        if len(slices) > 1:
            allowed = ()  # one tier has to score all pairs
        request = uuid.uuid4().hex if len(slices) > 1 else None

        async def send(rows: np.ndarray) -> None:
            part = pairs if len(rows) == len(pairs) else pairs.take(rows)
            meant = (*(allowed or (tier,)), unloaded_tier)
            models = {name: self._models[name] for name in meant if name in self._models}
            chunk = Chunk(
                tier, part, None, allowed, request, unloaded_tier=unloaded_tier, sender=self._name, models=models
            )
            chunk = replace(chunk, weights=weights)
            back = await self._send(group, chunk, deadline_s, late_is_fine)
            scored.logits[rows] = back.logits
            scored.tier = back.tier
            scored.models.add(back.model)
            if back.queue_ms + back.infer_ms > scored.queue_ms + scored.infer_ms:
                scored.queue_ms, scored.infer_ms = back.queue_ms, back.infer_ms

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

    async def _send(self, group: str, chunk: Chunk, deadline_s: float, late_is_fine: bool) -> ChunkScores:
        """One chunk, to one replica after the other while they go away and time is left. Where late is fine, a chunk
        that has expired is sent once more without a deadline, to be done in its share of the time."""
        work = Work.of(chunk.pairs.lengths)
        models = [m for t in chunk.tiers or (chunk.tier,) if (m := self._fleet.latency(t)) is not None]
        min_ms = self._fleet.min_ms(dict.fromkeys(chunk.tiers or (chunk.tier,), work), 0.0)
        median_ms = min((model.mean_ms(work) for model in models), default=0.0)
        max_ms = max((model.p99_ms(work) for model in models), default=0.0)
        first_s = self._clock()
        final_s = math.inf if late_is_fine else deadline_s
        losses = 0
        while True:
            sent_s = self._clock()
            slack_ms = None if math.isinf(deadline_s) else (deadline_s - sent_s) * 1e3
            predicted_s = self._fleet.backlog_s(group, sent_s) + max_ms / 1e3
            entry_id = self._fleet.sent(group, min_ms, sent_s, deadline_s)
            try:
                async with self._within(wait_s(sent_s, final_s)):
                    back = await self._groups[group].score(
                        replace(chunk, slack_ms=slack_ms, min_ms=min_ms), predicted_s
                    )
            except TimeoutError as error:
                raise Expired(EXPIRED) from error
            except Expired:
                if not late_is_fine or math.isinf(deadline_s):
                    raise
                deadline_s = math.inf
                continue
            except NotHosted as error:
                # While an update goes on, replicas and routers of two versions stand side by side for a while.
                now_s = self._clock()
                if now_s >= final_s:
                    raise Expired(f"{error}, and none that does answered in time") from error
                if now_s - first_s > PATIENCE_S:
                    raise Unavailable(f"group {group}: {error}, for {PATIENCE_S:.0f} s; is an update stuck?") from error
                await self._pause(VERSIONS_S)
                continue
            except ReplicaLost as lost:
                losses += 1
                self._fleet.lost(group, lost.replica, self._clock())
                verdict = retry(losses, first_s, self._clock(), final_s, median_ms)
                if not verdict.in_time:
                    raise Expired(verdict.reason) from lost
                if not verdict.again:
                    raise Unavailable(f"group {group}: {verdict.reason}; see the replicas' logs, then retry") from lost
                continue
            finally:
                self._fleet.back(group, entry_id, self._clock())
            self._fleet.heard(group, back.replica, back.backlog_s, self._clock(), back.others_s)
            return back
