"""Compare this engine's speed with its peers' and with the machine's matrix-product rate.

    python -m benchmarks.contest --shape 17m --json engine.json

Needs `pip install rankfleet[bench]`.
"""

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from benchmarks.contest.engine import Task, run

from rankfleet.bench.results import write_results
from rankfleet.bench.tables import terminal
from rankfleet.cli import err, out
from rankfleet.cli.bench import comma_separated
from rankfleet.core.cpus import usable_cpus
from rankfleet.core.errors import RankfleetError


def contest(
    model: Annotated[str | None, typer.Option(help="shipped name such as demo/large, folder or hub id")] = None,
    shape: Annotated[
        str | None,
        typer.Option(help="instead of a model, random weights in a published size: 17m 32m 68m 150m 400m 1b"),
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="pairs of one query with documents")] = 100,
    mean_tokens: Annotated[int, typer.Option(min=16, help="mean tokens of a pair")] = 154,
    max_tokens: Annotated[int, typer.Option(min=32, help="pairs are cut to this many tokens")] = 512,
    against: Annotated[
        str, typer.Option(help="peers, comma-separated; empty for none")
    ] = "sentence-transformers,onnxruntime,openvino",
    dtype: Annotated[str, typer.Option(help="this engine's precisions, comma-separated")] = "float32,bfloat16",
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default the GPU where there is one")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads each; by default one per CPU")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="undisturbed timings of each contender")] = 7,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="add to this file, which keeps other processors' figures")
    ] = None,
) -> None:
    """Measure pairs per second of this engine and of its peers, each at its best batch size, timed in turn on the same
    texts, and the share of the machine's matrix-product rate that this engine reaches."""
    with err.status("starting") as status:
        task = Task(
            model=model,
            shape=shape,
            pairs=pairs,
            mean_tokens=mean_tokens,
            max_tokens=max_tokens,
            against=comma_separated(against),
            dtypes=comma_separated(dtype),
            device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
            threads=threads or usable_cpus(),
            rounds=rounds,
        )
        figures = run(task, status.update if err.is_terminal else lambda step: err.print(step, markup=False))
    show(figures)
    if json_file is not None:
        machine = figures["measured"]["machine"]
        write_results(json_file, {machine: figures}, figures["measured"], merge=True)


def show(figures: dict[str, Any]) -> None:
    """Print one row for each contender, and the conditions of the run."""
    work, measured = figures["work"], figures["measured"]
    rows = []
    entries = {f"rankfleet {dtype}": entry for dtype, entry in figures["by_dtype"].items()}
    entries |= {name: entry for name, entry in figures["peers"].items() if name not in PEER_NAMES or is_gap(entry)}
    for name, entry in entries.items():
        if is_gap(entry):
            kind, why = next(iter(entry.items()))
            rows.append([name, kind, "", "", "", ""])
            err.print(f"{name}: {kind}: {why}", soft_wrap=True, markup=False)
            continue
        ratio = figures["ratio"].get(name)
        fraction = entry.get("bound_fraction") if name.startswith("rankfleet") else None
        rows.append(
            [
                name,
                f"{entry['pairs_per_s']:.1f}",
                str(entry.get("batch_size", "packed")),
                "" if ratio is None else f"{ratio:.2f}",
                "" if fraction is None else f"{fraction:.0%}",
                "wrong scores" if "wrong" in entry else f"{entry['max_abs_difference']:.4f}",
            ]
        )
    out.print(terminal(["", "pairs/s", "batch", "ratio", "of bound", "max diff"], rows))
    ours = figures["rankfleet"]
    rates = ", ".join(f"{rate:.0f} GFLOP/s in {name}" for name, rate in measured["matmul_gflop_per_s"].items())
    out.print(
        f"{work['pairs']} pairs, {work['mean_tokens']:.0f} tokens on average, {work['longest_tokens']} at most; "
        f"{work['model']}; {figures['threads']} threads; {figures['rounds']} rounds; {measured['machine']}.\n"
        f"Matrix products alone: {rates}; in {ours['dtype']} that bounds this work at "
        f"{figures['bound_pairs_per_s'] or float('nan'):.0f} pairs/s. "
        f"Tokenizing takes {ours['tokenize_share']:.0%} of rankfleet's time.",
        soft_wrap=True,
    )
    if not measured["undisturbed"]:
        err.print(
            "[yellow]other work on this machine disturbed most rounds, so the figures are too low[/yellow]",
            soft_wrap=True,
        )


def is_gap(entry: dict[str, Any]) -> bool:
    return "pairs_per_s" not in entry


PEER_NAMES = ("sentence-transformers", "onnxruntime", "openvino")  # each repeats its best precision


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(contest)
    try:
        app()
    except RankfleetError as error:
        raise SystemExit(f"error: {error}") from error
