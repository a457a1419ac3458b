"""A request's life in the router: validate, assign, tokenize, plan, cut, send, collect, sort.

Knows nothing of HTTP or Ray: groups are reached through the `GroupClient` protocol, time through a clock
argument.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from rankfleet.app.texts import TokenizedTexts, tokenize
from rankfleet.core.config import AUTO, FleetConfig, Limits, LiveSettings, SloClass
from rankfleet.core.errors import InvalidRequest, Overloaded, TooLarge, UnknownModel
from rankfleet.core.layout import PassageRule
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
from rankfleet.engine.tokencache import TokenCache
from rankfleet.engine.tokenizer import PairTokenizer
from rankfleet.routing.experiments import assign
from rankfleet.routing.fleet import FleetView
from rankfleet.routing.planner import Ask, Refusal, plan, spread

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
        self._cache = TokenCache(int(config.token_cache_mb * 1e6))
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
        passages = self._passages(request)
        texts = await self._tokenize(request, target.tiers, passages)
        timing.tokenize_ms = (self.clock() - started_s) * 1e3

        ask = Ask(
            work={tier: texts.work(tier) for tier in target.tiers},
            arrived_s=arrived_s,
            budget_ms=budget_ms,
            pinned=target.pinned,
            when_none_fits=target.slo.when_none_fits,
        )
        now_s = self.clock()
        decision = plan(ask, self.fleet.snapshot(now_s), now_s)
        if isinstance(decision, Refusal):
            raise Overloaded(f"{decision.reason}; retry later or allow more time", decision.retry_after_s)
        pairs, layout = texts.pairs(decision.tier), texts.layouts[decision.tier]

        logits = await self._score(decision, pairs, ask, timing)
        if not np.isfinite(logits).all():
            raise FloatingPointError(f"tier {decision.tier} gave scores that are not finite")
        logits = layout.best(logits)
        order = np.argsort(-logits, kind="stable")[: request.top_n]
        timing.total_ms = (self.clock() - arrived_s) * 1e3
        return Ranking(
            documents=[RankedDocument(int(i), float(logits[i])) for i in order],
            plan=decision,
            tokens=pairs.tokens,
            truncated=layout.truncated,
            timing=timing,
            assignment=assignment,
            request_id=uuid.uuid4().hex,
            texts=request.documents,
            passages=layout.counts.tolist() if passages else None,
            cached=texts.cached,
        )

    def _passages(self, request: RerankRequest) -> PassageRule | None:
        """How long documents are cut; None where only their beginning is scored."""
        if (request.long_documents or self.live.long_documents) == "truncate":
            return None
        return PassageRule(self.live.passage_overlap_tokens, self.config.limits.max_passages)

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

    async def _tokenize(
        self, request: RerankRequest, tiers: tuple[str, ...], passages: PassageRule | None
    ) -> "TokenizedTexts":
        """Encode the texts once for each vocabulary, in the executor: a large request takes milliseconds."""

        def work() -> TokenizedTexts:
            return tokenize(request, {tier: self._tier(tier) for tier in tiers}, self._cache, passages)

        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def _tier(self, tier: str) -> tuple[PairTokenizer, int | None]:
        """Its tokenizer, and where its pairs end."""
        return self._tokenizers[tier], self.config.tiers[tier].max_tokens

    async def _score(self, decision: Plan, pairs: TokenizedPairs, ask: Ask, timing: Timing) -> np.ndarray:
        """Raw logits of all pairs, in order; the work cut into about equal chunks over the ready replicas."""
        group = self.config.group_of(decision.tier)
        parts = spread(ask.work[decision.tier], self.fleet.replicas(group, self.clock()))
        slices = split_rows(pairs.lengths, self.config.groups[group].batch_tokens, parts)
        latency = self.fleet.latency(decision.tier)
        logits = np.empty(len(pairs), dtype=np.float32)

        async def send(rows: np.ndarray) -> None:
            part = pairs if len(rows) == len(pairs) else pairs.take(rows)
            sent_s = self.clock()
            slack_ms = None if ask.budget_ms is None else ask.budget_ms - (sent_s - ask.arrived_s) * 1e3
            ticket = self.fleet.sent(group, latency.mean_ms(Work.of(part.lengths)) if latency else 0.0, sent_s)
            try:
                scores = await self._groups[group].score(Chunk(decision.tier, part, slack_ms))
            finally:
                self.fleet.back(group, ticket, self.clock())
            self.fleet.heard(group, scores, self.clock())
            logits[rows] = scores.logits
            timing.queue_ms = max(timing.queue_ms, scores.queue_ms)
            timing.infer_ms = max(timing.infer_ms, scores.infer_ms)

        tasks = [asyncio.create_task(send(rows)) for rows in slices]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:  # when one has failed or the client has gone, the others are work for nobody
                task.cancel()
        return logits


@dataclass(frozen=True)
class Target:
    """tiers: those that may answer; pinned: who has narrowed them down to one, if anybody."""

    tiers: tuple[str, ...]
    pinned: Literal["name", "arm", "default"] | None
    slo: SloClass


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
