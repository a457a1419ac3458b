"""The engine by itself: correctness, latency model, latency, memory, and its share of the matrix-product rate."""

import resource
import statistics
import time
from functools import partial

import numpy as np
import torch
from benchmarks.contest.report import kendall_tau
from benchmarks.gpu.random_model import (
    MAX_TOKENS,
    MEAN_TOKENS,
    SHAPES,
    RandomModel,
    Result,
    Setting,
    mixed_lengths,
    rate,
    replays,
    seconds,
    tokenized,
)

from rankfleet.bench.profile import profile_scorer
from rankfleet.engine.attention.varlen import SDPA
from rankfleet.engine.runtime.measure import GRID, QUICK


def correctness(model: RandomModel) -> Result:
    """Compare every back-end and precision with float32 on the CPU: largest difference and Kendall's tau."""
    setting = model.setting
    lengths = np.concatenate([mixed_lengths(setting.some(60, 10)), [8, 65, 66, 512]]).astype(np.int32)
    pairs = tokenized(lengths)
    truth = model.scorer("float32", device=torch.device("cpu")).score(pairs)
    result: Result = {"pairs": len(pairs), "score_std": float(truth.std())}
    arms = [("float32", SDPA, False), *(("bfloat16", name, on) for name in setting.backends for on in (False, True))]
    for dtype, backend, graphs in arms:
        scorer = model.scorer(dtype, backend, graphs=graphs)
        if graphs and not (scorer.graphs and scorer.graphs.recorded):
            continue  # this back-end records no graphs
        scores = scorer.score(pairs)
        result[f"{dtype} {backend}{', graphs' if graphs else ''}"] = {
            "max_abs_diff": float(np.abs(scores - truth).max()),
            "kendall_tau": round(kendall_tau(scores, truth), 5),
        }
    return result


def curves(model: RandomModel) -> Result:
    """Time batches of many sizes and fit the latency model that `rankfleet profile` stores."""
    setting = model.setting
    shapes = QUICK if setting.quick else GRID
    profile = profile_scorer(model.scorer(), MAX_TOKENS, shapes, setting.some(6, 2), setting.some(60, 30))
    return {
        "model": profile.model.to_json(),
        "held_out_error": profile.errors.to_json(),
        "samples": [[s.work.pairs, s.work.tokens, round(s.ms, 4)] for s in profile.samples],
    }


def latency(model: RandomModel) -> Result:
    """Time one request of 100 pairs of 154 tokens, from token ids to scores on the host, with nothing else running."""
    setting = model.setting
    pairs = tokenized(np.full(setting.some(100, 5), MEAN_TOKENS, np.int32))
    result: Result = {"pairs": len(pairs), "tokens_each": MEAN_TOKENS}
    for graphs in (True, False):
        started = time.perf_counter()
        scorer = model.scorer(graphs=graphs)
        loaded_s = time.perf_counter() - started
        work = partial(scorer.score, pairs)
        ms = np.array(seconds(setting, work, setting.some(300, 4), setting.some(20, 1))) * 1e3
        p50, p99 = np.quantile(ms, [0.5, 0.99]).round(4).tolist()
        result["with graphs" if graphs else "without"] = {
            "p50_ms": p50,
            "p99_ms": p99,
            "min_ms": round(float(ms.min()), 4),
            "load_s": round(loaded_s, 2),
            **replays(scorer),
        }
    return result


def memory(model: RandomModel) -> Result:
    """Measure the peak memory while one document of 8192 tokens is scored among a thousand short ones."""
    setting = model.setting
    longest = setting.some(8192, 1024)
    lengths = np.concatenate([mixed_lengths(setting.some(1000, 20)).clip(max=96), [longest]]).astype(np.int32)
    scorer, pairs = model.scorer(), tokenized(lengths)
    result: Result = {"pairs": len(pairs), "longest": longest}
    if setting.cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(setting.device)
        result["held_before_mib"] = torch.cuda.memory_allocated(setting.device) >> 20
    started = time.perf_counter()
    scores = scorer.score(pairs)
    result |= {"seconds": round(time.perf_counter() - started, 4), "finite": bool(np.isfinite(scores).all())}
    if setting.cuda:
        result["peak_mib"] = torch.cuda.max_memory_allocated(setting.device) >> 20
        result["reserved_mib"] = torch.cuda.max_memory_reserved(setting.device) >> 20
    else:
        result["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return result


def matrix_rate(setting: Setting) -> float:
    """TFLOP/s of bfloat16 matrix products on random data."""
    size = 8192 if setting.cuda else setting.some(1024, 256)
    a, b = (torch.randn(size, size, device=setting.device).bfloat16() for _ in range(2))
    times = seconds(setting, lambda: a @ b, setting.some(20, 3), 3)
    return 2 * size**3 / statistics.median(times) / 1e12


def product_flops(shape: str, lengths: np.ndarray) -> float:
    """Floating-point operations of all matrix products with weights.

    Attention's own products are left out. The last layer counts keys and values of all tokens, and the rest for first
    tokens alone.
    """
    hidden, layers, _, inner = SHAPES[shape]
    tokens, pairs = int(lengths.sum()), len(lengths)
    layer = 4 * hidden**2 + 3 * hidden * inner
    return 2.0 * (tokens * (layers - 1) * layer + tokens * 3 * hidden**2 + pairs * layer)


def matmul(model: RandomModel) -> Result:
    """Measure throughput as a fraction of what the card's bfloat16 matrix rate allows."""
    setting = model.setting
    tflops = matrix_rate(setting)
    pairs = tokenized(mixed_lengths(setting.some(8000, 12)))
    scorer = model.scorer()
    measured = rate(setting, len(pairs), lambda: scorer.score(pairs))
    bound = tflops * 1e12 / product_flops(model.shape, pairs.lengths) * len(pairs)
    return {
        **measured,
        "tokens_per_s": round(measured["pairs_per_s"] * float(pairs.lengths.mean())),
        "measured_tflops": round(tflops, 2),
        "bound_pairs_per_s": round(bound, 1),
        "bound_fraction": round(measured["pairs_per_s"] / bound, 4),
        **replays(scorer),
    }
