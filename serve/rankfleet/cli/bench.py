"""`rankfleet bench`: measure a fleet under load."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rankfleet.cli import app, err, out
from rankfleet.cli.options import ConfigOption, load_config

bench_app = typer.Typer(help="Measure a fleet under load.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")


@bench_app.callback()
def bench() -> None:
    """Measure a fleet under load."""


def comma_separated(option: str) -> list[str]:
    """The names in an option's value, each once."""
    return list(dict.fromkeys(name.strip() for name in option.split(",") if name.strip()))


@bench_app.command()
def serve(
    url: Annotated[str, typer.Option(help="address of the fleet")] = "http://127.0.0.1:8000",
    fleet: ConfigOption = "demo",
    workload: Annotated[str, typer.Option(help="workload file, or the name of a shipped one")] = "demo",
    trace: Annotated[Path | None, typer.Option(help="recorded arrivals: CSV of `second,requests`")] = None,
    rate_scale: Annotated[
        float, typer.Option(min=0.0, help="factor by which the counts of the trace are multiplied")
    ] = 1.0,
    arrivals: Annotated[
        str | None, typer.Option(help="random arrivals instead of a trace: gamma:rate=10,cv=2 or poisson:rate=10")
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="how long requests are sent")] = 60.0,
    seed: Annotated[int, typer.Option(min=0, help="seed of arrivals, sizes, classes and texts")] = 1,
    profile: Annotated[
        Path | None, typer.Option(help="latency profile of this device, to simulate the same requests as well")
    ] = None,
    overhead_s: Annotated[
        float, typer.Option(min=0, help="seconds per concurrency for which overhead is measured; 0: not at all")
    ] = 5.0,
    saturation_s: Annotated[
        float, typer.Option(min=0, help="seconds per turn of engine and fleet at saturation; 0: not at all")
    ] = 5.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="file to write the figures to")] = None,
) -> None:
    """Send requests to a running fleet in open loop, and report attainment, quality, and overhead beside the engine.

    Open loop: each request is sent when it is due, whether or not earlier ones have been answered.
    """
    from rankfleet.bench.results import measured, write_results
    from rankfleet.bench.saturation import saturation
    from rankfleet.bench.serve import cost_at, load_summary, overhead, simulated, under_load
    from rankfleet.estimates.profile import read_profile
    from rankfleet.estimates.quality import own_table
    from rankfleet.simulate.inputs import requests_for, workload_named
    from rankfleet.simulate.results import results

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
        replies = under_load(url, config, load, requests, seed)
        figures |= load_summary(replies, list(load.classes), own_table(config).retriever)
        if profile is not None:
            status.update("simulating the same requests")
            cost = cost_at(url, config, profile, seed)
            outcome = simulated(config, read_profile(profile), cost, load, requests, seed)
            figures["simulated"] = results(outcome, requests, config, load)
            del figures["simulated"]["over_time"]
    show_load(figures)
    if json_file is not None:
        write_results(json_file, figures, measured(packages=("aiohttp",)))


def show_load(figures: dict[str, Any]) -> None:
    """One row for all requests and one per class, and the same of the simulator if it ran."""
    from rankfleet.bench.tables import LOAD, figures_table, tier_shares

    rows = {"all": figures, **figures["classes"]}
    if "simulated" in figures:
        rows |= {"simulated": figures["simulated"]}
        rows |= {f"simulated {name}": row for name, row in figures["simulated"]["classes"].items()}
    out.print(figures_table(rows, LOAD))
    out.print(tier_shares(figures["tiers"]))
    for tier, rows in figures.get("overhead_ms", {}).items():
        for concurrency, row in rows.items():
            out.print(
                f"{tier}, 20 short documents at concurrency {concurrency}: overhead beside the engine's "
                f"{row['engine_p50_ms']} ms is p50 {row['p50_ms']} ms, p95 {row['p95_ms']} ms; including the wait "
                f"for the device p50 {row['with_queue_p50_ms']} ms, p95 {row['with_queue_p95_ms']} ms",
                soft_wrap=True,
            )
    for size, row in figures.get("saturation", {}).items():
        if isinstance(row, dict):
            out.print(
                f"{figures['saturation']['tier']} at saturation, {size}: {row['stack_pairs_per_s']} pairs/s, "
                f"{row['ratio']:.1%} of the {row['engine_pairs_per_s']} of the engine alone",
                soft_wrap=True,
            )
