"""Compare what a request costs beside the engine in Rankfleet and in a bare Ray Serve application with the same engine.

    python -m benchmarks.bare_serve run      writes benchmarks/results/bare_serve.json

The bare application has the same Serve settings and precision, an ingress and a replica with one thread, and
`@serve.batch` without a wait. It has no budgets, plans, deadlines, checks or cache. Both are measured in turn, as
`rankfleet bench serve` does: 20 short documents, the client's time minus the engine's.
"""

import argparse
import asyncio
import contextlib
import signal
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.paths import ROOT, result_file
from benchmarks.server_process import RANKFLEET, READY, serving

from rankfleet.bench.results import measured, write_results
from rankfleet.bench.serve import WARM_UP_CALLS, overhead
from rankfleet.cluster.environment import LOCAL, LOW_LATENCY
from rankfleet.core.fleet_file import read_config

CONFIG = ROOT / "benchmarks/one_replica.yaml"
PORT = 8645
ROUNDS = 3
SECONDS = 5.0
SETTLED_S = 3.0  # after the start


def serve_bare() -> None:
    """Run the bare application until Ctrl-C."""
    import os

    os.environ.update(LOW_LATENCY | LOCAL)
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions
    from ray.serve.schema import LoggingConfig
    from starlette.requests import Request

    dtype = read_config(CONFIG).groups["demo"].dtype

    @serve.deployment(ray_actor_options={"num_cpus": 0.5}, max_ongoing_requests=100)
    class BareModel:
        def __init__(self) -> None:
            import torch

            from rankfleet.engine.checkpoint.files import find_checkpoint
            from rankfleet.engine.runtime.scorer import Reranker

            torch.set_num_threads(1)
            tiers = ("small", "medium", "large")
            self.rerankers = {tier: Reranker.load(find_checkpoint(f"demo/{tier}"), dtype) for tier in tiers}
            self.thread = ThreadPoolExecutor(1)

        def rank(self, tier: str, query: str, documents: list[str]) -> dict[str, Any]:
            reranker, took_ms = self.rerankers[tier], 0.0

            def score(pairs: Any) -> Any:
                nonlocal took_ms
                started = time.perf_counter()
                logits = reranker.scorer.score(pairs)
                took_ms = (time.perf_counter() - started) * 1e3
                return logits

            logits = reranker.tokenizer.score(score, query, documents)
            return {"logits": logits.tolist(), "infer": took_ms}

        @serve.batch(max_batch_size=1, batch_wait_timeout_s=0.0)
        async def score(self, requests: list[tuple[str, str, list[str]]]) -> list[dict[str, Any]]:
            loop = asyncio.get_running_loop()
            return [await loop.run_in_executor(self.thread, self.rank, *request) for request in requests]

        async def __call__(self, tier: str, query: str, documents: list[str]) -> dict[str, Any]:
            reply: dict[str, Any] = await self.score((tier, query, documents))
            return reply

    @serve.deployment(ray_actor_options={"num_cpus": 0.1}, max_ongoing_requests=100)
    class BareIngress:
        def __init__(self, model: Any) -> None:
            self.model = model

        async def __call__(self, request: Request) -> dict[str, Any]:
            body = await request.json()
            reply = await self.model.remote(body["model"], body["query"], body["documents"])
            best = sorted(range(len(body["documents"])), key=lambda i: -reply["logits"][i])[: body["top_n"]]
            timing = {"infer": reply["infer"], "queue": 0.0}
            fleet = {"tier": body["model"], "quality": 0.0, "timing_ms": timing, "stages": [body["model"]]}
            return {"results": [{"index": i, "logit": reply["logits"][i]} for i in best], "rankfleet": fleet}

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, namespace="serve")
    http = HTTPOptions(host="127.0.0.1", port=PORT)
    serve.start(http_options=http, logging_config=LoggingConfig(enable_access_log=False))
    serve.run(BareIngress.bind(BareModel.bind()))
    print(READY, flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()
    ray.shutdown()


def run() -> None:
    fleet = read_config(CONFIG)
    url = f"http://127.0.0.1:{PORT}"
    ours = [*RANKFLEET, "serve", "--config", str(CONFIG), "--port", str(PORT)]
    commands = {"bare": [sys.executable, "-m", "benchmarks.bare_serve", "bare"], "rankfleet": ours}
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for turn in range(ROUNDS):
        for name, command in commands.items():
            with tempfile.TemporaryDirectory() as folder, serving(command, Path(folder)):
                time.sleep(SETTLED_S)
                rounds[name].append(overhead(url, fleet, SECONDS, seed=1))
            print(turn, name, rounds[name][-1], flush=True)
    figures = {name: medians(found) for name, found in rounds.items()}
    settings = {"rounds": ROUNDS, "seconds": SECONDS, "warm_up_calls": WARM_UP_CALLS}
    write_results(result_file("bare_serve"), settings | figures | {"by_round": rounds}, measured())


def medians(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The median over the rounds of every figure, by tier and number of clients."""
    first = rounds[0]
    return {
        tier: {
            clients: {key: round(statistics.median(r[tier][clients][key] for r in rounds), 2) for key in figures}
            for clients, figures in by_clients.items()
        }
        for tier, by_clients in first.items()
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("run", "bare"))
    {"run": run, "bare": serve_bare}[parser.parse_args().verb]()
