"""Batches that `@serve.batch` makes on its own, and with this project's queue behind it, on Ray Serve.

    python benchmarks/batching.py run      benchmarks/results/batching.json
    python benchmarks/batching.py table    the table of docs/batching.md

100 requests a second for 3 s, each sent when it is due whatever became of the last (open loop), to a device that takes
100 ms for a batch of any size, of at most 16. The same arrivals for all, in turn, several rounds: one every 10 ms, or
at random at that rate (Poisson).
"""

import argparse
import asyncio
import itertools
import json
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from rankfleet.bench.machine import cpu_name
from rankfleet.cluster.environment import LOCAL, LOW_LATENCY
from rankfleet.core.messages import Chunk, ChunkScores
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.estimates.latency import LatencyModel
from rankfleet.replica.worker import Worker

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/batching.json"
PAGE, MARK = ROOT / "docs/batching.md", "<!-- figures: benchmarks/batching.py table -->"
RATE, SECONDS, BATCH_MS, MOST = 100.0, 3.0, 100.0, 16
SHORT_WAIT_S = 0.005
IDLE_CALLS, ROUNDS, SEED = 10, 3, 1
ARRIVALS = {"even": "every 10 ms", "random": "at random"}
NAMES = {
    "short": "`@serve.batch`, wait 5 ms",
    "long": "`@serve.batch`, wait 100 ms",
    "queue": "`@serve.batch`, wait 0, and the queue",
}
PAIRS = TokenizedPairs(np.zeros(1, np.int32), np.ones(1, np.int32), np.zeros(1, np.int32))  # one pair of one token


class Device:
    """Takes its time whatever it is given, one batch after the other."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def score(self, pairs: TokenizedPairs) -> np.ndarray:
        self.sizes.append(len(pairs))
        time.sleep(BATCH_MS / 1e3)
        return np.zeros(len(pairs), np.float32)


class Reports:
    """What a deployment has done since it was last asked."""

    device: Device

    async def report(self) -> list[int]:
        sizes, self.device.sizes = self.device.sizes, []
        return sizes


def application() -> Any:
    """The three deployments behind one that only passes on."""
    from ray import serve

    def batched(wait_s: float) -> type[Reports]:
        class Batched(Reports):
            def __init__(self) -> None:
                self.device, self.thread = Device(), ThreadPoolExecutor(1)

            @serve.batch(max_batch_size=MOST, batch_wait_timeout_s=wait_s)
            async def score(self, chunks: list[Chunk]) -> list[float]:
                pairs = TokenizedPairs.join([chunk.pairs for chunk in chunks])
                loop = asyncio.get_running_loop()
                return [*map(float, await loop.run_in_executor(self.thread, self.device.score, pairs))]

        return Batched

    class Queued(Reports):
        """As `cluster/group_deployment.py` has it."""

        def __init__(self) -> None:
            self.device = Device()
            latency = LatencyModel(BATCH_MS, 0.0, 0.0)
            self.worker = Worker(
                "r", {"t": self.device}, {"t": latency}, {"t": 0.5}, MOST * PAIRS.tokens, ThreadPoolExecutor(1)
            )

        async def score(self, chunk: Chunk) -> ChunkScores:
            return await (await self.collect(chunk))

        @serve.batch(max_batch_size=1024, batch_wait_timeout_s=0.0)
        async def collect(self, chunks: list[Chunk]) -> list["asyncio.Future[ChunkScores]"]:
            return [self.worker.submit(chunk) for chunk in chunks]

    class RequestGate:
        def __init__(self, **handles: Any) -> None:
            self.handles = handles

    classes = {"short": batched(SHORT_WAIT_S), "long": batched(BATCH_MS / 1e3), "queue": Queued}
    options = {"max_ongoing_requests": 2000, "ray_actor_options": {"num_cpus": 0.2}}
    parts = {name: serve.deployment(name=name, **options)(kind).bind() for name, kind in classes.items()}
    return serve.deployment(name="front", ray_actor_options={"num_cpus": 0.1})(RequestGate).bind(**parts)


async def timed(handle: Any, due_s: float) -> float:
    """Milliseconds from the moment the request was due."""
    await handle.score.remote(Chunk("t", PAIRS))
    return (time.perf_counter() - due_s) * 1e3


async def idle(handle: Any) -> list[float]:
    """One at a time, the device idle before each."""
    took = []
    for _ in range(IDLE_CALLS):
        await asyncio.sleep(0.05)
        took.append(await timed(handle, time.perf_counter()))
    return took


async def loaded(handle: Any, arrivals: str) -> list[float]:
    count = round(RATE * SECONDS)
    gaps = np.full(count, 1 / RATE) if arrivals == "even" else np.random.default_rng(SEED).exponential(1 / RATE, count)
    start_s = time.perf_counter() + 0.05
    tasks = []
    for at_s in np.cumsum(gaps):
        await asyncio.sleep(max(0.0, start_s + at_s - time.perf_counter()))
        tasks.append(asyncio.create_task(timed(handle, start_s + at_s)))
    return list(await asyncio.gather(*tasks))


async def measure() -> dict[str, list[dict[str, float]]]:
    from ray import serve

    handles = {name: serve.get_deployment_handle(name, "batching") for name in NAMES}
    rounds: dict[str, list[dict[str, float]]] = {f"{kind} {name}": [] for kind in ARRIVALS for name in NAMES}
    for _, kind, name in itertools.product(range(ROUNDS), ARRIVALS, NAMES):
        handle = handles[name]
        alone = await idle(handle)
        await handle.report.remote()
        took = await loaded(handle, kind)
        sizes = await handle.report.remote()
        rounds[f"{kind} {name}"].append(
            {
                "requests": len(took),
                "batches": len(sizes),
                "mean_size": round(statistics.mean(sizes), 2),
                "p50_ms": round(float(np.quantile(took, 0.5)), 1),
                "p99_ms": round(float(np.quantile(took, 0.99)), 1),
                "idle_ms": round(statistics.median(alone), 1),
            }
        )
        print(kind, name, rounds[f"{kind} {name}"][-1], flush=True)
    return rounds


def run() -> None:
    os.environ.update(LOW_LATENCY | LOCAL)
    import ray
    from ray import serve

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(proxy_location="Disabled")
        serve.run(application(), name="batching", route_prefix=None)
        rounds = asyncio.run(measure())
    finally:
        ray.shutdown()
    median = {
        name: {key: statistics.median(each[key] for each in found) for key in found[0]}
        for name, found in rounds.items()
    }
    settings = {"rate_per_s": RATE, "seconds": SECONDS, "batch_ms": BATCH_MS, "most": MOST, "rounds": ROUNDS}
    facts = {"ray": ray.__version__, "processor": cpu_name(), "date": date.today().isoformat()}
    RESULTS.write_text(json.dumps(settings | facts | {"median": median, "by_round": rounds}, indent=1) + "\n")


def table() -> str:
    median = json.loads(RESULTS.read_text())["median"]
    lines = [
        "| arrivals | collector | batches | mean size | p50 ms | p99 ms | alone on an idle device, ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, name in itertools.product(ARRIVALS, NAMES):
        row = median[f"{kind} {name}"]
        cells = (row["batches"], row["mean_size"], row["p50_ms"], row["p99_ms"], row["idle_ms"])
        lines.append(f"| {ARRIVALS[kind]} | {NAMES[name]} | {' | '.join(f'{cell:g}' for cell in cells)} |")
    return "\n".join(lines)


def write_table() -> None:
    before, _, rest = PAGE.read_text().partition(MARK)
    _, _, after = rest.partition(MARK)
    PAGE.write_text(f"{before}{MARK}\n\n{table()}\n\n{MARK}{after}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("run", "table"))
    run() if parser.parse_args().verb == "run" else write_table()
