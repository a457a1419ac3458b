"""Compare what a request costs beside the engine in Rankfleet and in a bare Ray Serve application with the same engine.

    python -m benchmarks.bare_serve run      writes benchmarks/results/bare_serve.json

The bare application has the same Serve settings and precision, an ingress and a replica with one thread, and
`@serve.batch` without a wait. It has no budgets, plans, deadlines, checks or cache. Both are measured in turn, as
`rankfleet bench serve` does: 20 short documents, the client's time minus the engine's.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from benchmarks.paths import ROOT, result_file

from rankfleet.bench.results import measured, write_results
from rankfleet.bench.serve import WARM_UP_CALLS, overhead
from rankfleet.cluster.environment import LOCAL, LOW_LATENCY
from rankfleet.core.config import read_config

CONFIG = ROOT / "benchmarks/one_replica.yaml"
PORT = 8645
ROUNDS = 3
SECONDS = 5.0
START_S = 120.0


def serve_bare() -> None:
    """Run the bare application until standard input is closed."""
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
    print("Ctrl-C ends it", flush=True)
    sys.stdin.read()
    ray.shutdown()


@contextmanager
def running(command: list[str], path: str) -> Iterator[None]:
    """Start a server, wait until it answers on PORT, and end it afterwards."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            try:
                body = {"query": "a", "documents": ["b", "c"], "model": "small", "top_n": 2}
                url = f"http://127.0.0.1:{PORT}{path}"
                if httpx.post(url, json=body, timeout=5, trust_env=False).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            time.sleep(0.5)
        else:
            raise SystemExit(f"no answer within {START_S:.0f} s: {' '.join(command)}")
        time.sleep(3.0)
        yield
    finally:
        if "bare" in command:
            process.stdin.close()  # type: ignore[union-attr]
        else:
            process.send_signal(2)
        process.wait()


def run() -> None:
    fleet = read_config(CONFIG)
    url = f"http://127.0.0.1:{PORT}"
    ours = [str(Path(sys.executable).with_name("rankfleet")), "serve", "--config", str(CONFIG), "--port", str(PORT)]
    commands = {"bare": [sys.executable, "-m", "benchmarks.bare_serve", "bare"], "rankfleet": ours}
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for turn in range(ROUNDS):
        for name, command in commands.items():
            with running(command, "/v1/rerank"):
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
