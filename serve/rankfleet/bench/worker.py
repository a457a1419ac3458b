"""One contender in one process: orders come as lines of JSON on standard input, answers go out as lines of JSON.

    {"do": "load", "peer": …, "model": …, …}  → {"versions": {…}, "load_s": …}
    {"do": "sweep", "sizes": […]}             → {"batch_size": …, "sweep_s": {…}}; null where there is none to choose
    {"do": "score"}                           → {"scores": […]}
    {"do": "time", "request": i}              → {"seconds": …, "cpu_s": …, "idle_cpu_s": …}
    {"do": "tokenize", "request": i}          → {"seconds": …}
    {"do": "rates", "device": …}              → {"rates": {"float32": …}}
    {"do": "export", …}                       → {}

An order that fails is answered with {"error": …}, and the process goes on.
"""

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from rankfleet.bench.contenders import CONTENDERS, Contender, Rankfleet, export_onnx
from rankfleet.bench.machine import matmul_rates
from rankfleet.bench.sweep import best_batch
from rankfleet.bench.texts import Request, read_requests

WARM_UP_BATCH = 4


class Worker:
    """Holds the contender between orders."""

    def __init__(self) -> None:
        self.contender: Contender | None = None
        self.requests: list[Request] = []
        self.batch_size = WARM_UP_BATCH
        self.cpu_at_rest = 0.0

    def load(self, peer: str, model: str, dtype: str, device: str, threads: int, max_tokens: int, texts: str) -> Any:
        started = time.perf_counter()
        self.requests = read_requests(Path(texts))
        self.contender = CONTENDERS[peer](model, dtype, device, threads, max_tokens)
        loaded = time.perf_counter()
        for request in self.requests[:2]:
            self.contender.score(request, self.batch_size)
        return {
            "versions": self.contender.versions,
            "load_s": loaded - started,
            "warm_up_s": time.perf_counter() - loaded,
        }

    def sweep(self, sizes: list[int]) -> Any:
        assert self.contender
        if not self.contender.batches:
            return {"batch_size": None, "sweep_s": {}}
        self.batch_size, seconds = best_batch(lambda size: self.pass_s(0, size), sizes)
        return {"batch_size": self.batch_size, "sweep_s": seconds}

    def score(self) -> Any:
        assert self.contender
        return {"scores": [float(s) for s in self.contender.score(self.requests[0], self.batch_size)]}

    def time(self, request: int) -> Any:
        idle = time.process_time() - self.cpu_at_rest if self.cpu_at_rest else 0.0
        before = time.process_time()
        seconds = self.pass_s(request, self.batch_size)
        return {"seconds": seconds, "cpu_s": time.process_time() - before, "idle_cpu_s": idle}

    def tokenize(self, request: int) -> Any:
        assert isinstance(self.contender, Rankfleet)
        return {"seconds": self.contender.tokenize_s(self.requests[request])}

    def rates(self, device: str, threads: int) -> Any:
        import torch

        torch.set_num_threads(threads)
        return {"rates": matmul_rates(device)}

    def export(self, model: str, max_tokens: int) -> Any:
        export_onnx(model, max_tokens)
        return {}

    def pass_s(self, request: int, batch_size: int) -> float:
        """Seconds of one scoring of all the pairs."""
        assert self.contender
        started = time.perf_counter()
        self.contender.score(self.requests[request], batch_size)
        return time.perf_counter() - started


def stay_on(threads: int) -> None:
    """Keep this process on so many CPUs, so that no contender gets more than another by starting more threads."""
    if hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def serve(orders: TextIO, answers: TextIO) -> None:
    worker = Worker()
    for line in orders:
        order = json.loads(line)
        try:
            answer = getattr(worker, order.pop("do"))(**order)
        except Exception as error:  # whatever a peer raises ends its part, not the bench
            answer = {"error": f"{type(error).__name__}: {error}"}
        worker.cpu_at_rest = time.process_time()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    stay_on(int(sys.argv[1]))
    # Libraries print what they like: their standard output becomes standard error, answers have a pipe of their own.
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.stdin, pipe)
