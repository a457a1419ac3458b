"""A request's life in the router: validate, assign, tokenize, plan, cut, send, collect, sort.

Knows nothing of HTTP or Ray: groups are reached through the `GroupClient` protocol, time through a clock
argument.
"""

import asyncio
import math
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from rankfleet.core.config import AUTO, NONE, FleetConfig, Limits, LiveSettings, SloClass
from rankfleet.core.errors import Expired, InvalidRequest, Overloaded, TooLarge, UnknownModel
from rankfleet.core.messages import (
    Chunk,
    ChunkScores,
    Plan,
    RankedDocument,
    Ranking,
    RerankRequest,
    Timing,
    Work,
)
from rankfleet.core.pairs import TokenizedPairs, split_rows
from rankfleet.engine.tokenizer import PairTokenizer
from rankfleet.routing.candidates import Ask, FleetSnapshot, spread
from rankfleet.routing.experiments import assign
from rankfleet.routing.fleet import FleetView
from rankfleet.routing.lengths import Lengths
from rankfleet.routing.planner import Refusal, plan

NO_CLASS = SloClass()
EXPIRED = "the budget ended in the queue"


class GroupClient(Protocol):
    """A replica group, wherever it runs."""

    async def score(self, chunk: Chunk) -> ChunkScores: ...


class RankingService:
    """Ranks requests over a fleet of groups."""

    def __init__(
        self,
        config: FleetConfig,
        tokenizers: Mapping[str, PairTokenizer],
        groups: Mapping[str, GroupClient],
        executor: Executor | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """tokenizers: by tier; tiers that share a vocabulary may share one object. clock: steady seconds."""
        self.config = config
        self.live: LiveSettings = config.live
        self.fleet = FleetView(config)
        self._tokenizers = tokenizers
        self._groups = groups
        self._executor = executor
        self.clock = clock

    async def rank(self, request: RerankRequest, arrived_s: float | None = None) -> Ranking:
        """Rank one request. arrived_s: when it reached the router, by this service's clock.

        Raises InvalidRequest, TooLarge, UnknownModel; Overloaded when nothing fits and the class says refuse.
        """
        arrived_s = self.clock() if arrived_s is None else arrived_s
        check_query(request.query, self.config.limits)
        check_documents(request.documents, self.config.limits)
        assignment = None if request.model in self.config.tiers else assign(self.live.experiments, request)
        target = self._target(request, assignment.model if assignment else None)
        budget_ms = request.slo_ms if request.slo_ms is not None else target.slo.slo_ms

        timing = Timing()
        started_s = self.clock()
        texts = await self._tokenize(request, target.tiers)
        timing.tokenize_ms = (self.clock() - started_s) * 1e3

        lengths = self._lengths(target.tiers, texts)
        ask = Ask(
            work={tier: each.work for tier, each in lengths.items()},
            arrived_s=arrived_s,
            budget_ms=budget_ms,
            pinned=target.pinned,
            when_none_fits=target.slo.when_none_fits,
            lengths=lengths,
        )
        now_s = self.clock()
        self.fleet.arrived(budget_ms, now_s)
        decision = plan(ask, self._snapshot(ask, now_s), now_s)
        if isinstance(decision, Refusal):
            raise Overloaded(f"{decision.reason}; retry later or allow more time", decision.retry_after_s)
        pairs, truncated = self._pairs(decision, texts)
        try:
            logits, answered = await self._score(decision, pairs, ask, timing)
        except Expired as error:
            if target.slo.when_none_fits == "refuse":
                raise Overloaded(f"{EXPIRED}; retry later or allow more time", self._drain_s(decision)) from error
            decision, pairs, truncated = unscored(decision), pairs.take(np.arange(0)), []
            logits, answered = np.empty(0, dtype=np.float32), NONE
        if not np.isfinite(logits).all():
            raise FloatingPointError(f"tier {answered} gave scores that are not finite")
        scored = np.argsort(-logits, kind="stable")
        documents = [RankedDocument(int(i), float(logits[i])) for i in scored]
        documents += [RankedDocument(i, None) for i in range(len(logits), len(request.documents))]
        timing.total_ms = (self.clock() - arrived_s) * 1e3
        return Ranking(
            documents=documents[: request.top_n],
            plan=self._as_answered(decision, answered),
            tokens=pairs.tokens,
            truncated=truncated,
            timing=timing,
            assignment=assignment,
            request_id=uuid.uuid4().hex,
            texts=request.documents,
        )

    def _lengths(self, tiers: tuple[str, ...], texts: "TokenizedTexts") -> dict[str, Lengths]:
        """Of the pairs by tier, worked out once for each vocabulary and limit."""
        known: dict[tuple[int, int | None], Lengths] = {}
        for tier in tiers:
            key = (id(self._tokenizers[tier]), self._limit(tier))
            if key not in known:
                known[key] = Lengths(texts.lengths(self._tokenizers[tier], key[1]))
        return {tier: known[id(self._tokenizers[tier]), self._limit(tier)] for tier in tiers}

    def _snapshot(self, ask: Ask, now_s: float) -> FleetSnapshot:
        """The fleet as it is for this request: what is ahead depends on its deadline and its size."""
        if ask.budget_ms is None:
            return self.fleet.snapshot(now_s)
        models = ((self.fleet.latency(tier), work) for tier, work in ask.work.items())
        least_ms = min((model.mean_ms(work) for model, work in models if model), default=math.inf)
        return self.fleet.snapshot(now_s, ask.arrived_s + ask.budget_ms / 1e3, least_ms)

    def _drain_s(self, decision: Plan) -> float:
        """Until what waits in the plan's group will have been done."""
        return max(0.05, self.fleet.snapshot(self.clock()).groups[self.config.group_of(decision.tier)].backlog_s)

    def _pairs(self, decision: Plan, texts: "TokenizedTexts") -> tuple[TokenizedPairs, list[int]]:
        """The pairs that are scored, and the rows among them whose text had to be cut."""
        if decision.candidates == 0:
            return TokenizedPairs(*(np.empty(0, dtype=np.int32) for _ in range(3))), []
        limits = [n for n in (self._limit(decision.tier), decision.max_tokens) if n is not None]
        pairs, truncated = texts.pairs(self._tokenizers[decision.tier], min(limits, default=None))
        if decision.candidates is None:
            return pairs, truncated
        kept = min(decision.candidates, len(pairs))
        return pairs.take(np.arange(kept)), [row for row in truncated if row < kept]

    def _as_answered(self, decision: Plan, tier: str) -> Plan:
        """The plan, saying which tier it was where that was left open."""
        if tier == decision.tier:
            return decision
        reason = f"{decision.reason}; {tier} was taken for the slack left when its turn came"
        return replace(decision, tier=tier, quality=self.config.tiers[tier].quality, reason=reason)

    def _limit(self, tier: str) -> int | None:
        return self.config.tiers[tier].max_tokens

    def _target(self, request: RerankRequest, arm_model: str | None) -> "Target":
        """Which tiers may answer, and the SLO class that applies. Raises UnknownModel."""
        slo_classes, tiers = self.live.slo_classes, self.config.tiers
        slo = slo_classes.get(self.live.default_slo_class or "", NO_CLASS)
        name, pinned = request.model, "name"
        if name in slo_classes:
            slo, name = slo_classes[name], None
        if arm_model is not None:
            name, pinned = arm_model, "arm"
        elif name is None:
            name, pinned = self.live.default_model, "default"
        if name == AUTO:
            return Target(tuple(tiers), None, slo)
        if name in tiers:
            return Target((name,), pinned, slo)  # type: ignore[arg-type]
        known = [AUTO, *tiers, *slo_classes]
        raise UnknownModel(f"there is no model {name!r}; this fleet has {', '.join(known)}")

    async def _tokenize(self, request: RerankRequest, tiers: tuple[str, ...]) -> "TokenizedTexts":
        """Encode the texts once for each vocabulary, in the executor: a large request takes milliseconds."""
        tokenizers = {id(t): t for t in (self._tokenizers[tier] for tier in tiers)}

        def work() -> TokenizedTexts:
            encoded = {key: t.encode([request.query, *request.documents]) for key, t in tokenizers.items()}
            return TokenizedTexts({key: (ids[0], ids[1:]) for key, ids in encoded.items()})

        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def _score(self, decision: Plan, pairs: TokenizedPairs, ask: Ask, timing: Timing) -> tuple[np.ndarray, str]:
        """Raw logits of all pairs, in order, and the tier that gave them; the work cut into about equal chunks over
        the ready replicas. A request that stays whole may get another tier than planned, of those allowed."""
        logits = np.empty(len(pairs), dtype=np.float32)
        answered = decision.tier
        if len(pairs) == 0:
            return logits, answered
        group = self.config.group_of(decision.tier)
        parts = 1 if decision.allowed else spread(Work.of(pairs.lengths), self.fleet.replicas(group, self.clock()))
        slices = split_rows(pairs.lengths, self.config.groups[group].batch_tokens, parts)
        # The chunk holds one tier's token ids: only tiers with the same vocabulary and limit can take its place.
        allowed = tuple(t for t in decision.allowed if self._encodes_like(t, decision.tier)) if len(slices) == 1 else ()
        models = [m for t in allowed or (decision.tier,) if (m := self.fleet.latency(t)) is not None]
        # A tier asked for by name answers late rather than not at all; so no deadline is held against it.
        on_time = ask.budget_ms is not None and (decision.fits or ask.pinned is None)

        async def send(rows: np.ndarray) -> None:
            nonlocal answered
            part = pairs if len(rows) == len(pairs) else pairs.take(rows)
            sent_s = self.clock()
            slack_ms = ask.budget_ms - (sent_s - ask.arrived_s) * 1e3 if ask.budget_ms and on_time else None
            deadline_s = math.inf if slack_ms is None else sent_s + slack_ms / 1e3
            least_ms = min((model.mean_ms(Work.of(part.lengths)) for model in models), default=0.0)
            ticket = self.fleet.sent(group, least_ms, sent_s, deadline_s)
            try:
                scores = await self._groups[group].score(Chunk(decision.tier, part, slack_ms, allowed))
            finally:
                self.fleet.back(group, ticket, self.clock())
            self.fleet.heard(group, scores.replica, scores.backlog_s, self.clock())
            logits[rows] = scores.logits
            answered = scores.tier
            timing.queue_ms = max(timing.queue_ms, scores.queue_ms)
            timing.infer_ms = max(timing.infer_ms, scores.infer_ms)

        tasks = [asyncio.create_task(send(rows)) for rows in slices]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:  # when one has failed or the client has gone, the others are work for nobody
                task.cancel()
        return logits, answered

    def _encodes_like(self, tier: str, other: str) -> bool:
        return self._tokenizers[tier] is self._tokenizers[other] and self._limit(tier) == self._limit(other)


def unscored(decision: Plan) -> Plan:
    """What is left of a plan when its time has run out before its turn came."""
    how = "the order as given"
    reason = f"{decision.reason}; {EXPIRED}: {how} instead"
    return replace(decision, tier=NONE, quality=0.0, fits=False, reason=reason, candidates=0, degraded=how)


@dataclass(frozen=True)
class Target:
    """tiers: those that may answer; pinned: who has narrowed them down to one, if anybody."""

    tiers: tuple[str, ...]
    pinned: Literal["name", "arm", "default"] | None
    slo: SloClass


@dataclass(frozen=True)
class TokenizedTexts:
    """A request's token ids by vocabulary: id of the tokenizer → (query, documents)."""

    ids: Mapping[int, tuple[np.ndarray, list[np.ndarray]]]

    def lengths(self, tokenizer: PairTokenizer, max_tokens: int | None) -> np.ndarray:
        """Tokens of each pair."""
        return tokenizer.pair_lengths(*self.ids[id(tokenizer)], max_tokens)

    def pairs(self, tokenizer: PairTokenizer, max_tokens: int | None) -> tuple[TokenizedPairs, list[int]]:
        """All pairs, and the rows whose text had to be cut."""
        return tokenizer.pair(*self.ids[id(tokenizer)], max_tokens)


def check_query(query: str, limits: Limits) -> None:
    """Raise InvalidRequest or TooLarge, saying what is allowed."""
    if not query.strip():
        raise InvalidRequest("query is empty; send the text that documents are to be ranked for")
    if len(query) > limits.max_query_bytes or len(query.encode()) > limits.max_query_bytes:
        raise TooLarge(f"query is longer than the {limits.max_query_bytes} bytes allowed")


def check_documents(documents: list[str], limits: Limits) -> None:
    """Raise InvalidRequest or TooLarge, naming the document and what is allowed."""
    if not documents:
        raise InvalidRequest("documents is empty; send at least one document")
    if len(documents) > limits.max_documents:
        raise TooLarge(
            f"{len(documents)} documents are more than the {limits.max_documents} allowed; "
            "send fewer, or split them over several requests"
        )
    most = limits.max_document_bytes
    for i, document in enumerate(documents):
        if len(document) > most or len(document.encode()) > most:
            raise TooLarge(
                f"documents.{i} is longer than the {most} bytes allowed; cut it into passages and rank those"
            )
