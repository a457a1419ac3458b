"""The contest: compares this engine's speed with its peers' and with the machine's matrix-product rate."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks.contest.contenders import PEERS, SHORT, ContestEntry, absent, entries_of
from benchmarks.contest.flops import Arithmetic
from benchmarks.contest.inputs import lengths_of, named_model, random_model, write_requests
from benchmarks.contest.process import ContenderFailed, WorkerProcess
from benchmarks.contest.report import ContestOutcome, ContestSetting, summary
from benchmarks.contest.rounds import time_in_turn
from benchmarks.contest.shapes import ETTIN
from benchmarks.contest.sweep import SIZES

from rankfleet.bench.machine import cpu_instructions
from rankfleet.bench.results import measured
from rankfleet.bench.sample_texts import save_requests
from rankfleet.core.errors import InvalidRequest, RankfleetError
from rankfleet.engine.runtime.loading import load_tokenizer
from rankfleet.engine.runtime.precision import DTYPES

WARM_UPS = 2  # requests scored before any is timed; batch sizes are chosen on the first
MAX_ROUNDS_FACTOR = 2  # at most this many times the rounds asked for, where other work disturbs some
TOKENIZED = 5  # requests that are only tokenized
ONNX_PEERS = ("onnxruntime", "openvino")

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Task:
    """What to measure. device: cpu or cuda."""

    model: str | None
    shape: str | None
    pairs: int
    mean_tokens: int
    max_tokens: int
    against: Sequence[str]
    dtypes: Sequence[str]
    device: str
    threads: int
    rounds: int

    @property
    def max_rounds(self) -> int:
        return MAX_ROUNDS_FACTOR * self.rounds

    @property
    def requests(self) -> int:
        """How many requests are written: to warm up, one for each round, and to tokenize."""
        return WARM_UPS + self.max_rounds + TOKENIZED

    def __post_init__(self) -> None:
        """Check the settings. Raises InvalidRequest that names the wrong option."""
        if (self.model is None) == (self.shape is None):
            raise InvalidRequest("give a model or a shape:  --model demo/large or --shape 17m")
        for option, given, known in (
            ("--shape", [self.shape] if self.shape else [], ETTIN),
            ("--against", self.against, PEERS),
            ("--dtype", self.dtypes, DTYPES),
        ):
            for name in given:
                if name not in known:
                    raise InvalidRequest(f"{option} {name}: there are {', '.join(known)}")
        if not self.dtypes:
            raise InvalidRequest("--dtype: give one at least")


@dataclass
class Contest:
    """Outcomes so far. missing: why peers and entries gave no figures; rates: matrix-product rates by precision."""

    outcomes: list[ContestOutcome] = field(default_factory=list)
    missing: dict[str, dict[str, str]] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def run(task: Task, progress: Progress) -> dict[str, Any]:
    """Run the whole contest; returns the figures as they are written."""
    contest = Contest(missing={peer: {"absent": why} for peer in task.against if (why := absent(peer, task.device))})
    with tempfile.TemporaryDirectory(prefix="rankfleet-bench-") as name:
        work = Path(name)
        progress("preparing the model")
        if task.shape is not None:
            checkpoint, plain = random_model(task.shape, work / "model")
        else:
            assert task.model
            checkpoint, plain = named_model(task.model, work / "model")
        tokenizer = load_tokenizer(checkpoint, task.max_tokens)
        requests = write_requests(task.requests, task.pairs, task.mean_tokens, tokenizer)
        save_requests(requests, work / "texts.json")
        lengths = lengths_of(requests[0], tokenizer)
        flops = Arithmetic.of(checkpoint.config).work(lengths)
        export(task, contest, plain, progress)
        time_all(task, contest, checkpoint.folder, plain, work / "texts.json", progress)
    if not any(outcome.entry.peer == "rankfleet" for outcome in contest.outcomes):
        reasons = (f"{name}: {why['failed']}" for name, why in contest.missing.items() if name.startswith("rankfleet"))
        raise RankfleetError("this engine gave no figures; " + "; ".join(reasons))
    return summary(contest.outcomes, contest.missing, ContestSetting(lengths, flops, contest.rates)) | {
        "measured": measured(None if task.device == "cpu" else gpu_name())
        | {
            "versions": contest.versions,
            "matmul_gflop_per_s": {name: round(rate / 1e9, 1) for name, rate in contest.rates.items()},
            "instructions": cpu_instructions(),
            "undisturbed": all(outcome.timed.undisturbed for outcome in contest.outcomes),
        },
        "work": {
            "model": task.model or f"random weights in the shape of {task.shape}",
            "pairs": len(lengths),
            "mean_tokens": round(mean(lengths), 2),
            "longest_tokens": max(lengths),
            "max_tokens": task.max_tokens,
            "linear_gflop": round(flops.linear / 1e9, 3),
            "attention_gflop": round(flops.attention / 1e9, 3),
            "first_token_only_gflop": round(flops.first_token_only / 1e9, 3),
        },
        "threads": task.threads,
        "rounds": task.rounds,
    }


def export(task: Task, contest: Contest, plain: Path, progress: Progress) -> None:
    """Export the model to ONNX for the peers that need it, in a process of its own."""
    waiting = [peer for peer in task.against if peer in ONNX_PEERS and peer not in contest.missing]
    if not waiting:
        return
    progress("exporting the model to ONNX")
    try:
        with WorkerProcess(task.threads) as worker:
            worker.order("export", model=str(plain), max_tokens=task.max_tokens)
    except ContenderFailed as error:
        contest.missing |= {peer: {"failed": f"export to ONNX: {error}"} for peer in waiting}


def time_all(task: Task, contest: Contest, own: Path, plain: Path, texts: Path, progress: Progress) -> None:
    """Load all contenders, let each choose its batch size, then time them in turn.

    The machine's matrix-product rate is measured before each round.
    """
    entries = [ContestEntry(f"rankfleet-{SHORT[dtype]}", "rankfleet", dtype) for dtype in task.dtypes]
    entries += [entry for peer in task.against if peer not in contest.missing for entry in entries_of(peer)]
    handles: dict[str, WorkerProcess] = {}
    outcomes: dict[str, ContestOutcome] = {}
    with ExitStack() as stack:
        matrices = stack.enter_context(WorkerProcess(task.threads))
        for entry in entries:
            worker = stack.enter_context(WorkerProcess(task.threads))
            try:
                model = own if entry.peer == "rankfleet" else plain
                outcomes[entry.name] = get_ready(task, worker, entry, model, texts, contest, progress)
                handles[entry.name] = worker
            except ContenderFailed as error:
                contest.missing[entry.name] = {"failed": str(error)}
                worker.close()
        measured = -1

        def on_turn(number: int, name: str) -> None:
            nonlocal measured
            if number > measured:
                measured = number
                progress(f"round {number + 1}: the machine's matrix products")
                rates = matrices.order("rates", device=task.device, threads=task.threads)["rates"]
                contest.rates = {key: max(rate, contest.rates.get(key, 0.0)) for key, rate in rates.items()}
            progress(f"round {number + 1}: {name}")

        timed, failed = time_in_turn(handles, task.rounds, task.max_rounds, WARM_UPS, on_turn)
        contest.missing |= {name: {"failed": why} for name, why in failed.items()}
        for name, times in timed.items():
            outcome = outcomes[name]
            outcome.timed = times
            if outcome.entry.peer == "rankfleet":
                unseen = range(task.requests - TOKENIZED, task.requests)
                tokenize_s = median(handles[name].order("tokenize", request=i)["seconds"] for i in unseen)
                outcome.details |= {
                    "tokenize_ms": round(tokenize_s * 1e3, 2),
                    "tokenize_share": round(tokenize_s / times.median_s, 4),
                }
            contest.outcomes.append(outcome)


def get_ready(
    task: Task,
    worker: WorkerProcess,
    entry: ContestEntry,
    model: Path,
    texts: Path,
    contest: Contest,
    progress: Progress,
) -> ContestOutcome:
    """Load one contender, warm it up and let it choose its batch size. Raises ContenderFailed."""
    progress(f"{entry.name}: loading and warming up")
    loaded = worker.order(
        "load",
        peer=entry.peer,
        model=str(model),
        dtype=entry.dtype,
        device=task.device,
        threads=task.threads,
        max_tokens=task.max_tokens,
        texts=str(texts),
    )
    contest.versions |= loaded["versions"]
    progress(f"{entry.name}: choosing its batch size")
    swept = worker.order("sweep", sizes=SIZES[task.device])
    details: dict[str, Any] = {"load_s": round(loaded["load_s"], 2)}
    if swept["batch_size"] is not None:
        details["sweep_pairs_per_s"] = {size: round(task.pairs / s, 2) for size, s in swept["sweep_s"].items()}
    return ContestOutcome(entry, worker.order("score")["scores"], swept["batch_size"], details)


def gpu_name() -> str:
    import torch

    return str(torch.cuda.get_device_name())
