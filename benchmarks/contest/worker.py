"""One contender in one process: reads orders as lines of JSON from standard input and writes answers as lines of JSON.

    {"do": "load", "peer": …, "model": …, …}  → {"versions": {…}, "load_s": …}
    {"do": "sweep", "sizes": […]}             → {"batch_size": …, "sweep_s": {…}}; null where it has none
    {"do": "score"}                           → {"scores": […]}
    {"do": "time", "request": i}              → {"seconds": …, "disturbed": …, "cpu_s": …, …}
    {"do": "tokenize", "request": i}          → {"seconds": …}
    {"do": "rates", "device": …}              → {"rates": {"float32": …}}
    {"do": "export", …}                       → {}

A failed order is answered with {"error": …}, and the process goes on.
"""

import contextlib
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from benchmarks.contest.contenders import CONTENDERS, Contender, Rankfleet, export_onnx
from benchmarks.contest.sweep import best_batch

from rankfleet.bench.machine import busy_s, matmul_rates
from rankfleet.bench.sample_texts import SampleRequest, read_requests

WARM_UP_BATCH = 4
DISTURBED = 0.05  # CPUs that other processes may use during a pass
TICKS_S = 0.02  # the kernel counts CPU time in steps of 10 ms
QUIET_TRIES = 3
LONG_S = 4.0  # passes that take this long together are not repeated


@dataclass(frozen=True)
class Pass:
    """One scoring of all pairs: its time, CPU time of this process and of all others, and whether the others used so
    much that the time is unreliable."""

    seconds: float
    cpu_s: float
    others_cpu_s: float
    disturbed: bool


class ContestWorker:
    """Runs orders on one contender."""

    def __init__(self) -> None:
        self.contender: Contender | None = None
        self.requests: list[SampleRequest] = []
        self.batch_size = WARM_UP_BATCH
        self.cpu_at_rest_s = 0.0

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
        self.batch_size, seconds = best_batch(self.quiet_pass_s, sizes)
        return {"batch_size": self.batch_size, "sweep_s": seconds}

    def score(self) -> Any:
        assert self.contender
        return {"scores": [float(s) for s in self.contender.score(self.requests[0], self.batch_size)]}

    def time(self, request: int) -> Any:
        idle_cpu_s = time.process_time() - self.cpu_at_rest_s
        return vars(self.timed_pass(request, self.batch_size)) | {"idle_cpu_s": idle_cpu_s}

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

    def timed_pass(self, request: int, batch_size: int) -> Pass:
        """Score all pairs of a request once, and time it."""
        assert self.contender
        started, cpu_before, busy_before = time.perf_counter(), time.process_time(), busy_s()
        self.contender.score(self.requests[request], batch_size)
        seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu_before
        others_cpu_s = max(0.0, busy_s() - busy_before - cpu_s)
        return Pass(seconds, cpu_s, others_cpu_s, others_cpu_s > DISTURBED * seconds + TICKS_S)

    def quiet_pass_s(self, batch_size: int) -> float:
        """Seconds of the first undisturbed pass, or of the fastest of several."""
        seconds = []
        for _ in range(QUIET_TRIES):
            taken = self.timed_pass(0, batch_size)
            seconds.append(taken.seconds)
            if not taken.disturbed or sum(seconds) > LONG_S:
                break
        return min(seconds)


def stay_on(threads: int) -> None:
    """Pin this process to `threads` CPUs, so that no contender gains by starting more threads."""
    if hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def serve(orders: TextIO, answers: TextIO) -> None:
    """Answer each order until the input ends."""
    worker = ContestWorker()
    for line in orders:
        order = json.loads(line)
        try:
            answer = getattr(worker, order.pop("do"))(**order)
        except Exception as error:  # an exception of a peer ends its part, not the contest
            answer = {"error": f"{type(error).__name__}: {error}"}
        worker.cpu_at_rest_s = time.process_time()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    stay_on(int(sys.argv[1]))
    # Libraries may print: their standard output goes to standard error, and answers have a pipe of their own.
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.stdin, pipe)
