"""`rankfleet simulate`: simulate a fleet under load."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from rankfleet.cli import app, err, out
from rankfleet.cli.options import load_config
from rankfleet.core.errors import ConfigError


@app.command()
def simulate(
    trace: Annotated[Path | None, typer.Option(help="recorded arrivals: CSV of `second,requests`")] = None,
    rate_scale: Annotated[
        float, typer.Option(min=0.0, help="factor by which the counts of the trace are multiplied")
    ] = 1.0,
    arrivals: Annotated[
        str | None, typer.Option(help="random arrivals instead of a trace: gamma:rate=60,cv=4 or poisson:rate=60")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.001, help="how long requests arrive; default: as the workload says")
    ] = None,
    fleet: Annotated[str, typer.Option(help="fleet file with a profile, or the name of a shipped one")] = ("sim-fleet"),
    workload: Annotated[str, typer.Option(help="workload file, or the name of a shipped one")] = "mixed",
    policy: Annotated[
        str,
        typer.Option(
            help="slo (the service's planner), static:TIER, table:FRACTION of the budget, slackfit, or oracle"
        ),
    ] = "slo",
    seed: Annotated[int, typer.Option(min=0, help="seed of arrivals, sizes and classes")] = 1,
    autoscale: Annotated[
        str | None,
        typer.Option(help="scale groups: `need` as the service does, or ray:TARGET by Ray's default policy"),
    ] = None,
    start_s: Annotated[float, typer.Option(min=0, help="seconds from a decision until the new replica scores")] = 20.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="file to write the figures to")] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG file to draw load, tiers and attainment to")] = None,
) -> None:
    """Run the router, replicas and autoscaler of a fleet on a virtual clock.

    Attainment is the number of answers in time ÷ all requests. Mean quality is over all requests; one that is missed
    counts with the quality of the order that it came in, and one of which less was scored with what that is expected to
    reach. `oracle` is not a policy but an upper bound for all policies.
    """
    from rankfleet.bench.results import measured, write_results
    from rankfleet.estimates.profile import read_profile, read_request_cost
    from rankfleet.simulate.inputs import requests_for, workload_named
    from rankfleet.simulate.oracle import upper_bound
    from rankfleet.simulate.policies import policy_of
    from rankfleet.simulate.results import results
    from rankfleet.simulate.run import Simulation
    from rankfleet.simulate.scaling import scaler_of

    config, load = load_config(fleet), workload_named(workload)
    if config.profile is None:
        raise ConfigError(
            f"{fleet} names no latency profile; measure one with `rankfleet profile` and name it as `profile`"
        )
    models = read_profile(config.profile)
    if missing := sorted(set(config.tiers) - set(models)):
        raise ConfigError(
            f"profile {config.profile} has no tier {', '.join(missing)}; measure it with `rankfleet profile`"
        )
    requests = requests_for(load, trace, rate_scale, arrivals, seconds, seed)
    started_s = time.perf_counter()
    if policy == "oracle":
        figures: dict[str, Any] = upper_bound(config, models, load, requests)
    else:
        budgets_ms = [each.slo_ms for each in load.classes.values() if each.slo_ms is not None]
        scaler = None if autoscale is None else scaler_of(autoscale, config, models, budgets_ms)
        cost = read_request_cost(config.profile)
        cost = replace(cost, delay_ms=config.network_ms)
        simulation = Simulation(config, models, load, policy_of(policy, config, models), seed, scaler, start_s, cost)
        with err.status(f"simulating {len(requests):,} requests"):
            figures = results(simulation.run(requests), requests, config, load)
    took_s = time.perf_counter() - started_s
    given = {"policy": policy, "seed": seed, "fleet": fleet, "workload": workload}
    given |= {"trace": str(trace), "rate_scale": rate_scale} if trace else {"arrivals": arrivals}
    figures = {**given, **figures, "simulated_in_s": round(took_s, 2)}
    show(figures)
    if json_file is not None:
        write_results(json_file, figures, measured())
    if plot is not None:
        from rankfleet.simulate.plot import draw

        draw(figures, plot)


def show(figures: dict[str, Any]) -> None:
    """One row for all requests and one per class."""
    from rankfleet.bench.tables import LOAD, figures_table, tier_shares

    out.print(figures_table({"all": figures, **figures.get("classes", {})}, LOAD))
    if "tiers" in figures:
        out.print(
            f"{tier_shares(figures['tiers'])}; {figures['gpu_seconds']:.0f} s of work in "
            f"{figures['replica_seconds']:.0f} replica-seconds",
            soft_wrap=True,
        )
