"""`rankfleet bench slo`: are budgets met by the client's clock, and is their time used?

One client sends requests one after the other, of all sizes and budgets in turn, to a fleet that has just started: first
cold, then on a quiet machine, then while another process keeps one core busy.
"""

import asyncio
import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import orjson

from rankfleet.bench.serve import AMPLE_MS, token_counter
from rankfleet.bench.traffic import Call, Reply, calls, closed_loop, quantile, send, session
from rankfleet.core.config import FleetConfig
from rankfleet.core.timing import STEPS
from rankfleet.simulate.workload import Candidates, RequestClass, Requests, Workload

BUDGETS_MS = (10, 20, 50, 100, 200)
DOCUMENTS = (20, 100)
TOKENS = 154  # of a pair
COLD_CALLS = 50  # the first that the fleet gets
BATCH_S = 4.0  # for which one request is repeated, to see how much batches of the same work differ
DISTURBED_AFTER_S = 5.0  # from when a core is busy until requests count

Cell = tuple[int, int]  # documents, budget in ms


def calls_of(fleet: FleetConfig, each: int, seed: int) -> dict[Cell, list[Call]]:
    """Different requests of each size and budget."""
    made = {}
    for documents in DOCUMENTS:
        classes = {str(ms): RequestClass(slo_ms=ms, share=1) for ms in BUDGETS_MS}
        workload = Workload(classes=classes, candidates=[Candidates(count=documents, share=1)], tokens=TOKENS)
        kinds = np.repeat(np.arange(len(BUDGETS_MS)), each)
        many = Requests(np.zeros(len(kinds)), kinds, np.full(len(kinds), documents))
        planned = calls(many, workload, *token_counter(fleet), seed)
        for i, ms in enumerate(BUDGETS_MS):
            made[documents, ms] = planned[i * each : (i + 1) * each]
    return made


async def in_turn(url: str, planned: Sequence[Call]) -> list[Reply]:
    """Send each call when the one before it is answered."""
    async with session(url) as client:
        return [await send(client, call, time.perf_counter()) for call in planned]


def measure(url: str, fleet: FleetConfig, each: int, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Figures of a fleet that has just started. each: requests of each size and budget."""
    made = calls_of(fleet, each, seed)
    cells = list(made)
    mixed = [(cell, made[cell][i]) for i in range(each) for cell in cells]

    def run(some: Sequence[tuple[Cell, Call]]) -> list[tuple[Cell, Reply]]:
        replies = asyncio.run(in_turn(url, [call for _, call in some]))
        return [(cell, reply) for (cell, _), reply in zip(some, replies, strict=True)]

    say(f"the first {COLD_CALLS} requests")
    cold = run(mixed[:COLD_CALLS])
    say("the best ranking and the spread of batches")
    best, mean_over_p99 = {}, {}
    for documents in DOCUMENTS:
        call = without_budget(made[documents, BUDGETS_MS[-1]][0])
        replies = [reply for reply in asyncio.run(closed_loop(url, call, 1, BATCH_S)) if reply.scored]
        best[documents] = max(reply.quality for reply in replies)
        infer = [reply.infer_ms for reply in replies]
        mean_over_p99[str(documents)] = round(float(np.mean(infer) / np.quantile(infer, 0.99)), 3)
    say("a quiet machine")
    quiet = run(mixed)
    say("one core busy")
    with busy_core():
        time.sleep(DISTURBED_AFTER_S)
        disturbed = run(mixed)
    conditions = {"cold": cold, "quiet": quiet, "one core busy": disturbed}
    return {
        "tokens": TOKENS,
        "each": each,
        "mean_over_p99": mean_over_p99,
        "conditions": {name: summary(replies, best) for name, replies in conditions.items()},
    }


def summary(replies: Sequence[tuple[Cell, Reply]], best: dict[int, float]) -> dict[str, Any]:
    """Figures of one condition. best: quality without a budget, by number of documents."""
    done = [reply for _, reply in replies if reply.scored]
    cells = sorted({cell for cell, _ in replies})
    return {
        "requests": len(replies),
        "met": met([reply for _, reply in replies]),
        "steps_p50_ms": {step: quantile([r.timing_ms.get(step, 0.0) for r in done], 0.5) for step in STEPS},
        "outside_p50_ms": quantile([r.took_ms - r.timing_ms["total"] for r in done], 0.5),
        "outside_p95_ms": quantile([r.took_ms - r.timing_ms["total"] for r in done], 0.95),
        "cells": {
            f"{documents} documents in {ms} ms": cell_figures(
                [reply for cell, reply in replies if cell == (documents, ms)], best[documents]
            )
            for documents, ms in cells
        },
    }


def cell_figures(replies: Sequence[Reply], best: float) -> dict[str, Any]:
    """met: as `met`. late, unscored: answers out of time, and in the order given. used: median share of the budget that
    answers took for which work was left out. best: quality without a budget."""
    took = [reply.took_ms for reply in replies if reply.status == 200]
    less = [r.took_ms / (r.call.budget_ms or AMPLE_MS) for r in replies if r.scored and r.quality < best - 1e-9]
    tiers = [reply.tier for reply in replies if reply.scored]
    return {
        "requests": len(replies),
        "met": met(replies),
        "late": sum(reply.status == 200 and not is_met(reply) for reply in replies),
        "unscored": sum(not reply.scored for reply in replies),
        "used": quantile(less, 0.5),
        "p50_ms": quantile(took, 0.5),
        "p99_ms": quantile(took, 0.99),
        "quality": round(float(np.mean([reply.quality for reply in replies])), 4),
        "tiers": {tier: tiers.count(tier) for tier in sorted(set(tiers))},
    }


def is_met(reply: Reply) -> bool:
    """Whether an answer came within the budget by the client's clock, scored or in the order given."""
    return reply.status == 200 and reply.took_ms <= (reply.call.budget_ms or AMPLE_MS)


def met(replies: Sequence[Reply]) -> float:
    """The share of requests that were answered within their budget."""
    return round(sum(map(is_met, replies)) / len(replies), 4)


def without_budget(call: Call) -> Call:
    """The same call with more time than it can need."""
    body = orjson.loads(call.body) | {"slo_ms": AMPLE_MS}
    return replace(call, budget_ms=AMPLE_MS, body=orjson.dumps(body))


@contextlib.contextmanager
def busy_core() -> Iterator[None]:
    """A process that computes without a pause."""
    process = multiprocessing.get_context("spawn").Process(target=spin, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def spin() -> None:
    while True:
        pass
