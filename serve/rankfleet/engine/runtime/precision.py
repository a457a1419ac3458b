"""The precision that a model computes in, measured where it is to be the fastest."""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch

from rankfleet.core.errors import CheckpointError
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.engine.checkpoint.files import Checkpoint
from rankfleet.engine.native.library import cpu_flags, library
from rankfleet.engine.runtime.checkpoint_checks import check_checkpoint
from rankfleet.engine.runtime.measure import synthetic_pairs
from rankfleet.engine.runtime.rate_cache import RateCache, conditions
from rankfleet.estimates.precision import CHOSEN, Precision, Rates, choose

DTYPES = ("float32", "bfloat16", "int8")
TORCH_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PAIRS, MEAN_TOKENS = 4, 154  # of the batch that is measured; passages of Natural Questions have this mean
MIN_ROUNDS, MEASURE_S = 3, 0.1
SHORTEST_S = 1e-9  # of a round: a clock of CPU time may stand still for one


class TimedScorer(Protocol):
    """What is measured: a `Scorer`, or a fake."""

    max_pair: int

    def score(self, pairs: TokenizedPairs) -> np.ndarray: ...


def choose_precision(
    wanted: str, checkpoint: Checkpoint, device: torch.device, compiled: bool, load: Callable[[str], TimedScorer]
) -> Precision:
    """The precision to compute in: `wanted` itself, or what `auto` or `fastest` mean for this model on this device.

    Both are bfloat16 on GPUs that have it. On a CPU they are the fastest of those allowed (`estimates/precision.py`),
    measured once for each kind of processor and model shape.

    compiled: whether the compiled kernels may be used. load: the model in a given precision, to measure it.
    Raises CheckpointError for int8 where it cannot be computed, and where it measures, as `check_checkpoint` does.
    """
    kernels = library() if device.type == "cpu" and compiled else None
    if wanted not in CHOSEN:
        if wanted == "int8" and (kernels is None or "int8" not in kernels.dtypes):
            raise CheckpointError("int8 needs a CPU with AVX512-VNNI and a C++ compiler; set dtype to auto")
        return Precision(wanted, "named in the fleet file")
    if device.type == "cuda":
        has_it = torch.cuda.is_bf16_supported(including_emulation=False)
        return Precision("bfloat16", "this GPU has it") if has_it else Precision("float32", "this GPU has no bfloat16")
    computable = set(kernels.dtypes) if check_checkpoint(checkpoint) and kernels is not None else set[str]()
    if cpu_flags() & {"avx512_bf16", "amx_bf16"}:
        computable.add("bfloat16")
    cache = RateCache(conditions(checkpoint.config, compiled))

    def remembered(dtypes: Sequence[str]) -> Rates:
        rates = cache.read(dtypes)
        if rates is None:
            rates = {dtype: measure_rate(load(dtype)) for dtype in dtypes}  # one after the other, to save memory
            cache.write(rates)
        return rates

    return choose(wanted, computable, checkpoint.precision_costs, remembered)


def measure_rate(scorer: TimedScorer, clock: Callable[[], float] = time.thread_time) -> float:
    """Pairs per second on one thread, in the best of several rounds, after one that warms up.

    CPU time counts, so that other work on these cores does not decide what is then remembered. Of several threads it
    would contain the time for which they wait for each other. clock: seconds of CPU time.
    """
    batch = synthetic_pairs(PAIRS, MEAN_TOKENS, scorer.max_pair, vocabulary=1)
    threads, until_s, times_s = torch.get_num_threads(), clock() + MEASURE_S, list[float]()
    torch.set_num_threads(1)
    try:
        while len(times_s) <= MIN_ROUNDS or clock() < until_s:
            started_s = clock()
            scorer.score(batch)
            times_s.append(clock() - started_s)
    finally:
        torch.set_num_threads(threads)
    return PAIRS / max(min(times_s[1:]), SHORTEST_S)
