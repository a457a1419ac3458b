"""Random checkpoints in published shapes, and timing on their device."""

import math
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.contest.inputs import TRAINING_TEXTS, VOCABULARY
from benchmarks.contest.shapes import ETTIN, write_ettin

from rankfleet.bench.sample_texts import training_texts
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.engine.attention.varlen import SDPA, TRITON, named_attention, working_backends
from rankfleet.engine.checkpoint.files import Checkpoint
from rankfleet.engine.runtime.scorer import Scorer

SHAPES = {**ETTIN, "tiny": (128, 4, 2, 96)}  # hidden, layers, heads, MLP inner
MEAN_TOKENS, MAX_TOKENS, HEAD_WIDTH = 154, 512, 64
ENOUGH_S = 10.0  # most time spent on one figure
Result = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """How to measure. quick: few pairs and runs; backend: of attention."""

    device: torch.device
    quick: bool
    backend: str | None  # None for the best one installed

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @cached_property
    def backends(self) -> list[str]:
        return [*working_backends(self.device, HEAD_WIDTH), SDPA]

    @property
    def best(self) -> str:
        return self.backend or self.backends[0]

    def some(self, many: int, few: int) -> int:
        """A count: `few` in a quick run."""
        return few if self.quick else many


@dataclass(frozen=True)
class RandomModel:
    """A random checkpoint of one shape."""

    shape: str
    folder: Path
    setting: Setting

    def scorer(
        self,
        dtype: str = "bfloat16",
        backend: str | None = None,
        device: torch.device | None = None,
        graphs: bool = True,
    ) -> Scorer:
        where = device or self.setting.device
        name = SDPA if where.type == "cpu" or dtype == "float32" else backend or self.setting.best
        attention, own = named_attention(name, where), name == TRITON
        return Scorer.load(Checkpoint(self.folder), dtype, str(where), compiled=own, attention=attention, graphs=graphs)


def wait(setting: Setting) -> None:
    """Wait until the device has finished its work."""
    if setting.cuda:
        torch.cuda.synchronize(setting.device)


def seconds(setting: Setting, work: Callable[[], object], repeats: int, warm_up: int = 2) -> list[float]:
    """Wall time of each run, device work included. Slow work is run less often, to bound the time of a part."""
    began, times = time.perf_counter(), []
    for run in range(-warm_up, repeats):
        spent = time.perf_counter() - began
        if (-warm_up < run < 0 and spent > ENOUGH_S / 2) or (len(times) > 1 and spent > ENOUGH_S):
            continue
        wait(setting)
        started = time.perf_counter()
        work()
        wait(setting)
        if run >= 0:
            times.append(time.perf_counter() - started)
    return times


def mixed_lengths(pairs: int, seed: int = 1) -> np.ndarray:
    """int32 [pairs]: log-normal as documents are, mean about 154 tokens, cut at 512."""
    rng = np.random.default_rng(seed)
    return rng.lognormal(math.log(MEAN_TOKENS) - 0.18, 0.6, pairs).clip(8, MAX_TOKENS).astype(np.int32)


def tokenized(lengths: np.ndarray, seed: int = 1) -> TokenizedPairs:
    """Pairs of these lengths with random token ids."""
    ids = np.random.default_rng(seed).integers(5, 800, int(lengths.sum())).astype(np.int32)
    return TokenizedPairs(ids, lengths, np.full(len(lengths), 5, np.int32))


def replays(scorer: Scorer) -> Result:
    """How many sizes have a CUDA graph, and how many batches replayed one."""
    if scorer.graphs is None:
        return {"recorded": 0}
    runs = scorer.graphs.runs
    return {"recorded": len(scorer.graphs.recorded), "replayed": runs.total() - runs[None], "not_replayed": runs[None]}


def rate(setting: Setting, pairs: int, work: Callable[[], object]) -> Result:
    """Pairs per second, from the median of several runs."""
    times = seconds(setting, work, setting.some(7, 2))
    return {"pairs_per_s": round(pairs / statistics.median(times), 1), "runs_s": [round(t, 5) for t in times]}


def random_model(shape: str, setting: Setting, models: Path) -> RandomModel:
    """The random checkpoint of this shape, made once and kept in `models`."""
    folder = models / shape / "reranker"
    if not (folder / "modules.json").exists():
        shutil.rmtree(models / shape, ignore_errors=True)
        write_ettin(models / shape, SHAPES[shape], training_texts(TRAINING_TEXTS), VOCABULARY)
        shutil.rmtree(models / shape / "encoder")
    return RandomModel(shape, folder, setting)
