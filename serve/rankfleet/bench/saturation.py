"""Pairs per second of the whole stack over HTTP ÷ those of the engine alone.

Both run on this machine, in turn, on the same texts: the engine alone in this process, with as many threads as a
replica has, while the fleet is idle; then the fleet, with enough clients to keep its device busy. The router and the
clients share the machine with the replica, and their CPU time counts against the stack.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from rankfleet.bench.serve import AMPLE_MS, best_tier, for_tier, token_counter
from rankfleet.bench.traffic import Call, Reply, calls, closed_loop
from rankfleet.core.config import FleetConfig
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.simulate.workload import Candidates, RequestClass, Requests, Workload

CLIENTS = 8
REQUESTS = 16  # different requests, sent in turn
ROUNDS = 3
SIZES = {"20 documents of 32 tokens": (20, 32), "100 documents of 128 tokens": (100, 128)}


def saturation(url: str, fleet: FleetConfig, seconds: float, seed: int) -> dict[str, Any]:
    """Rates and their ratio by size of request, at the best tier, as medians over the rounds. seconds: of each turn."""
    tier = best_tier(fleet)
    engine = EngineAlone(fleet, tier)
    shown: dict[str, Any] = {"tier": tier, "threads": engine.threads, "replicas": engine.replicas}
    for name, (documents, tokens) in SIZES.items():
        many = requests(fleet, documents, tokens, seed)
        sent = [for_tier(call, tier) for call in many]
        batches = engine.batches(many)
        alone, stack = [], []
        for _ in range(ROUNDS):
            alone.append(engine.rate(batches, seconds))
            stack.append(rate(asyncio.run(closed_loop(url, sent, CLIENTS, seconds)), documents))
        own_rate, stack_rate = float(np.median(alone)) * engine.replicas, float(np.median(stack))
        shown[name] = {
            "engine_pairs_per_s": round(own_rate, 1),
            "stack_pairs_per_s": round(stack_rate, 1),
            "ratio": round(stack_rate / own_rate, 3),
            "ratio_by_round": [round(s / (a * engine.replicas), 3) for a, s in zip(alone, stack, strict=True)],
        }
    return shown


def requests(fleet: FleetConfig, documents: int, tokens: int, seed: int) -> list[Call]:
    """REQUESTS calls of one size, each with texts of its own."""
    workload = Workload(
        classes={"any": RequestClass(slo_ms=AMPLE_MS, share=1)},
        candidates=[Candidates(count=documents, share=1)],
        tokens=tokens,
    )
    each = Requests(np.zeros(REQUESTS), np.zeros(REQUESTS, dtype=np.int64), np.full(REQUESTS, documents))
    return calls(each, workload, *token_counter(fleet), seed)


def rate(replies: Sequence[Reply], documents: int) -> float:
    """Pairs per second while all clients were sending: the first and last few answers do not count."""
    done_s = sorted(reply.done_s for reply in replies if reply.scored)[CLIENTS - 1 : -CLIENTS]
    return (len(done_s) - 1) * documents / (done_s[-1] - done_s[0]) if len(done_s) > 1 else 0.0


class EngineAlone:
    """One tier in this process, as a replica runs it."""

    def __init__(self, fleet: FleetConfig, tier: str) -> None:
        import torch

        from rankfleet.engine.checkpoint.files import find_checkpoint
        from rankfleet.engine.runtime.loading import load_tokenizer
        from rankfleet.engine.runtime.scorer import Scorer

        name = fleet.group_of(tier)
        group = fleet.groups[name]
        self.threads, self._batch_tokens = group.threads, group.batch_tokens
        self.replicas = max(1, fleet.replicas_of(name).min)
        torch.set_num_threads(group.threads)
        checkpoint = find_checkpoint(fleet.tiers[tier].model, fleet.tiers[tier].revision)
        self._scorer = Scorer.load(checkpoint, group.dtype)
        self._tokenizer = load_tokenizer(checkpoint, fleet.tiers[tier].max_tokens)

    def batches(self, many: Sequence[Call]) -> list[TokenizedPairs]:
        """The pairs of all calls, in batches up to a replica's limit."""
        import orjson

        batches: list[list[TokenizedPairs]] = [[]]
        for body in (orjson.loads(call.body) for call in many):
            query = self._tokenizer.encode([body["query"]])[0]
            pairs, _ = self._tokenizer.pair(query, self._tokenizer.encode(body["documents"]))
            if sum(p.tokens for p in batches[-1]) + pairs.tokens > self._batch_tokens and batches[-1]:
                batches.append([])
            batches[-1].append(pairs)
        return [TokenizedPairs.join(each) for each in batches]

    def rate(self, batches: Sequence[TokenizedPairs], seconds: float) -> float:
        """Pairs per second over `seconds`, after one batch to warm up."""
        for batch in batches[:1]:
            self._scorer.score(batch)
        started, pairs = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - started) < seconds:
            for batch in batches:
                self._scorer.score(batch)
                pairs += len(batch)
        return pairs / elapsed
