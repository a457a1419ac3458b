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
from rankfleet.core.messages import Chunk, ChunkScores
from rankfleet.core.pairs import TokenizedPairs, split_rows
from rankfleet.core.work import Work
from rankfleet.router.fleet import FleetView
from rankfleet.router.retry import PATIENCE_S, Deadline, retry
from rankfleet.router.snapshot import spread

EXPIRED = "the budget ended before a replica answered"
UPDATE_RETRY_S = 0.1  # between tries to find a replica that hosts the router's version of a model

log = logging.getLogger("ray.serve")


class GroupClient(Protocol):
    """A replica group, wherever it runs."""

    async def score(self, chunk: Chunk, predicted_s: float) -> ChunkScores:
        """Score a chunk on one replica. predicted_s: how long the answer is predicted to take.

        Raises ReplicaLost if the replica went away with the chunk, and whatever the replica raises.
        """
        ...


@dataclass
class Scores:
    """The scores of some pairs.

    logits: float32 [pairs], raw. tier: the tier that scored them. models: fingerprints of the weights they came from.
    queue_ms, infer_ms: of the slowest chunk.
    """

    logits: np.ndarray
    tier: str
    models: set[str] = field(default_factory=set)
    queue_ms: float = 0.0
    infer_ms: float = 0.0


def slices_of(lengths: np.ndarray, batch_tokens: int, replicas: int) -> list[np.ndarray]:
    """The rows of each chunk. lengths: int [pairs], tokens.

    Every replica gets the same number of chunks, so that none works on while the others are done; fewer replicas are
    used where a chunk would be too small to be worth its transfer.
    """
    work = Work.of(lengths)
    parts = spread(work, replicas)
    rounds = -(-work.tokens // (parts * batch_tokens))
    return split_rows(lengths, batch_tokens, parts * rounds)


class Dispatcher:
    """Cuts work into chunks of about equal tokens, sends them, and sends again what was lost with its replica. Records
    in the fleet view what is in flight."""

    def __init__(
        self,
        config: FleetConfig,
        fleet: FleetView,
        groups: Mapping[str, GroupClient],
        clock: Callable[[], float],
        timeout: Callable[[float | None], AbstractAsyncContextManager[object]] = asyncio.timeout,
        models: Mapping[str, str] = MappingProxyType({}),
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """models: by tier, as in `Chunk`. timeout, sleep: those of asyncio, or stand-ins."""
        self._config = config
        self._fleet = fleet
        self._groups = groups
        self._clock = clock
        self._timeout = timeout
        self._models = models
        self._sleep = sleep
        self._sender = uuid.uuid4().hex

    async def score(
        self,
        tiers: tuple[str, ...],
        pairs: TokenizedPairs,
        deadline: Deadline = Deadline(),  # noqa: B008  (frozen)
        unloaded_tier: str | None = None,
    ) -> Scores:
        """Score all pairs with one of `tiers`, the planned one first.

        With several tiers the replica selects one when the work leaves its queue; such work is not cut. They have to
        share vocabulary and length limit. unloaded_tier: as in `Chunk`.

        Raises Expired if the deadline passed first, Unavailable if replicas keep going away, and whatever the
        replicas raise.
        """
        group = self._config.group_of(tiers[0])
        replicas = self._fleet.replicas(group, self._clock()) if len(tiers) == 1 else 1
        scores = await self._scatter(tiers, pairs, deadline, unloaded_tier, replicas)
        if len(scores.models) > 1:
            # Replicas of two versions have answered; or of one, on processors that compute in different precisions.
            weights = min(scores.models)
            log.warning(
                "group %s scores with more than one model by the name of %s; asking for %s", group, tiers[0], weights
            )
            scores = await self._scatter(tiers[:1], pairs, deadline, unloaded_tier, replicas, weights)
        return scores

    async def _scatter(
        self,
        tiers: tuple[str, ...],
        pairs: TokenizedPairs,
        deadline: Deadline,
        unloaded_tier: str | None,
        replicas: int,
        weights: str | None = None,
    ) -> Scores:
        """Cut into chunks, send them all, and gather their scores. weights: as in `Chunk`."""
        scores = Scores(np.empty(len(pairs), dtype=np.float32), tiers[0])
        if len(pairs) == 0:
            return scores
        group = self._config.group_of(tiers[0])
        slices = slices_of(pairs.lengths, self._config.groups[group].batch_tokens, replicas)
        cut = len(slices) > 1
        named = tiers if unloaded_tier is None else (*tiers, unloaded_tier)
        chunk = Chunk(
            tiers[:1] if cut else tiers,  # one tier has to score all pairs
            pairs,
            request=uuid.uuid4().hex if cut else None,
            unloaded_tier=unloaded_tier,
            sender=self._sender,
            models={tier: self._models[tier] for tier in named if tier in self._models},
            weights=weights,
        )

        async def send(rows: np.ndarray) -> None:
            part = replace(chunk, pairs=pairs.take(rows)) if cut else chunk
            back = await self._send(group, part, deadline)
            scores.logits[rows] = back.logits
            scores.tier = back.tier
            scores.models.add(back.model)
            if back.queue_ms + back.infer_ms > scores.queue_ms + scores.infer_ms:
                scores.queue_ms, scores.infer_ms = back.queue_ms, back.infer_ms

        if not cut:
            await send(slices[0])
            return scores
        tasks = [asyncio.create_task(send(rows)) for rows in slices]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:  # if one has failed or the client has gone, nobody needs the others
                task.cancel()
        return scores

    async def _send(self, group: str, chunk: Chunk, deadline: Deadline) -> ChunkScores:
        """Send one chunk to one replica after the other, while they go away and time is left."""
        work = Work.of(chunk.pairs.lengths)
        models = [model for tier in chunk.tiers if (model := self._fleet.latency(tier)) is not None]
        min_ms = self._fleet.min_ms(dict.fromkeys(chunk.tiers, work), 0.0)
        mean_ms = min((model.mean_ms(work) for model in models), default=0.0)
        p99_ms = max((model.p99_ms(work) for model in models), default=0.0)
        first_s = self._clock()
        at_s = deadline.at_s
        losses = 0
        while True:
            sent_s = self._clock()
            slack_ms = None if math.isinf(at_s) else (at_s - sent_s) * 1e3
            predicted_s = self._fleet.backlog_s(group, sent_s) + p99_ms / 1e3
            entry_id = self._fleet.chunk_sent(group, min_ms, sent_s, at_s)
            try:
                async with self._timeout(deadline.wait_s(sent_s)):
                    back = await self._groups[group].score(
                        replace(chunk, slack_ms=slack_ms, min_ms=min_ms), predicted_s
                    )
            except TimeoutError as error:
                raise Expired(EXPIRED) from error
            except Expired:
                if not deadline.late_is_fine or math.isinf(at_s):
                    raise
                at_s = math.inf
                continue
            except NotHosted as error:
                # During an update, replicas and routers of two versions run side by side.
                now_s = self._clock()
                if now_s >= deadline.last_try_s:
                    raise Expired(f"{error}, and none that does answered in time") from error
                if now_s - first_s > PATIENCE_S:
                    raise Unavailable(f"group {group}: {error}, for {PATIENCE_S:.0f} s; is an update stuck?") from error
                await self._sleep(min(UPDATE_RETRY_S, deadline.last_try_s - now_s))
                continue
            except ReplicaLost as lost:
                losses += 1
                self._fleet.replica_lost(group, lost.replica, self._clock())
                verdict = retry(losses, first_s, self._clock(), deadline.last_try_s, mean_ms)
                if not verdict.in_time:
                    raise Expired(verdict.reason) from lost
                if not verdict.again:
                    raise Unavailable(f"group {group}: {verdict.reason}; see the replicas' logs, then retry") from lost
                continue
            finally:
                self._fleet.chunk_done(group, entry_id, self._clock())
            self._fleet.replica_reported(group, back.replica, back.backlog_s, self._clock(), back.others_s)
            return back
