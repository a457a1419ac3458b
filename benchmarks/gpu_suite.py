"""Measure the engine on a GPU, part by part, into one JSON file.

Needs torch >= 2.11, transformers >= 5.17, sentence-transformers >= 6.0 and Python >= 3.11, but neither Ray nor an
installation: run it from a source tree. Models have random weights in the shapes of the Ettin rerankers, so nothing is
downloaded. Their speed is that of the published models; their scores mean nothing.
"""

import argparse
import importlib.util
import json
import math
import random
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "serve"), str(ROOT)]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from benchmarks.contest.report import kendall_tau  # noqa: E402
from benchmarks.contest.shapes import ETTIN  # noqa: E402
from tests.engine.checkpoints import TEXT, ettin  # noqa: E402
from torch.nn.functional import scaled_dot_product_attention  # noqa: E402

from rankfleet.bench.profile import profile_scorer  # noqa: E402
from rankfleet.bench.results import measured, read_results, write_results  # noqa: E402
from rankfleet.core.pairs import TokenizedPairs  # noqa: E402
from rankfleet.engine.attention.packed import Attention, band_mask  # noqa: E402
from rankfleet.engine.attention.packing import PackedBatch, pack  # noqa: E402
from rankfleet.engine.attention.varlen import SDPA, installed_backends, named_attention  # noqa: E402
from rankfleet.engine.checkpoint.files import Checkpoint  # noqa: E402
from rankfleet.engine.runtime.measure import GRID, QUICK  # noqa: E402
from rankfleet.engine.runtime.scorer import Reranker, Scorer  # noqa: E402
from rankfleet.engine.text.tokenizer import PairTokenizer  # noqa: E402
from rankfleet.estimates.latency import LatencyModel  # noqa: E402
from rankfleet.estimates.profile import profile_json  # noqa: E402

SHAPES = {**ETTIN, "tiny": (128, 4, 2, 96)}  # hidden, layers, heads, MLP inner
MEAN_TOKENS, MAX_TOKENS = 154, 512
ENOUGH_S = 10.0  # most time spent on one figure
PACKAGES = ("sentence-transformers", "flash-attn", "triton")  # whose versions are recorded besides the usual ones
PARTS = ("correctness", "ablation", "compare", "curves", "latency", "memory", "matmul")
# pairs/s from the blog "Introducing the Ettin Reranker Family": H100, natural lengths.
PUBLISHED_H100 = {"17m": 7517, "32m": 6602, "68m": 4913, "150m": 3237, "400m": 1738, "1b": 928}
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
        found = installed_backends(torch.cuda.get_device_capability(self.device)) if self.cuda else []
        return [*found, SDPA]

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
        attention = named_attention(name, where)
        return Scorer.load(Checkpoint(self.folder), dtype, str(where), attention=attention, graphs=graphs)


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


# --- correctness -------------------------------------------------------------------------------------------------


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


# --- ablation ----------------------------------------------------------------------------------------------------


class PaddedAttention:
    """Attention over a batch in which every pair is padded to the longest, as most engines compute it.

    Either SDPA with a mask, or a variable-length kernel around which the tokens are gathered and scattered in every
    layer.
    """

    def __init__(self, inner: Attention | None) -> None:
        self.inner = inner  # None for SDPA
        self.lengths = torch.empty(0)
        self.packed: PackedBatch | None = None
        self.rows = torch.empty(0)

    def prepare(self, padded: PackedBatch, real: TokenizedPairs, device: torch.device) -> None:
        """Set the next batch, with padding and without."""
        self.packed = pack(real, device)
        self.lengths = self.packed.lengths
        first = torch.repeat_interleave(padded.firsts, self.lengths, output_size=real.tokens)
        self.rows = first + self.packed.positions

    def every_token(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        batch: PackedBatch,
        window: int | None = None,
        causal: bool = False,
    ) -> torch.Tensor:
        if self.inner is not None:
            assert self.packed is not None
            picked = (t[self.rows] for t in (query, key, value))
            attended = self.inner.every_token(*picked, self.packed, window, causal)
            out = attended.new_zeros((len(query), attended.shape[1]))
            out[self.rows] = attended
            return out
        heads, width = query.shape[1:]
        length = batch.max_length
        q, k, v = (t.reshape(-1, length, heads, width).transpose(1, 2) for t in (query, key, value))
        seen = (torch.arange(length, device=query.device) < self.lengths[:, None])[:, None, None]
        if window is not None:
            # A padded query may have no key at all; it attends to itself, so that there is no NaN.
            seen = (seen & band_mask(length, length, 0, window, query.device)) | torch.eye(
                length, dtype=torch.bool, device=query.device
            )
        return scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).reshape(len(query), -1)

    def one_token(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        batch: PackedBatch,
        window: int | None = None,
    ) -> torch.Tensor:
        heads, width = query.shape[1:]
        if self.inner is not None:
            assert self.packed is not None
            return self.inner.one_token(query, key[self.rows], value[self.rows], self.packed, window)
        length = batch.max_length
        seen = torch.arange(length, device=query.device) < self.lengths[:, None]
        if window is not None:
            seen &= torch.arange(length, device=query.device) <= window
        k, v = (t.reshape(-1, length, heads, width).transpose(1, 2) for t in (key, value))
        scored = scaled_dot_product_attention(query[:, :, None], k, v, attn_mask=seen[:, None, None])
        return scored.squeeze(2).flatten(1)


class PaddedScorer:
    """The engine's own encoder and head over padded batches; `score` has the interface of `Scorer.score`."""

    def __init__(self, model: RandomModel, dtype: str, inner: Attention | None, batch_size: int) -> None:
        self.attention = PaddedAttention(inner)
        device = str(model.setting.device)
        self.scorer = Scorer.load(Checkpoint(model.folder), dtype, device, attention=self.attention)
        self.device = model.setting.device
        self.batch_size = batch_size

    @torch.inference_mode()
    def score(self, pairs: TokenizedPairs) -> np.ndarray:
        scores = np.empty(len(pairs), dtype=np.float32)
        order = np.argsort(pairs.lengths, kind="stable")
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            real = pairs.take(rows)
            longest = int(real.lengths.max())
            ids = np.zeros((len(real), longest), dtype=np.int32)
            ids[np.arange(longest) < real.lengths[:, None]] = real.ids
            full = replace(real, ids=ids.ravel(), lengths=np.full(len(real), longest, np.int32))
            batch = pack(full, self.device)
            self.attention.prepare(batch, real, self.device)
            scores[rows] = self.scorer.forward(batch).cpu().numpy()
        return scores


def ablation(model: RandomModel) -> Result:
    """Repeat the published ablation on this engine's encoder: precision, kernel, padding."""
    setting = model.setting
    pairs = tokenized(mixed_lengths(setting.some(2000 if SHAPES[model.shape][0] < 1000 else 400, 12)))
    kernel = next((name for name in setting.backends if name != SDPA), None)
    arms: dict[str, tuple[str, str | None, bool]] = {
        "fp32 + SDPA, padded": ("float32", None, True),
        "bf16 + SDPA, padded": ("bfloat16", None, True),
        "bf16 + varlen, padded": ("bfloat16", kernel, True),
        "bf16 + varlen, unpadded": ("bfloat16", kernel, False),
    }
    result: Result = {"pairs": len(pairs), "kernel": kernel or "none installed: SDPA on runs of equal length instead"}
    for name, (dtype, backend, padded) in arms.items():
        if padded:
            varlen = "varlen" in name
            inner = named_attention(backend or SDPA, setting.device) if varlen else None
            tried = []
            for batch_size in (32, 128, 512)[: setting.some(3, 1)]:
                scorer = PaddedScorer(model, dtype, inner, batch_size)
                tried.append({"batch_size": batch_size, **rate(setting, len(pairs), partial(scorer.score, pairs))})
            result[name] = max(tried, key=lambda r: r["pairs_per_s"])
        else:
            result[name] = rate(setting, len(pairs), partial(model.scorer(dtype, backend).score, pairs))
    return result


# --- comparison --------------------------------------------------------------------------------------------------


def texts(tokenizer: PairTokenizer, count: int) -> tuple[str, list[str]]:
    """A query and documents that make pairs of about 154 tokens."""
    rng = random.Random(1)
    words = " ".join(TEXT[:4]).split()
    query = "how does the boundary layer heat a wing?"
    per_word = len(tokenizer.encode([" ".join(words)])[0]) / len(words)
    wanted = mixed_lengths(count) - len(tokenizer.encode([query])[0]) - 3
    return query, [" ".join(rng.choices(words, k=max(1, round(n / per_word)))) for n in wanted.tolist()]


def peer_attention(setting: Setting) -> tuple[str, str]:
    """Attention implementation of Sentence Transformers, and its name in the results."""
    if not setting.cuda:
        return "sdpa", "fp32 + SDPA on CPU"
    try:
        import flash_attn

        return "flash_attention_2", f"bf16 + Flash Attention 2 unpadded (flash-attn {flash_attn.__version__})"
    except Exception:
        return "sdpa", "bf16 + SDPA padded: flash-attn is not installed, so this is not the published path"


def compare(model: RandomModel) -> Result:
    """Compare with Sentence Transformers on the same card and texts, in turn, each at its best batch size."""
    from sentence_transformers import CrossEncoder

    setting = model.setting
    implementation, label = peer_attention(setting)
    dtype = "bfloat16" if setting.cuda else "float32"
    peer = CrossEncoder(
        str(model.folder),
        device=str(setting.device),
        model_kwargs={"dtype": getattr(torch, dtype), "attn_implementation": implementation},
        processor_kwargs={"model_max_length": MAX_TOKENS},
    )
    ours = Reranker(model.scorer(dtype), PairTokenizer.load(Checkpoint(model.folder), MAX_TOKENS))
    query, documents = texts(ours.tokenizer, setting.some(2000, 12))
    ids, *document_ids = ours.tokenizer.encode([query, *documents])
    pairs, _ = ours.tokenizer.pair(ids, document_ids)
    both = [(query, document) for document in documents]

    def predict(batch_size: int) -> np.ndarray:
        return np.asarray(
            peer.predict(both, batch_size=batch_size, activation_fn=torch.nn.Identity(), show_progress_bar=False)
        )

    order = np.argsort([-len(d) for d in documents])

    def features(batch_size: int) -> list[Any]:
        return [
            peer.preprocess([both[i] for i in order[at : at + batch_size]]) for at in range(0, len(both), batch_size)
        ]

    @torch.inference_mode()
    def forward(prepared: list[Any]) -> None:
        for batch in prepared:
            moved = {k: v.to(setting.device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
            peer(moved)["scores"].float().cpu()

    sizes = (32, 128, 256, 512, 1024)[: setting.some(5, 1)]
    best = min(sizes, key=lambda size: min(seconds(setting, lambda: predict(size), 1, 1)))
    prepared = {size: features(size) for size in sizes}
    best_forward = min(sizes, key=lambda size: min(seconds(setting, lambda: forward(prepared[size]), 1, 1)))
    arms: dict[str, Callable[[], object]] = {
        "rankfleet, from texts": lambda: ours.score(query, documents),
        "rankfleet, from token ids": lambda: ours.scorer.score(pairs),
        "peer, from texts": lambda: predict(best),
        "peer, from features": lambda: forward(prepared[best_forward]),
    }
    times: dict[str, list[float]] = {name: [] for name in arms}
    for work in arms.values():
        work()
    for _ in range(setting.some(5, 1)):
        for name, work in arms.items():
            times[name] += seconds(setting, work, 1, 0)
    speed = {name: round(len(both) / statistics.median(taken), 1) for name, taken in times.items()}
    return {
        "pairs": len(both),
        "mean_tokens": round(float(pairs.lengths.mean()), 1),
        "rankfleet": {"dtype": dtype, "backend": setting.best},
        "peer": {"name": "sentence-transformers", "as": label, "batch_size": best, "features_batch_size": best_forward},
        "pairs_per_s": speed,
        "ratio": {
            "from texts": round(speed["rankfleet, from texts"] / speed["peer, from texts"], 2),
            "tokenized before": round(speed["rankfleet, from token ids"] / speed["peer, from features"], 2),
            "token ids against texts": round(speed["rankfleet, from token ids"] / speed["peer, from texts"], 2),
        },
        "published_h100_pairs_per_s": PUBLISHED_H100.get(model.shape),
        "max_abs_diff": float(np.abs(ours.score(query, documents) - predict(best)).max()),
    }


# --- curves, latency, memory, matrix rate ------------------------------------------------------------------------


def curves(model: RandomModel) -> Result:
    """Time batches of many sizes and fit the latency model that `rankfleet profile` stores."""
    setting = model.setting
    shapes = QUICK if setting.quick else GRID
    profile = profile_scorer(model.scorer(), MAX_TOKENS, shapes, setting.some(6, 2), setting.some(60, 5))
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


# --- the suite ---------------------------------------------------------------------------------------------------


def conditions(setting: Setting) -> Result:
    """Date, machine, versions and command, and the settings on which the figures depend."""
    machine = torch.cuda.get_device_name(setting.device) if setting.cuda else None
    hopper = importlib.util.find_spec("flash_attn_interface")  # FlashAttention 3, which torch-varlen then uses
    about = measured(machine, PACKAGES)
    about["versions"]["flash-attn-3"] = "installed" if hopper else "not installed"
    return about | {"backends": setting.backends, "quick": setting.quick}


def same_conditions(one: Result, other: Result) -> bool:
    """Whether figures measured under these conditions may stand side by side: all but date and command agree."""
    keys = ("machine", "versions", "backends", "quick")
    return all(one.get(key) == other.get(key) for key in keys)


def random_model(shape: str, setting: Setting, models: Path) -> RandomModel:
    """The random checkpoint of this shape, made once and kept in `models`."""
    folder = models / shape / "reranker"
    if not (folder / "modules.json").exists():
        shutil.rmtree(models / shape, ignore_errors=True)
        ettin(models / shape, SHAPES[shape])
        shutil.rmtree(models / shape / "encoder")
    return RandomModel(shape, folder, setting)


def run_part(
    part: str, shapes: list[str], setting: Setting, out: Path, models: Path, max_s: float, again: bool
) -> None:
    """Measure the shapes of this part that the file does not have under these conditions, and write after each."""
    started = time.monotonic()
    about = conditions(setting)
    report = read_results(out) if out.exists() else {}
    kept = report.setdefault("parts", {}).get(part, {})
    results: Result = kept.get("shapes", {}) if same_conditions(kept.get("measured", {}), about) and not again else {}
    for shape in shapes:
        if shape in results and "not_run" not in results[shape]:
            print(f"{part} {shape}: kept")
            continue
        if time.monotonic() - started > max_s:
            results[shape] = {"not_run": "the time for this part was up; run it again to go on"}
        else:
            try:
                results[shape] = globals()[part](random_model(shape, setting, models))
            except Exception as error:  # one shape that fails leaves the others measured
                results[shape] = {"not_run": f"{type(error).__name__}: {error}"}
            if setting.cuda:
                torch.cuda.empty_cache()
        print(f"{part} {shape}: {json.dumps({k: v for k, v in results[shape].items() if k != 'samples'})}")
        stored: Result = {"measured": about, "shapes": results}
        if part == "curves":
            fits = {name: LatencyModel.from_json(r["model"]) for name, r in results.items() if "model" in r}
            stored["profile"] = profile_json(fits, about)
        report["parts"][part] = stored
        write_results(out, report, about)


def mark_not_run(parts: list[str], out: Path, reason: str) -> None:
    """Write the reason into the file, for parts of which it has no figures."""
    report = read_results(out) if out.exists() else {}
    for part in parts:
        if "shapes" not in report.setdefault("parts", {}).get(part, {}):
            report["parts"][part] = {"not_run": reason}
    write_results(out, report, measured(packages=PACKAGES))


def arguments(given: list[str] | None) -> argparse.Namespace:
    about = "\n".join(
        [
            "parts:",
            *(f"  {part:<12} {(globals()[part].__doc__ or '').splitlines()[0]}" for part in PARTS),
            "",
            "Each part and shape is written to the file when it is done. Run again, the suite goes on where it",
            "stopped, as long as machine and versions are the same. A whole run on a card:",
            "",
            "  for part in " + " ".join(PARTS) + "; do python benchmarks/gpu_suite.py --part $part; done",
            "",
            "The latency models that `curves` fits are a profile: `rankfleet` reads parts.curves.profile once it is",
            "saved to a file of its own (python -c \"import json; print(json.dumps(json.load(open('F'))['parts']",
            "['curves']['profile']))\" > profile.json).",
        ]
    )
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part; may be repeated (all)")
    parser.add_argument("--shapes", default=",".join(ETTIN), help="comma-separated: %(default)s, or tiny")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (%(default)s)")
    parser.add_argument("--backend", help="attention kernel: flash-attn, torch-varlen or sdpa (the best installed)")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/gpu_suite.json", help="%(default)s")
    parser.add_argument(
        "--models",
        type=Path,
        default=Path(tempfile.gettempdir()) / "rankfleet-random-models",
        help="where random checkpoints are kept between runs, 7 GB for all shapes (%(default)s)",
    )
    parser.add_argument(
        "--max-s", type=float, default=480.0, help="start no further shape after this many seconds of a part"
    )
    parser.add_argument("--quick", action="store_true", help="few pairs and runs, to try the suite")
    parser.add_argument("--again", action="store_true", help="measure again what the file has already")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    options = arguments(given)
    parts, shapes = list(options.part or PARTS), options.shapes.split(",")
    if unknown := set(shapes) - set(SHAPES):
        raise SystemExit(f"no shape {', '.join(sorted(unknown))}; there are {', '.join(SHAPES)}")
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        mark_not_run(parts, options.json, "no CUDA device")
        print(f"no CUDA device; {options.json} says so")
        return
    setting = Setting(device, options.quick, options.backend)
    for part in parts:
        run_part(part, shapes, setting, options.json, options.models, options.max_s, options.again)


if __name__ == "__main__":
    main()
