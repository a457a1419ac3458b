"""Figures of the engine and of ranking quality: docs/performance.md, README.md, cascades in docs/routing.md."""

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.contest.shapes import ETTIN
from benchmarks.figures.stored import by_processor, conditions, stored, versions
from benchmarks.gpu.goals import beside_goals

from rankfleet.bench.tables import markdown
from rankfleet.engine.runtime.precision import DTYPES
from rankfleet.estimates.precision import CHOSEN

SHAPES = ("17m", "32m")
PEERS = ("sentence-transformers-fp32", "sentence-transformers-bf16", "onnxruntime", "openvino")
BEST_OF = ("sentence-transformers", "onnxruntime", "openvino")  # entries that repeat a peer's best precision


def contests(shape: str) -> str:
    """The run of benchmarks/contest on every processor."""
    return "\n\n".join(contest(figures) for _, figures in by_processor(f"engine_{shape}"))


def contest(figures: dict[str, Any]) -> str:
    peers = {name: entry for name, entry in figures["peers"].items() if name not in BEST_OF}
    own = {f"**Rankfleet** {dtype}": entry for dtype, entry in figures["by_dtype"].items()}
    rows = []
    for name, entry in (own | peers).items():
        if "pairs_per_s" not in entry:
            rows.append([name, "not run", "", "", "", ""])
            continue
        keys = ("bound_fraction", "first_token_bound_fraction")
        bounds = [f"{entry[key]:.0%}" if name in own else "" for key in keys]
        batch = str(entry.get("batch_size", "packed"))
        rows.append([name, f"{entry['pairs_per_s']:.0f}", batch, *bounds, f"{entry['max_abs_difference']:.4f}"])
    work, measured = figures["work"], figures["measured"]
    rates = ", ".join(f"{rate:.0f} in {dtype}" for dtype, rate in measured["matmul_gflop_per_s"].items())
    caption = conditions(
        measured,
        f"{figures['threads']} threads",
        f"{work['pairs']} pairs with a mean of {work['mean_tokens']:.0f} tokens and at most {work['longest_tokens']}",
        f"median of {figures['rounds']} rounds",
    )
    quiet = "no other load on the machine" if measured["undisturbed"] else "other load on the machine"
    header = ["", "pairs/s", "batch size", "of the bound", "less what is skipped", "largest difference"]
    return (
        f"{markdown(header, rows)}\n\n{caption}; matrix products alone in GFLOP/s: {rates}; {quiet}. "
        f"{versions(measured)}."
    )


def ratios() -> str:
    """Rankfleet ÷ each peer, by precision, shape and processor."""
    runs = {
        f"{shape}, {processor}": figures["ratio_by_dtype"]
        for shape in SHAPES
        for processor, figures in by_processor(f"engine_{shape}")
    }
    rows = []
    for dtype in next(iter(runs.values())):
        for peer in PEERS:
            found = [run[dtype].get(peer) for run in runs.values()]
            rows.append([f"{dtype} ÷ {peer}", *("not run" if ratio is None else f"{ratio:.1f}×" for ratio in found)])
    return markdown(["", *runs], rows)


def ratio(shape: str, dtype: str, peer: str) -> str:
    """The lowest of all processors."""
    runs = by_processor(f"engine_{shape}")
    return f"{min(figures['ratio_by_dtype'][dtype][peer] for _, figures in runs):.1f} times"


def precision() -> str:
    figures = stored("precision")
    rows = [
        [
            tier,
            dtype,
            f"{entry['mean']:.4f}",
            f"{entry['difference']:+.4f}",
            f"{entry['tau']:.4f}",
            f"{entry['worst_tau']:.4f}",
        ]
        for tier, by_dtype in figures["tiers"].items()
        for dtype, entry in by_dtype.items()
    ]
    measured = figures["measured"]
    header = ["demo tier", "precision", "nDCG@10", "difference", "mean τ", "worst τ"]
    queries = f"{measured['queries']} queries of Cranfield, Medline, CISI and DBpedia-Entity"
    return (
        f"{markdown(header, rows, left=2)}\n\n{conditions(measured, queries)}, BM25's top {measured['top_k']} reranked."
    )


def largest_difference(dtype: str) -> str:
    """By how much nDCG@10 in this precision differs from float32, over all tiers."""
    return f"{max(abs(tier[dtype]['difference']) for tier in stored('precision')['tiers'].values()):.4f}"


def precision_speed() -> str:
    """Each processor's rates by precision, and what was chosen there."""
    rows, captions = [], []
    for processor, figures in stored("precision_speed")["processors"].items():
        measured = figures["measured"]
        how = (
            f"{measured['threads']} threads",
            f"{measured['pairs']} pairs with a mean of {measured['mean_tokens']} tokens",
        )
        captions.append(f"{conditions(measured, *how)}, torch {measured['versions']['torch']}")
        for name, entry in figures["models"].items():
            rates = [f"{entry['pairs_per_s'][d]:.0f}" if d in entry["pairs_per_s"] else "" for d in DTYPES]
            choices = [f"{entry[c]['dtype']} ({entry[c]['of_best_allowed']:.2f})" for c in CHOSEN]
            rows.append([processor, name, *rates, *choices])
    header = ["processor", "model", *DTYPES, *(f"`{choice}`" for choice in CHOSEN)]
    told = "Pairs per second. In brackets: speed ÷ that of the fastest precision that is allowed; the goal is 0.97."
    return f"{markdown(header, rows, left=2)}\n\n{told} {'; '.join(captions)}."


def tokenizing() -> str:
    figures = stored("tokenizing")
    ms = figures["median_ms"]
    rows = [[name, f"{ms[f'{name} cold']:.2f}", f"{ms[f'{name} cached']:.2f}"] for name in ("tiktoken", "tokenizers")]
    documents = f"{figures['documents']} documents with a mean of {figures['mean_tokens']:.0f} tokens"
    caption = conditions(figures["measured"], "one thread", documents, "ModernBERT's vocabulary")
    return f"{markdown(['ms, median', 'cold', 'cached'], rows)}\n\n{caption}; {versions(figures['measured'])}."


def gpu_goals() -> str:
    return markdown(["on an H100 or H200", "goal", "measured"], beside_goals(stored("gpu_suite")))


def gpu_rates() -> str:
    """Throughput and latency of the shapes that were measured on a GPU."""
    parts = stored("gpu_suite")["parts"]
    rates, waits = parts["matmul"], parts["latency"]["shapes"]
    rows = []
    for shape in ETTIN:
        rate, wait = rates["shapes"].get(shape, {}), waits.get(shape, {})
        if "pairs_per_s" in rate:
            recorded, plain = (
                f"{wait[how]['p50_ms']:.2f}" if how in wait else "" for how in ("with graphs", "without")
            )
            rows.append([shape, f"{rate['pairs_per_s']:,.0f}", f"{rate['bound_fraction']:.0%}", recorded, plain])
    header = ["", "pairs/s", "share of the matrix rate", "100 pairs, p50 ms", "without CUDA graphs"]
    caption = conditions(
        rates["measured"],
        f"bfloat16, attention by {rates['measured']['backends'][0]}",
        "from token ids; random weights in the shapes of Ettin, lengths log-normal with a mean of 154 tokens",
    )
    return f"{markdown(header, rows)}\n\n{caption}; {versions(rates['measured'])}."


def gpu_correctness() -> str:
    """The largest difference of any score from float32 on the CPU, by back-end."""
    part = stored("gpu_suite")["parts"]["correctness"]
    shapes = {shape: result for shape, result in part["shapes"].items() if "not_run" not in result}
    arms = [name for name, figure in next(iter(shapes.values())).items() if isinstance(figure, dict)]
    rows = [
        [shape, f"{result['score_std']:.2f}", *(f"{result[arm]['max_abs_diff']:.1g}" for arm in arms)]
        for shape, result in shapes.items()
    ]
    pairs = next(iter(shapes.values()))["pairs"]
    caption = conditions(part["measured"], f"{pairs} pairs of 8 to 512 tokens")
    return f"{markdown(['', 'standard deviation of the scores', *arms], rows)}\n\n{caption}."


def cascades() -> str:
    figures = stored("cascades")
    measured = figures["measured"]
    rows = []
    for name, plan in figures["plans"].items():
        less = "" if plan["times_less"] is None else f"{plan['times_less']:.2f}"
        rows.append([name, f"{plan['mean']:.4f}", f"{plan['difference']:+.4f}", f"{plan['by_large']:.0f}", less])
    header = ["", "nDCG@10", "difference from large on all", "pairs scored by large", "speed-up in device time"]
    caption = conditions(
        measured,
        f"{measured['small']} and {measured['large']} in {measured['dtype']} on one thread",
        f"mean of four collections with {measured['queries']} queries",
        f"BM25's top {measured['top_k']}",
    )
    return f"{markdown(header, rows)}\n\n{caption}."


FIGURES: dict[str, Callable[[], str]] = {
    **{f"engine-{shape}": partial(contests, shape) for shape in SHAPES},
    "ratios": ratios,
    "ratio-sentence-transformers": partial(ratio, "17m", "bfloat16", "sentence-transformers-fp32"),
    "ratio-openvino": partial(ratio, "17m", "bfloat16", "openvino-bf16"),
    "precision": precision,
    "precision-speed": precision_speed,
    "precision-bfloat16": partial(largest_difference, "bfloat16"),
    "precision-int8": partial(largest_difference, "int8"),
    "tokenizing": tokenizing,
    "cascades": cascades,
    "gpu-goals": gpu_goals,
    "gpu-rates": gpu_rates,
    "gpu-correctness": gpu_correctness,
}
