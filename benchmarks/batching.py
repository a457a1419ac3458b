"""Compare the batches that `@serve.batch` forms on its own with those of this project's queue behind it.

    python -m benchmarks.batching      writes benchmarks/results/batching.json

100 requests per second for 3 s in an open loop, to a device that takes 100 ms for a batch of any size up to 16. The
arrivals are the same for all collectors, which take turns over several rounds: one every 10 ms, or at random at that
rate (Poisson).
"""

import asyncio
import itertools
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from benchmarks.paths import result_file

from rankfleet.bench.results import measured, write_results
from rankfleet.cluster.environment import LOCAL, LOW_LATENCY
from rankfleet.core.messages import Chunk, ChunkScores
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.estimates.latency import LatencyModel
from rankfleet.replica.device import executor_scorer
from rankfleet.replica.hosting import HostedModel
from rankfleet.replica.worker import Worker

RATE, SECONDS, BATCH_MS, MAX_BATCH_SIZE = 100.0, 3.0, 100.0, 16
SHORT_WAIT_S = 0.005
IDLE_CALLS, ROUNDS, SEED = 10, 3, 1
ARRIVALS = ("even", "random")
COLLECTORS = ("short", "long", "queue")  # `@serve.batch` with a wait of 5 or 100 ms; without one, and the queue
PAIRS = TokenizedPairs(np.zeros(1, np.int32), np.ones(1, np.int32), np.zeros(1, np.int32))  # one pair of one token


class FixedTimeDevice:
    """Takes BATCH_MS for each batch, one after the other."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def score(self, pairs: TokenizedPairs) -> np.ndarray:
        self.sizes.append(len(pairs))
        time.sleep(BATCH_MS / 1e3)
        return np.zeros(len(pairs), np.float32)


class Reports:
    """Reports the sizes of the batches since the last report."""

    device: FixedTimeDevice

    async def report(self) -> list[int]:
        sizes, self.device.sizes = self.device.sizes, []
        return sizes


def application() -> Any:
    """The three deployments, behind an ingress without which Serve would not deploy them together."""
    from ray import serve

    def batched(wait_s: float) -> type[Reports]:
        class Batched(Reports):
            def __init__(self) -> None:
                self.device, self.thread = FixedTimeDevice(), ThreadPoolExecutor(1)

            @serve.batch(max_batch_size=MAX_BATCH_SIZE, batch_wait_timeout_s=wait_s)
            async def score(self, chunks: list[Chunk]) -> list[float]:
                pairs = TokenizedPairs.join([chunk.pairs for chunk in chunks])
                loop = asyncio.get_running_loop()
                return [*map(float, await loop.run_in_executor(self.thread, self.device.score, pairs))]

        return Batched

    class Queued(Reports):
        """`@serve.batch` and the queue, put together as in `cluster/group_deployment.py`."""

        def __init__(self) -> None:
            self.device = FixedTimeDevice()
            model = HostedModel("t", self.device, LatencyModel(BATCH_MS, 0.0, 0.0))
            batch_tokens = MAX_BATCH_SIZE * PAIRS.tokens
            clock = time.perf_counter
            score = executor_scorer(ThreadPoolExecutor(1), clock)
            self.worker = Worker("r", {"t": model}, {"t": 0.5}, batch_tokens, score, clock)

        async def score(self, chunk: Chunk) -> ChunkScores:
            return await (await self.collect(chunk))

        @serve.batch(max_batch_size=1024, batch_wait_timeout_s=0.0)
        async def collect(self, chunks: list[Chunk]) -> list["asyncio.Future[ChunkScores]"]:
            return [self.worker.submit(chunk) for chunk in chunks]

    class Ingress:
        def __init__(self, **handles: Any) -> None:
            self.handles = handles

    classes = {"short": batched(SHORT_WAIT_S), "long": batched(BATCH_MS / 1e3), "queue": Queued}
    options = {"max_ongoing_requests": 2000, "ray_actor_options": {"num_cpus": 0.2}}
    parts = {name: serve.deployment(name=name, **options)(kind).bind() for name, kind in classes.items()}
    return serve.deployment(name="front", ray_actor_options={"num_cpus": 0.1})(Ingress).bind(**parts)


async def timed(handle: Any, due_s: float) -> float:
    """Milliseconds from the moment the request was due."""
    await handle.score.remote(Chunk(("t",), PAIRS))
    return (time.perf_counter() - due_s) * 1e3


async def idle(handle: Any) -> list[float]:
    """Milliseconds of requests sent one at a time to an idle device."""
    took = []
    for _ in range(IDLE_CALLS):
        await asyncio.sleep(0.05)
        took.append(await timed(handle, time.perf_counter()))
    return took


async def loaded(handle: Any, arrivals: str) -> list[float]:
    """Milliseconds of requests sent in an open loop."""
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

    handles = {name: serve.get_deployment_handle(name, "batching") for name in COLLECTORS}
    rounds: dict[str, list[dict[str, float]]] = {f"{kind} {name}": [] for kind in ARRIVALS for name in COLLECTORS}
    for _, kind, name in itertools.product(range(ROUNDS), ARRIVALS, COLLECTORS):
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
    settings = {"rate_per_s": RATE, "seconds": SECONDS, "batch_ms": BATCH_MS, "rounds": ROUNDS}
    settings["max_batch_size"] = MAX_BATCH_SIZE
    write_results(result_file("batching"), settings | {"median": median, "by_round": rounds}, measured())


if __name__ == "__main__":
    run()
