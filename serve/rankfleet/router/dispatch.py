"""Pairs out to a group's replicas, and their scores back."""

import asyncio
import itertools
import logging
import math
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Protocol

import numpy as np

from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import Expired, NotHosted, RankfleetError, ReplicaLost, ScoringFailed, Unavailable
from rankfleet.core.messages import Chunk, ChunkScores
from rankfleet.core.pairs import TokenizedPairs, split_rows
from rankfleet.core.quiet import quietly
from rankfleet.core.work import Work
from rankfleet.estimates.frontier import Frontier
from rankfleet.router.fleet import FleetView
from rankfleet.router.replica_record import Entry
from rankfleet.router.retry import Attempts, Deadline
from rankfleet.router.snapshot import spread

# Chunks of one request that are on the way to each replica, or wait there. One takes a millisecond of both event loops:
# with hundreds at once, those of others would come behind all.
ON_THE_WAY = 8
WATCH_PERIOD_S = 0.5  # how often chunks in flight are checked for replicas that have fallen silent

log = logging.getLogger("ray.serve")


class GroupClient(Protocol):
    """A replica group, wherever it runs."""

    async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
        """Score a chunk on the replica that the group's ledger chooses for `entry`.

        Raises ReplicaLost if the replica went away with the chunk, Unavailable if the group cannot get one, and
        whatever the replica raises.
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


def slices_of(lengths: np.ndarray, work: Work, batch_tokens: int, replicas: int) -> list[np.ndarray]:
    """The rows of each chunk. lengths: int [pairs], tokens. work: their size.

    Every replica gets the same number of chunks, so that none works on while the others are done; fewer replicas are
    used where a chunk would be too small to be worth its transfer.
    """
    parts = spread(work, replicas)
    rounds = -(-work.tokens // (parts * batch_tokens))
    return split_rows(lengths, batch_tokens, parts * rounds)


class Dispatcher:
    """Cuts work into chunks of about equal tokens, sends them, and sends again what a replica refuses, loses or fails.
    Keeps the groups' ledgers."""

    def __init__(
        self,
        config: FleetConfig,
        fleet: FleetView,
        groups: Mapping[str, GroupClient],
        clock: Callable[[], float],
        models: Mapping[str, str] = MappingProxyType({}),
        on_lost: Callable[[str], None] = lambda group: None,
        blocked_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """models: by tier, as in `Chunk`. on_lost: called with the group's name for each chunk lost with a replica.

        blocked_s: for how many seconds so far large bodies and replies have blocked this process. They say nothing
        about the next chunk: what one client sends would make the router refuse the budgets of others long after.
        """
        self._config = config
        self._fleet = fleet
        self._groups = groups
        self._clock = clock
        self._models = models
        self._on_lost = quietly(on_lost)
        self._blocked_s = blocked_s
        self._sender = uuid.uuid4().hex
        self._numbers = itertools.count()
        self._timeouts: dict[Entry, asyncio.Timeout] = {}
        self._watching: asyncio.Task[None] | None = None

    async def score(
        self,
        tiers: tuple[str, ...],
        pairs: TokenizedPairs,
        deadline: Deadline = Deadline(),  # noqa: B008  (frozen)
        unloaded_tier: str | None = None,
        over_share: bool = False,
        tenant: str | None = None,
    ) -> Scores:
        """Score all pairs with one of `tiers`, the planned one first.

        With several tiers the replica selects one when the work leaves its queue; such work is not cut. They have to
        share vocabulary and length limit. unloaded_tier, over_share, tenant: as in `Chunk`.

        Raises Expired if the deadline passed first, Unavailable if replicas keep going away, and whatever the
        replicas raise.
        """
        group = self._config.group_of(tiers[0])
        replicas = self._fleet.replicas(group, self._clock()) if len(tiers) == 1 else 1
        with self._fleet.transfers.request():
            scores = await self._scatter(tiers, pairs, deadline, unloaded_tier, replicas, over_share, tenant)
            if len(scores.models) > 1:
                # Replicas of two versions have answered. Those of one version agree on a precision.
                weights = min(scores.models)
                log.warning("group %s has several models by the name of %s; asking for %s", group, tiers[0], weights)
                tiers = tiers[:1]
                scores = await self._scatter(
                    tiers, pairs, deadline, unloaded_tier, replicas, over_share, tenant, weights
                )
        return scores

    async def _scatter(
        self,
        tiers: tuple[str, ...],
        pairs: TokenizedPairs,
        deadline: Deadline,
        unloaded_tier: str | None,
        replicas: int,
        over_share: bool,
        tenant: str | None,
        weights: str | None = None,
    ) -> Scores:
        """Cut into chunks for so many replicas, send them, and gather their scores. weights: as in `Chunk`."""
        scores = Scores(np.empty(len(pairs), dtype=np.float32), tiers[0])
        if len(pairs) == 0:
            return scores
        group = self._config.group_of(tiers[0])
        slices = slices_of(pairs.lengths, pairs.work, self._config.groups[group].batch_tokens, replicas)
        cut = len(slices) > 1
        named = tiers if unloaded_tier is None else (*tiers, unloaded_tier)
        chunk = Chunk(
            tiers[:1] if cut else tiers,  # one tier has to score all pairs
            pairs,
            request=f"{self._sender}-{next(self._numbers)}" if cut else None,
            unloaded_tier=unloaded_tier,
            models={tier: self._models[tier] for tier in named if tier in self._models},
            weights=weights,
            over_share=over_share,
            default_slo_ms=self._config.default_slo_ms,
            tenant=tenant,
        )

        def keep(rows: np.ndarray, back: ChunkScores) -> None:
            scores.logits[rows] = back.logits
            scores.tier = back.tier
            scores.models.add(back.model)
            if back.queue_ms + back.infer_ms > scores.queue_ms + scores.infer_ms:
                scores.queue_ms, scores.infer_ms = back.queue_ms, back.infer_ms

        if not cut:
            keep(slices[0], await self._send(group, chunk, deadline))
            return scores
        turns = asyncio.Semaphore(ON_THE_WAY * self._fleet.replicas(group, self._clock()))
        each_ms = predicted_ms(self._fleet.frontier(chunk.tiers, pairs.work)) / len(slices)  # they are about equal

        async def send(rows: np.ndarray) -> None:
            waiting = Entry(each_ms, deadline.at_s, math.inf, over_share=over_share)
            async with self._turn(turns, group, waiting):
                part = replace(chunk, pairs=pairs.take(rows))  # only now: to copy all at once would hold others up
                keep(rows, await self._send(group, part, deadline))

        tasks = [asyncio.create_task(send(rows)) for rows in slices]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:  # if one has failed or the client has gone, nobody needs the others
                task.cancel()
        return scores

    @asynccontextmanager
    async def _turn(self, turns: asyncio.Semaphore, group: str, waiting: Entry) -> AsyncIterator[None]:
        """Wait until a chunk may be sent. Meanwhile its time counts as the group's, at no replica."""
        ledger = self._fleet.ledgers[group]
        ledger.open(waiting, self._clock())
        try:
            await turns.acquire()
        finally:
            ledger.close(waiting, self._clock())
        try:
            yield
        finally:
            turns.release()

    async def _send(self, group: str, chunk: Chunk, deadline: Deadline) -> ChunkScores:
        """Send one chunk to one replica after the other, while they fail and time is left."""
        ledger = self._fleet.ledgers[group]
        work = chunk.pairs.work
        models = [model for tier in chunk.tiers if (model := self._fleet.latency(tier)) is not None]
        p99_ms = max((model.p99_ms(work) for model in models), default=0.0)
        min_ms = min((model.mean_ms(work) for model in models), default=0.0)
        usable = usable_models(chunk)
        frontier = self._fleet.frontier(chunk.tiers, work)
        attempts = Attempts(group, deadline, self._clock(), min_ms)
        while True:
            now_s = self._clock()
            entry = Entry(predicted_ms(frontier), attempts.at_s, now_s, frontier, p99_ms / 1e3, usable, attempts.tried)
            entry.over_share, entry.tokens = chunk.over_share, work.tokens
            try:
                # With a later deadline it must not expire with its siblings, which may still wait with theirs.
                request = chunk.request if attempts.at_s == deadline.at_s else None
                slack_ms = attempts.slack_ms(now_s, self._fleet.beside_ms(now_s, self._others))
                part = replace(chunk, slack_ms=slack_ms, request=request)
                back = await self._ask(group, part, entry, deadline)
            except RankfleetError as error:
                now_s = self._clock()
                if isinstance(error, ReplicaLost):
                    log.warning("group %s lost a chunk: %s", group, error)
                    self._on_lost(group)
                    ledger.eject(entry.replica, now_s)
                has_other = ledger.has_other(usable, {*attempts.tried, entry.replica})
                if (pause_s := attempts.after(error, entry.replica, has_other, now_s)) > 0:
                    await asyncio.sleep(pause_s)
                continue
            if attempts.failed:
                ledger.eject(attempts.failed, self._clock())
            return back

    async def _ask(self, group: str, chunk: Chunk, entry: Entry, deadline: Deadline) -> ChunkScores:
        """The answer of one replica. Raises Expired if it does not come in time, ReplicaLost if the replica is silent
        or gone, and what the replica raises."""
        ledger, others, blocked_s = self._fleet.ledgers[group], self._others, self._blocked_s()
        ledger.open(entry, entry.sent_s)
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())
        withdrawn = True
        try:
            async with asyncio.timeout(deadline.wait_s(entry.sent_s)) as self._timeouts[entry]:
                back = await self._groups[group].score(chunk, entry)
            withdrawn = False
        except (Expired, NotHosted, ScoringFailed):
            withdrawn = False
            ledger.heard(entry.replica, self._clock())
            raise
        except Unavailable:
            ledger.no_replica_comes()
            raise
        except TimeoutError as error:
            if not entry.given_up:
                raise Expired("the budget ended before a replica answered") from error
            if not entry.replica:
                raise Unavailable(f"group {group} {entry.given_up}") from error
            raise ReplicaLost(f"{entry.replica} of group {group} fell silent") from error
        finally:
            del self._timeouts[entry]
            ledger.close(entry, self._clock(), withdrawn)
        now_s = self._clock()
        ledger.answered(back.replica, back.backlog_s, now_s, back.ahead_s)
        if not chunk.over_share:  # whose many pieces hold one another up, and nobody else's chunk
            away_s = now_s - entry.sent_s - (self._blocked_s() - blocked_s)
            beside_ms = away_s * 1e3 - back.queue_ms - back.infer_ms
            self._fleet.transfers.took(beside_ms, max(others, self._others), entry.sent_s, now_s)
        return back

    @property
    def _others(self) -> int:
        """Requests on the way beside the one whose chunk is being sent or has come back."""
        return self._fleet.transfers.requests - 1

    async def _watch(self) -> None:
        """While chunks are in flight, end the wait for those whose replica has fallen silent."""
        woken_s = self._clock()
        while self._timeouts:
            await asyncio.sleep(WATCH_PERIOD_S)
            now_s = self._clock()
            stalled = now_s - woken_s > 2 * WATCH_PERIOD_S
            woken_s = now_s
            for ledger in self._fleet.ledgers.values():
                if stalled:
                    ledger.resumed(now_s)
                for entry in ledger.silent(now_s):
                    timeout = self._timeouts.get(entry)  # None if it was sent for another version of the fleet
                    if timeout is not None and not timeout.expired():
                        timeout.reschedule(-math.inf)


def predicted_ms(frontier: Frontier | None) -> float:
    """Device time of a chunk, as its replica's queue counts it; 0 if no tier is measured."""
    return frontier.points[0].amortized_ms if frontier is not None else 0.0


def usable_models(chunk: Chunk) -> tuple[str, ...]:
    """Fingerprints of which a replica has to host at least one to score this chunk; empty for any replica."""
    if chunk.weights is not None:
        return (chunk.weights,)
    return tuple(chunk.models[tier] for tier in chunk.tiers if tier in chunk.models)
