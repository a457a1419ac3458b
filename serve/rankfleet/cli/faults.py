"""`rankfleet bench faults` and `rankfleet bench soak`: inject faults into a fleet, or keep it busy for long."""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from rankfleet.cli import err, out
from rankfleet.cli.bench import bench_app, comma_separated
from rankfleet.cluster.environment import free_port
from rankfleet.core.config import FleetConfig
from rankfleet.core.cpus import usable_cpus
from rankfleet.core.errors import ConfigError

COUNTS = ("requests", "ok", "refused", "failed", "late", "unscored")
TIMES = ("p50_ms", "p99_ms")
RATES = ("capacity_per_s", "rate_per_s")


@bench_app.command()
def faults(
    scenario: Annotated[
        str, typer.Option(help="any of calm, kill, hang, node, redeploy, cancel and overload, comma-separated")
    ] = "calm,kill,hang,node,redeploy,cancel,overload",
    seconds: Annotated[float, typer.Option(min=5, help="how long requests are sent per scenario")] = 60.0,
    load: Annotated[
        float, typer.Option(min=0.01, max=2, help="load as a share of the fleet's capacity, except in overload")
    ] = 0.2,
    nodes: Annotated[int, typer.Option(min=2, help="number of nodes besides the head")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="seed of arrivals, sizes, classes and texts")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="file to put the figures into, by scenario")] = None,
) -> None:
    """Start a fleet on several nodes of this computer, inject faults while requests arrive, and report their outcome.

    The fleet's capacity is measured first, and rates and budgets are in proportion to it. The load client and the fleet
    share the computer's cores.
    """
    from rankfleet.bench.fault_fleet import fault_test_fleet
    from rankfleet.bench.fault_traffic import MIXED, BenchLoad, FaultTraffic
    from rankfleet.bench.faults import SCENARIOS, FaultBench
    from rankfleet.bench.local_cluster import local_cluster
    from rankfleet.bench.tables import Column, figures_table

    scenarios = comma_separated(scenario)
    if unknown := [name for name in scenarios if name not in SCENARIOS]:
        raise ConfigError(f"--scenario {', '.join(unknown)}: unknown; choose from {', '.join(SCENARIOS)}")
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, err.status("measuring the tiers") as status:
        say = status.update if err.is_terminal else lambda text: None
        config = fault_test_fleet(measured_profile(Path(folder)))
        with local_cluster(config, free_port(), nodes, say) as fleet:
            say("measuring the capacity")
            traffic = FaultTraffic(fleet.url, config)
            sent = BenchLoad(traffic.capacity_per_s(MIXED), load, seconds, seed)
            for name in scenarios:
                bench = FaultBench(fleet, traffic, lambda text, name=name: say(f"{name}: {text}"))  # type: ignore[misc]
                figures[name] = bench.run(name, sent)
                err.print(f"{name}: {figures[name]}", markup=False, soft_wrap=True, highlight=False)
                store(json_file, name, figures[name], {"seconds": seconds, **settings_of(config, nodes, seed)})
                say(f"{name}: waiting until all replicas run again")
                fleet.settle()
    columns = [*map(Column, COUNTS), *(Column(key, ".0f") for key in TIMES), *(Column(key, ".1f") for key in RATES)]
    out.print(figures_table(figures, columns, first="scenario"))
    budgets_ms = {name: ms for row in figures.values() for name, ms in row["budgets_ms"].items()}
    budgets = (f"{name} {f'{ms:g} ms' if ms else 'none'}" for name, ms in budgets_ms.items())
    out.print(f"budgets: {', '.join(budgets)}")


@bench_app.command()
def soak(
    minutes: Annotated[float, typer.Option(min=0.5, help="how long requests are sent")] = 30.0,
    load: Annotated[float, typer.Option(min=0.05, max=2, help="load as a share of the fleet's capacity")] = 0.8,
    seed: Annotated[int, typer.Option(min=0, help="seed of arrivals, sizes, classes and texts")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="file to put the figures into, by scenario")] = None,
) -> None:
    """Keep a fleet on this computer busy, and report by how much the memory of each process grows.

    Growth counts from five minutes after the start, or from a third of a shorter run.
    """
    from rankfleet.bench.fault_fleet import fault_test_fleet
    from rankfleet.bench.local_cluster import local_cluster
    from rankfleet.bench.soak import soak as keep_busy
    from rankfleet.bench.tables import Column, figures_table

    with tempfile.TemporaryDirectory() as folder, err.status("measuring the tiers") as status:
        say = status.update if err.is_terminal else lambda text: None
        config = fault_test_fleet(measured_profile(Path(folder)))
        with local_cluster(config, free_port(), 2, say) as fleet:
            figures = keep_busy(fleet, minutes, load, seed, say)
    store(json_file, "soak", figures, settings_of(config, 2, seed))
    columns = [
        Column("first_mib", "g", "MiB at first"),
        Column("last_mib", "g", "MiB at last"),
        Column("growth", ".1%"),
    ]
    out.print(figures_table(figures["processes"], columns, first="process"))
    out.print(", ".join(f"{key} {figures[key]}" for key in (*COUNTS, *TIMES, *RATES)))


def measured_profile(folder: Path) -> str:
    """Write a latency profile of the demo tiers on this device, so that replicas that restart need not measure it."""
    from rankfleet.bench.fault_fleet import fault_test_fleet
    from rankfleet.bench.profile import profile_file, profile_fleet
    from rankfleet.bench.results import write_json
    from rankfleet.engine.runtime.measure import QUICK

    fleet = fault_test_fleet(None)
    path = folder / "profile.json"
    write_json(path, profile_file(profile_fleet(fleet, QUICK, 4, 10.0), fleet))
    return str(path)


def settings_of(config: FleetConfig, nodes: int, seed: int) -> dict[str, Any]:
    """Conditions of a run, with the cores that it may use, and the replicas of each group and of the router."""
    replicas = {name: group.replicas.min for name, group in config.groups.items()} | {"router": config.routers}
    return {"nodes": nodes, "seed": seed, "cores": usable_cpus(), "replicas": replicas}


def store(path: Path | None, scenario: str, figures: dict[str, Any], settings: dict[str, Any]) -> None:
    """Put a scenario's figures into the file; those of other scenarios stay."""
    from rankfleet.bench.results import measured, write_results

    if path is not None:
        about = measured()
        write_results(path, {scenario: {"measured": about, "settings": settings, **figures}}, about, merge=True)
