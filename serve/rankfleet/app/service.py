"""A request's life in the router: validate, assign, tokenize, plan, cut, send, collect, sort.

Knows nothing of HTTP or Ray: groups are reached through the `GroupClient` protocol, time through a clock
argument.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Protocol

import numpy as np

from rankfleet.core.config import AUTO, FleetConfig, LiveSettings, SloClass
from rankfleet.core.errors import InvalidRequest, Overloaded, TooLarge, UnknownModel
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
from rankfleet.routing.experiments import assign
from rankfleet.routing.fleet import FleetView
from rankfleet.routing.planner import Ask, Refusal, plan

MIN_CHUNK_TOKENS = 2048  # below this a second replica costs more in transfer than it saves in scoring
NO_CLASS = SloClass()


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
        check_limits(request, self.config)
        assignment = assign(self.live.experiments, request) if request.model in (None, AUTO) else None
        pinned, slo = self._target(request, assignment.model if assignment else None)
        budget_ms = request.slo_ms if request.slo_ms is not None else slo.slo_ms

        timing = Timing()
        started_s = self.clock()
        work_tier = pinned or next(iter(self.config.tiers))
        pairs, truncated = await self._tokenize(work_tier, request)
        timing.tokenize_ms = (self.clock() - started_s) * 1e3

        ask = Ask(Work.of(pairs.lengths), arrived_s, budget_ms, pinned, slo.when_none_fits)
        now_s = self.clock()
        decision = plan(ask, self.fleet.snapshot(now_s), now_s)
        if isinstance(decision, Refusal):
            raise Overloaded(f"{decision.reason}; retry later or allow more time", decision.retry_after_s)
        if self._reads_otherwise(decision.tier, work_tier):
            pairs, truncated = await self._tokenize(decision.tier, request)

        logits = await self._score(decision, pairs, ask, timing)
        if not np.isfinite(logits).all():
            raise FloatingPointError(f"tier {decision.tier} gave scores that are not finite")
        order = np.argsort(-logits, kind="stable")[: request.top_n]
        timing.total_ms = (self.clock() - arrived_s) * 1e3
        return Ranking(
            documents=[RankedDocument(int(i), float(logits[i])) for i in order],
            plan=decision,
            tokens=pairs.tokens,
            truncated=truncated,
            timing=timing,
            assignment=assignment,
            request_id=uuid.uuid4().hex,
            texts=request.documents,
        )

    def _target(self, request: RerankRequest, arm_model: str | None) -> tuple[str | None, SloClass]:
        """(tier asked for, if any; the SLO class that applies)."""
        name = arm_model or request.model or self.live.default_model
        default = self.live.slo_classes.get(self.live.default_slo_class or "", NO_CLASS)
        if name == AUTO:
            return None, default
        if name in self.live.slo_classes:
            return None, self.live.slo_classes[name]
        if name in self.config.tiers:
            return name, default
        known = [AUTO, *self.config.tiers, *self.live.slo_classes]
        raise UnknownModel(f"there is no model {name!r}; this fleet has {', '.join(known)}")

    def _reads_otherwise(self, tier: str, other: str) -> bool:
        """Whether two tiers need token ids of their own."""
        tiers = self.config.tiers
        return (
            self._tokenizers[tier] is not self._tokenizers[other] or tiers[tier].max_tokens != tiers[other].max_tokens
        )

    async def _tokenize(self, tier: str, request: RerankRequest) -> tuple[TokenizedPairs, list[int]]:
        tokenizer = self._tokenizers[tier]
        limit = self.config.tiers[tier].max_tokens

        def work() -> tuple[TokenizedPairs, list[int]]:
            query, *documents = tokenizer.encode([request.query, *request.documents])
            return tokenizer.pair(query, documents, limit)

        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def _score(self, decision: Plan, pairs: TokenizedPairs, ask: Ask, timing: Timing) -> np.ndarray:
        """Raw logits of all pairs, in order; the work cut into about equal chunks, one for each ready replica."""
        group = self.config.group_of(decision.tier)
        replicas = self.fleet.replicas(group, self.clock())
        most = min(self.config.groups[group].batch_tokens, max(MIN_CHUNK_TOKENS, -(-pairs.tokens // replicas)))
        slices = split_rows(pairs.lengths, most)
        logits = np.empty(len(pairs), dtype=np.float32)

        async def send(rows: np.ndarray) -> None:
            part = pairs if len(rows) == len(pairs) else pairs.take(rows)
            latency = self.fleet.latency(decision.tier)
            predicted_ms = latency.mean_ms(Work.of(part.lengths)) if latency else 0.0
            slack_ms = None
            if ask.budget_ms is not None:
                slack_ms = ask.budget_ms - (self.clock() - ask.arrived_s) * 1e3
            self.fleet.sent(group, predicted_ms)
            try:
                scores = await self._groups[group].score(Chunk(decision.tier, part, slack_ms))
            finally:
                self.fleet.back(group, predicted_ms)
            self.fleet.heard(group, scores, self.clock())
            logits[rows] = scores.logits
            timing.queue_ms = max(timing.queue_ms, scores.queue_ms)
            timing.infer_ms = max(timing.infer_ms, scores.infer_ms)

        await asyncio.gather(*(send(rows) for rows in slices))
        return logits


def check_limits(request: RerankRequest, config: FleetConfig) -> None:
    """Raise InvalidRequest or TooLarge, naming the field and what is allowed."""
    limits = config.limits
    if not request.query.strip():
        raise InvalidRequest("query is empty; send the text that the documents are to be ranked for")
    if not request.documents:
        raise InvalidRequest("documents is empty; send at least one document")
    if len(request.documents) > limits.max_documents:
        raise TooLarge(
            f"{len(request.documents)} documents are more than the {limits.max_documents} allowed; "
            "send fewer, or split them over several requests"
        )
    if len(request.query) > limits.max_query_bytes or len(request.query.encode()) > limits.max_query_bytes:
        raise TooLarge(f"query is longer than the {limits.max_query_bytes} bytes allowed")
    for i, document in enumerate(request.documents):
        if len(document) > limits.max_document_bytes or len(document.encode()) > limits.max_document_bytes:
            raise TooLarge(
                f"documents.{i} is longer than the {limits.max_document_bytes} bytes allowed; "
                "cut it into passages and rank those"
            )
