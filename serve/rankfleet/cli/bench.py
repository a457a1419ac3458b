"""`rankfleet bench`: measure speed against others, on this machine."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from rankfleet.cli import app, err, out
from rankfleet.cli.options import ConfigOption, load_config

bench_app = typer.Typer(help="Measure speed against others on this machine.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")


@bench_app.callback()
def bench() -> None:
    """Measure speed against others on this machine."""


@bench_app.command()
def engine(
    model: Annotated[str | None, typer.Option(help="shipped name such as demo/large, folder or hub id")] = None,
    shape: Annotated[
        str | None,
        typer.Option(help="instead of a model, random weights in a published size: 17m 32m 68m 150m 400m 1b"),
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="pairs of one query with documents")] = 100,
    mean_tokens: Annotated[int, typer.Option(min=16, help="mean tokens of a pair")] = 154,
    max_tokens: Annotated[int, typer.Option(min=32, help="pairs are cut to so many tokens")] = 512,
    against: Annotated[
        str, typer.Option(help="peers, comma-separated; none with an empty text")
    ] = "sentence-transformers,onnxruntime,openvino",
    dtype: Annotated[str, typer.Option(help="this engine's precisions, comma-separated")] = "float32,bfloat16",
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default the GPU where there is one")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads each; by default one per CPU")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="times that each is timed undisturbed")] = 7,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures to this file")] = None,
) -> None:
    """Pairs per second of this engine and of its peers, each at its best batch size, timed in turn on the same
    texts, and the share of the machine's matrix-product rate that is reached."""
    with err.status("starting") as status:
        import torch

        from rankfleet.bench.engine import Task, run

        task = Task(
            model=model,
            shape=shape,
            pairs=pairs,
            mean_tokens=mean_tokens,
            max_tokens=max_tokens,
            against=names(against),
            dtypes=names(dtype),
            device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
            threads=threads or cpus(),
            rounds=rounds,
        )
        figures = run(task, status.update if err.is_terminal else lambda step: err.print(step, markup=False))
    show(figures)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def names(option: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in option.split(",") if name.strip()))


def cpus() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def show(figures: dict[str, Any]) -> None:
    """One row for each contender, and what the figures are to be read against."""
    work, machine = figures["work"], figures["machine"]
    table = Table("", "pairs/s", "batch", "ratio", "of bound", "max diff", box=None, padding=(0, 2, 0, 0))
    entries = {f"rankfleet {dtype}": entry for dtype, entry in figures["by_dtype"].items()}
    entries |= {name: entry for name, entry in figures["peers"].items() if name not in PEER_NAMES or is_gap(entry)}
    for name, entry in entries.items():
        if is_gap(entry):
            kind, why = next(iter(entry.items()))
            table.add_row(name, kind, "", "", "", "")
            err.print(f"{name}: {kind}: {why}", soft_wrap=True, markup=False)
            continue
        ratio = figures["ratio"].get(name)
        fraction = entry.get("bound_fraction") if name.startswith("rankfleet") else None
        table.add_row(
            name,
            f"{entry['pairs_per_s']:.1f}",
            str(entry.get("batch_size", "packed")),
            "" if ratio is None else f"{ratio:.2f}",
            "" if fraction is None else f"{fraction:.0%}",
            "wrong scores" if "wrong" in entry else f"{entry['max_abs_difference']:.4f}",
        )
    out.print(table)
    ours = figures["rankfleet"]
    rates = ", ".join(f"{rate:.0f} GFLOP/s in {name}" for name, rate in machine["matmul_gflop_per_s"].items())
    out.print(
        f"{work['pairs']} pairs, {work['mean_tokens']:.0f} tokens on average, {work['most_tokens']} at most; "
        f"{work['model']}; {figures['threads']} threads; {figures['rounds']} rounds; {figures['device']}.\n"
        f"Matrix products alone: {rates}; in {ours['dtype']} that bounds this work at "
        f"{figures['bound_pairs_per_s'] or float('nan'):.0f} pairs/s. "
        f"Tokenizing takes {ours['tokenize_share']:.0%} of rankfleet's time.",
        soft_wrap=True,
    )
    if not machine["undisturbed"]:
        err.print(
            "[yellow]other work on this machine disturbed most rounds: the figures are too low[/yellow]",
            soft_wrap=True,
        )


def is_gap(entry: dict[str, Any]) -> bool:
    return "pairs_per_s" not in entry


PEER_NAMES = ("sentence-transformers", "onnxruntime", "openvino")  # each repeats its best precision


@bench_app.command()
def serve(
    url: Annotated[str, typer.Option(help="where the fleet answers")] = "http://127.0.0.1:8000",
    fleet: ConfigOption = "demo",
    workload: Annotated[str, typer.Option(help="workload file or the name of a shipped one")] = "demo",
    trace: Annotated[Path | None, typer.Option(help="CSV of `second,requests`: arrivals as recorded")] = None,
    rate_scale: Annotated[float, typer.Option(min=0.0, help="factor on the trace's counts")] = 1.0,
    arrivals: Annotated[
        str | None, typer.Option(help="random arrivals instead: gamma:rate=10,cv=2 or poisson:rate=10")
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="how long to send")] = 60.0,
    seed: Annotated[int, typer.Option(min=0, help="of arrivals, sizes, classes and texts")] = 1,
    profile: Annotated[
        Path | None, typer.Option(help="latency profile of this device: also simulate the same requests")
    ] = None,
    overhead_s: Annotated[
        float, typer.Option(min=0, help="seconds to measure overhead at each concurrency; 0 to leave it out")
    ] = 5.0,
    saturation_s: Annotated[
        float, typer.Option(min=0, help="seconds of each turn of engine and fleet at saturation; 0 to leave it out")
    ] = 5.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures to this file")] = None,
) -> None:
    """Send requests to a fleet that runs, each when it is due whatever became of the last (open loop), and say how
    many were answered in time, with what quality, and what a request costs beside the engine."""
    from rankfleet.bench.saturation import saturation
    from rankfleet.bench.serve import overhead, simulated, under_load
    from rankfleet.routing.profile import read_profile
    from rankfleet.simulate.inputs import requests_for, workload_named

    config, load = load_config(fleet), workload_named(workload)
    requests = requests_for(load, trace, rate_scale, arrivals, seconds, seed)
    figures: dict[str, Any] = {"fleet": fleet, "workload": workload, "seconds": seconds, "seed": seed}
    figures |= {"trace": str(trace), "rate_scale": rate_scale} if trace else {"arrivals": arrivals}
    with err.status("measuring overhead") as status:
        if overhead_s > 0:
            figures["overhead_ms"] = overhead(url, config, overhead_s, seed)
        if saturation_s > 0:
            status.update("measuring the rate at saturation")
            figures["saturation"] = saturation(url, config, saturation_s, seed)
        status.update(f"sending {len(requests)} requests over {seconds:g} s")
        figures |= under_load(url, config, load, requests, seed)
        if profile is not None:
            status.update("simulating the same requests")
            figures["simulated"] = simulated(config, read_profile(profile), load, requests, seed)
            del figures["simulated"]["over_time"]
    show_load(figures)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def show_load(figures: dict[str, Any]) -> None:
    """One row for all requests, one for each class, and the same from the simulator where it was asked."""
    keys = ("requests", "attainment", "mean_quality", "refused", "given_up", "late", "failed", "p50_ms", "p99_ms")
    table = Table("", *(key.replace("_", " ") for key in keys), box=None, padding=(0, 2, 0, 0))
    rows = {"all": figures, **figures["classes"]}
    if "simulated" in figures:
        rows |= {"simulated": figures["simulated"]}
        rows |= {f"simulated {name}": row for name, row in figures["simulated"]["classes"].items()}
    for name, row in rows.items():
        table.add_row(name, *("" if row.get(key) is None else f"{row[key]:g}" for key in keys))
    out.print(table)
    out.print("in time by " + ", ".join(f"{tier} {share:.1%}" for tier, share in figures["tiers"].items()))
    for tier, rows in figures.get("overhead_ms", {}).items():
        for concurrency, row in rows.items():
            out.print(
                f"{tier}, 20 short documents at concurrency {concurrency}: beside the engine's "
                f"{row['engine_p50_ms']} ms p50 {row['p50_ms']} ms, p95 {row['p95_ms']} ms; with the wait for "
                f"the device p50 {row['with_queue_p50_ms']} ms, p95 {row['with_queue_p95_ms']} ms",
                soft_wrap=True,
            )
    for size, row in figures.get("saturation", {}).items():
        if isinstance(row, dict):
            out.print(
                f"{figures['saturation']['tier']} at saturation, {size}: {row['stack_pairs_per_s']} pairs/s, "
                f"{row['ratio']:.1%} of the engine's own {row['engine_pairs_per_s']}",
                soft_wrap=True,
            )
