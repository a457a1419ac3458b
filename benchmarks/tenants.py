"""What the load of one tenant costs another, on a fleet that runs: one table of docs/keys.md.

    python -m benchmarks.tenants      writes what benchmarks/results/tenants.json has of this processor

`rankfleet serve` with a router, one replica of the demo tiers and two tenants, who have half of it each. The client
asks for five short documents four times a second, or less often where that would take more than its share. It is
measured alone, beside each load of the neighbour, and alone again.
"""

import asyncio
import hashlib
import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import yaml
from benchmarks.paths import result_file
from benchmarks.server_process import RANKFLEET, serving

from rankfleet.bench.fault_fleet import STRICT, demo_tiers
from rankfleet.bench.results import measured, write_results
from rankfleet.bench.sample_texts import sample_words
from rankfleet.bench.traffic import Call, Reply, open_loop, quantile
from rankfleet.cluster.environment import free_port

KEYS = {"client": "key-of-the-client", "neighbour": "key-of-the-neighbour"}
SECONDS = 24.0  # of each load, and of each control
CLIENT_PER_S = 4.0
CLIENT_SHARE = 0.3  # of the replica's time at most, that its rankings take
ROOM = 4 / 3  # the budget of the client, to the median that the largest tier takes alone
SHARE = 0.4  # of the replica's time, that the neighbour's rankings take
PAUSE_S = 2.0
SEED = 1


@dataclass(frozen=True)
class Ranking:
    """Requests of one kind.

    budget: to that of the client; None for no budget. model: None if Rankfleet chooses. per_s: None for what takes
    SHARE of the replica. words: of each document. at_once: how many are sent together.
    """

    documents: int
    words: int
    budget: float | None
    model: str | None = None
    slo_class: str | None = None
    per_s: float | None = None
    at_once: int = 1


CLIENT = Ranking(5, 60, 1.0)
NAMED, STRICTLY = replace(CLIENT, model="large"), replace(CLIENT, slo_class=STRICT)
WORK = Ranking(30, 100, 8.0, "medium")
LATER = Ranking(60, 100, 3000.0, "medium", at_once=4)
IN_VAIN = Ranking(60, 60, 0.0, "large")
TINY = Ranking(1, 10, 1.0, per_s=6.0)
MANY = Ranking(1, 10, 1.0, per_s=60.0)
LONG = Ranking(100, 6000, 0.02, per_s=4.0)
# What the client asks for, and what its neighbour sends.
LOADS = {
    "work with more time": (CLIENT, WORK),
    "work with more time, large by name": (NAMED, WORK),
    "work with minutes, large by name": (NAMED, LATER),
    "work in a millisecond, large by name": (NAMED, IN_VAIN),
    "more of it than its share, large by name": (NAMED, replace(IN_VAIN, per_s=4.0)),
    "work with more time, a class that refuses": (STRICTLY, WORK),
    "tiny requests": (CLIENT, TINY),
    "many tiny requests": (CLIENT, MANY),
    "long texts": (CLIENT, LONG),
}


def fleet_file() -> dict[str, Any]:
    return {
        "tiers": demo_tiers(),
        "groups": {"demo": {"tiers": ["small", "medium", "large"], "replicas": {"min": 1, "max": 1}, "cpus": 0.5}},
        "slo_classes": {"standard": {"slo_ms": 200}, STRICT: {"slo_ms": 200, "when_none_fits": "refuse"}},
        "default_slo_class": "standard",
        "tenants": {name: {} for name in KEYS},
    }


def texts(words: int, seed: int) -> Iterator[str]:
    """An endless run of different documents."""
    run = sample_words(random.Random(seed))
    while True:
        yield " ".join(next(run) for _ in range(words))


def calls(kind: Ranking, per_s: float, unit_ms: float, seconds: float, seed: int, even: bool = False) -> list[Call]:
    """Requests of a kind, evenly spaced or as a Poisson process. unit_ms: the budget of the client."""
    documents, rng = texts(kind.words, seed), random.Random(seed)
    budget_ms = None if kind.budget is None else max(1.0, kind.budget * unit_ms)
    fields = {"model": kind.model, "slo_class": kind.slo_class, "slo_ms": budget_ms, "return_documents": False}
    named = {key: value for key, value in fields.items() if value is not None}
    made, at_s = [], 0.0
    while (at_s := at_s + (1 / per_s if even else rng.expovariate(per_s / kind.at_once))) < seconds:
        for _ in range(kind.at_once):
            body = {"query": "How do vaccines work?", "documents": [next(documents) for _ in range(kind.documents)]}
            made.append(Call(at_s, 0, budget_ms, orjson.dumps(body | named)))
    return made


def one_by_one(url: str, tenant: str, kind: Ranking, unit_ms: float, count: int) -> list[Reply]:
    """Raises RuntimeError unless all are answered."""
    few = [replace(call, at_s=0.0) for call in calls(kind, 10.0, unit_ms, SECONDS, SEED)[:count]]
    replies = [reply for call in few for reply in asyncio.run(open_loop(url, [call], KEYS[tenant]))]
    if errors := {reply.error for reply in replies if not reply.scored}:
        raise RuntimeError(f"{errors}")
    return replies


def rate_of(url: str, kind: Ranking, unit_ms: float) -> float:
    """Requests per second of a neighbour; for SHARE of the replica, by the median time of a few."""
    if kind.per_s is not None:
        return kind.per_s
    few = one_by_one(url, "neighbour", kind, unit_ms, 5)
    return SHARE * 1e3 / float(np.median([reply.infer_ms for reply in few]))


def summary(replies: Sequence[Reply]) -> dict[str, Any]:
    """met: share of the answers that are in time and scored. late_ms: the most that one was late by."""
    late_ms = [r.took_ms - r.call.budget_ms for r in replies if r.status == 200 and r.call.budget_ms is not None]
    return {
        "requests": len(replies),
        "met": round(sum(r.in_time for r in replies) / len(replies), 3),
        "late": sum(ms > 0 for ms in late_ms),
        "late_ms": round(max([0.0, *late_ms]), 1),
        "refused": sum(r.status == 429 for r in replies),
        "failed": sum(r.status not in (200, 429) for r in replies),
        "unscored": sum(r.status == 200 and not r.scored for r in replies),
        "p50_ms": quantile([r.took_ms for r in replies], 0.5),
        "tiers": dict(sorted(Counter(r.tier for r in replies if r.scored).items())),
    }


async def beside(url: str, client: list[Call], neighbour: list[Call]) -> tuple[list[Reply], list[Reply]]:
    """The replies of both, sent at the same time."""
    own, others = await asyncio.gather(
        open_loop(url, client, KEYS["client"]), open_loop(url, neighbour, KEYS["neighbour"])
    )
    return own, others


def measure(url: str, name: str, unit_ms: float, client_per_s: float, per_s: float) -> dict[str, Any]:
    """The client alone, beside a load, and alone again. per_s: requests of the neighbour."""
    client, neighbour = LOADS[name]
    figures: dict[str, Any] = {"neighbour_per_s": round(per_s, 2)}
    for number, part in enumerate(("before", "beside", "after")):
        own = calls(client, client_per_s, unit_ms, SECONDS, SEED + number, even=True)
        load = calls(neighbour, per_s, unit_ms, SECONDS, SEED + 100) if part == "beside" else []
        replies, others = asyncio.run(beside(url, own, load))
        figures[part] = summary(replies)
        if others:
            figures["neighbour"] = summary(others)
        asyncio.run(asyncio.sleep(PAUSE_S))
        print(f"  {part}: {figures[part]}", flush=True)
    return figures


def served(folder: Path, port: int) -> list[str | Path]:
    """The command of a fleet with its files in a folder."""
    (folder / "fleet.yaml").write_text(yaml.safe_dump(fleet_file()))
    digests = {tenant: hashlib.sha256(key.encode()).hexdigest() for tenant, key in KEYS.items()}
    (folder / "keys.txt").write_text("".join(f"{digest} {tenant}\n" for tenant, digest in digests.items()))
    return [*RANKFLEET, "serve", "--config", "fleet.yaml", "--keys", "keys.txt", "--port", str(port)]


def main() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as name, serving(served(Path(name), port), Path(name)):
        few = one_by_one(url, "client", NAMED, 1e4, 30)
        took_ms, infer_ms = np.median([(reply.took_ms, reply.infer_ms) for reply in few], axis=0).tolist()
        unit_ms, client_per_s = round(ROOM * took_ms, 1), min(CLIENT_PER_S, CLIENT_SHARE * 1e3 / infer_ms)
        print(f"large takes {took_ms:.1f} ms; the client has {unit_ms:.1f}", flush=True)
        rates = {kind: rate_of(url, kind, unit_ms) for kind in dict.fromkeys(kind for _, kind in LOADS.values())}
        loads = {}
        for load in LOADS:
            print(load, flush=True)
            loads[load] = measure(url, load, unit_ms, client_per_s, rates[LOADS[load][1]])
    about = measured(packages=["aiohttp"])
    figures = {
        "measured": about,
        "budget_ms": unit_ms,
        "client_per_s": round(client_per_s, 2),
        "seconds": SECONDS,
        "loads": loads,
    }
    write_results(result_file("tenants"), {about["machine"]: figures}, about, merge=True)


if __name__ == "__main__":
    main()
