"""`rankfleet bench serve`: a running fleet under the load of a trace or a random process, and a simulation of the same
requests."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from rankfleet.bench.traffic import REFUSED, Call, Reply, calls, closed_loop, open_loop, quantile
from rankfleet.core.config import FleetConfig
from rankfleet.engine.checkpoint.files import find_checkpoint
from rankfleet.engine.runtime.loading import load_tokenizer
from rankfleet.estimates.latency import LatencyModel
from rankfleet.estimates.profile import read_request_cost
from rankfleet.estimates.request_cost import RequestCost
from rankfleet.simulate.policies import policy_of
from rankfleet.simulate.run import Outcome, Simulation
from rankfleet.simulate.workload import Candidates, RequestClass, Requests, Workload

CONCURRENCY = (1, 8)
AMPLE_MS = 60_000  # without a budget the fleet's default class would set one
SHORT = Workload(
    classes={"any": RequestClass(slo_ms=AMPLE_MS, share=1)}, candidates=[Candidates(count=20, share=1)], tokens=32
)
WARM_UP_CALLS = 20  # the first calls of a measurement, which do not count
QUIET_PER_S, QUIET_CALLS = 10.0, 80  # calls that hardly ever meet, and that come at the distance of an ordinary load


def under_load(
    url: str,
    fleet: FleetConfig,
    workload: Workload,
    requests: Requests,
    seed: int,
) -> list[Reply]:
    """Send a call for each request when it is due; returns the replies in the same order."""
    return asyncio.run(open_loop(url, calls(requests, workload, *token_counter(fleet), seed)))


def token_counter(fleet: FleetConfig) -> tuple[Callable[[str], int], int]:
    """A function that counts a text's tokens, and the number of special tokens of a pair, by the first tier's
    vocabulary."""
    tier = next(iter(fleet.tiers.values()))
    tokenizer = load_tokenizer(find_checkpoint(tier.model, tier.revision, weights=False))
    return (lambda text: len(tokenizer.encode([text])[0])), tokenizer.template.tokens


def load_summary(replies: Sequence[Reply], kinds: Sequence[str], retriever: float) -> dict[str, Any]:
    """Figures of all requests, by class and by tier, as `rankfleet simulate` gives them.

    Attainment is answers in time ÷ all requests. The mean quality is over all requests; a missed one counts with the
    retriever's quality.
    """

    def figures(some: Sequence[Reply]) -> dict[str, Any]:
        met = [reply for reply in some if reply.in_time]
        took = [reply.took_ms for reply in some if reply.status == 200]
        qualities = [reply.quality if reply.in_time else retriever for reply in some]
        return {
            "requests": len(some),
            "ok": sum(r.status == 200 for r in some),
            "attainment": round(len(met) / len(some), 5) if some else None,
            "mean_quality": round(float(np.mean(qualities)), 5) if some else None,
            "refused": sum(r.status in REFUSED for r in some),
            "given_up": sum(r.status == 200 and not r.scored for r in some),
            "late": sum(r.status == 200 and r.scored and not r.in_time for r in some),
            "failed": sum(r.status not in (200, *REFUSED) for r in some),
            "p50_ms": quantile(took, 0.5),
            "p99_ms": quantile(took, 0.99),
        }

    tiers = sorted({r.tier for r in replies if r.in_time})
    return {
        **figures(replies),
        "classes": {name: figures([r for r in replies if r.call.kind == i]) for i, name in enumerate(kinds)},
        "tiers": {t: round(sum(r.in_time and r.tier == t for r in replies) / len(replies), 5) for t in tiers},
    }


def overhead(url: str, fleet: FleetConfig, seconds: float, seed: int) -> dict[str, Any]:
    """Time of a request with 20 short documents minus the engine's, as the client sees it, by tier and concurrency.

    Measured for the first tier and for the best. p50_ms, p95_ms: without the wait in the replica's queue, since the
    device scores other batches meanwhile; with_queue: with that wait.
    """
    one = short_calls(fleet, 1, seed)[0]
    shown: dict[str, Any] = {}
    for tier in dict.fromkeys((next(iter(fleet.tiers)), best_tier(fleet))):
        call = for_tier(one, tier)
        shown[tier] = {}
        for concurrency in CONCURRENCY:
            replies = asyncio.run(closed_loop(url, call, concurrency, seconds))[WARM_UP_CALLS:]
            done = [r for r in replies if r.scored]
            beside = [r.took_ms - r.infer_ms for r in done]
            own = [ms - r.queue_ms for ms, r in zip(beside, done, strict=True)]
            shown[tier][str(concurrency)] = {
                "requests": len(replies),
                "p50_ms": quantile(own, 0.5),
                "p95_ms": quantile(own, 0.95),
                "with_queue_p50_ms": quantile(beside, 0.5),
                "with_queue_p95_ms": quantile(beside, 0.95),
                "engine_p50_ms": quantile([r.infer_ms for r in done], 0.5),
            }
    return shown


def short_calls(fleet: FleetConfig, count: int, seed: int) -> list[Call]:
    """Calls with 20 short documents each."""
    many = Requests(np.zeros(count), np.zeros(count, dtype=np.int64), np.full(count, 20))
    return calls(many, SHORT, *token_counter(fleet), seed)


def best_tier(fleet: FleetConfig) -> str:
    return max(fleet.tiers, key=lambda tier: fleet.tiers[tier].quality)


def for_tier(call: Call, tier: str) -> Call:
    """The same call, with the tier as its `model`."""
    return replace(call, body=orjson.dumps(orjson.loads(call.body) | {"model": tier}))


def cost_at(url: str, fleet: FleetConfig, profile: Path, seed: int) -> RequestCost:
    """What a request of this running fleet costs beside queue and engine: client and router by the profile, and as the
    hop what is left of the time that small requests take at the first tier, one every tenth of a second."""
    tier = next(iter(fleet.tiers))
    planned = [for_tier(call, tier) for call in short_calls(fleet, QUIET_CALLS, seed)]
    planned = [replace(call, at_s=i / QUIET_PER_S) for i, call in enumerate(planned)]
    replies = asyncio.run(open_loop(url, planned))[WARM_UP_CALLS:]
    beside_ms = [r.took_ms - r.infer_ms - r.queue_ms for r in replies if r.scored]
    cost = read_request_cost(profile)
    return replace(cost, hop_ms=cost.rest_of(float(np.median(beside_ms)), SHORT.candidates[0].count))


def simulated(
    fleet: FleetConfig,
    models: Mapping[str, LatencyModel],
    cost: RequestCost,
    workload: Workload,
    requests: Requests,
    seed: int,
) -> Outcome:
    """A simulation of the same requests."""
    policy = policy_of("slo", fleet, models)
    return Simulation(fleet, models, workload, policy, seed, cost=cost).run(requests)
