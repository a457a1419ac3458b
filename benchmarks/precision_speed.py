"""Pairs per second in each precision, and in what `auto` and `fastest` choose on this processor.

    python -m benchmarks.precision_speed [--threads N] [--json benchmarks/results/precision_speed.json]

For each model: one batch of 100 pairs with a mean of 154 tokens, in each precision in turn, median of all rounds. The
choices are measured anew. Their rate is compared with that of the fastest precision that they were allowed. The file
keeps the results of other processors.
"""

import argparse
import os
import statistics
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from benchmarks.contest.inputs import random_model

from rankfleet.bench.machine import cpu_instructions, cpu_name
from rankfleet.bench.results import measured, read_results, write_results
from rankfleet.core.errors import CheckpointError
from rankfleet.engine.checkpoint.files import Checkpoint, find_checkpoint
from rankfleet.engine.native.library import library
from rankfleet.engine.runtime.measure import synthetic_pairs, time_batch
from rankfleet.engine.runtime.precision import DTYPES
from rankfleet.engine.runtime.scorer import Scorer
from rankfleet.estimates.precision import CHOSEN

PAIRS, MEAN_TOKENS, LONGEST = 100, 154, 512


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    library()  # loaded before its folder is changed
    with TemporaryDirectory() as folder:
        os.environ["RANKFLEET_CACHE"] = folder  # so that no choice is remembered
        models = {}
        for name, checkpoint in checkpoints(options.shapes, options.models, Path(folder)):
            models[name] = figures(checkpoint, options.pairs, options.rounds)
            print(name, *(f"{key} {value}" for key, value in models[name].items()), sep="\n  ")
    if options.json is not None:
        about = measured() | {"threads": options.threads, "pairs": options.pairs, "mean_tokens": MEAN_TOKENS}
        before = read_results(options.json)["processors"] if options.json.exists() else {}
        here = {"measured": about | {"instructions": cpu_instructions()}, "models": models}
        write_results(options.json, {"processors": before | {cpu_name(): here}}, about)


def checkpoints(shapes: str, models: str, folder: Path) -> Iterator[tuple[str, Checkpoint]]:
    """Random models of published shapes, and named models."""
    yield from ((shape, random_model(shape, folder / shape)[0]) for shape in filter(None, shapes.split(",")))
    yield from ((name, find_checkpoint(name)) for name in filter(None, models.split(",")))


def figures(checkpoint: Checkpoint, pairs: int, rounds: int) -> dict[str, Any]:
    """Pairs per second by precision, and for each choice its precision and its speed ÷ that of the fastest that it was
    allowed."""
    scorers = {}
    for dtype in DTYPES:
        try:
            scorers[dtype] = Scorer.load(checkpoint, dtype, "cpu")
        except CheckpointError as error:
            print(f"not {dtype}: {error}")
    batch = synthetic_pairs(pairs, MEAN_TOKENS, min(LONGEST, *(s.max_pair for s in scorers.values())), vocabulary=1)
    times: dict[str, list[float]] = {dtype: [] for dtype in scorers}
    for _ in range(rounds + 1):
        for dtype, scorer in scorers.items():
            times[dtype].append(time_batch(scorer, batch).ms)
    rates = {dtype: round(1e3 * pairs / statistics.median(ms[1:]), 1) for dtype, ms in times.items()}
    found: dict[str, Any] = {"pairs_per_s": rates}
    for wanted in CHOSEN:
        chosen = Scorer.choose(checkpoint, wanted, "cpu")
        best = max(rates[dtype] for dtype in chosen.pairs_per_s or [chosen.dtype])
        of_best = round(rates[chosen.dtype] / best, 3)
        found[wanted] = {"dtype": chosen.dtype, "of_best_allowed": of_best, "reason": chosen.reason}
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="17m,32m", help="published sizes with random weights (%(default)s)")
    parser.add_argument("--models", default="demo/small,demo/medium,demo/large", help="checkpoints (%(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
