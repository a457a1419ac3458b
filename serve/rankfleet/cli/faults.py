"""`rankfleet bench faults` and `rankfleet bench soak`: inject faults into a fleet, or keep it busy for long."""

import socket
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from rankfleet.cli import err, out
from rankfleet.cli.bench import bench_app, comma_separated
from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import ConfigError

KEYS = ("requests", "ok", "refused", "failed", "late", "unscored", "p50_ms", "p99_ms")


@bench_app.command()
def faults(
    scenario: Annotated[
        str, typer.Option(help="any of calm, kill, hang, node, redeploy, cancel and overload, comma-separated")
    ] = "calm,kill,hang,node,redeploy,cancel,overload",
    seconds: Annotated[float, typer.Option(min=5, help="how long requests are sent per scenario")] = 60.0,
    rate: Annotated[float, typer.Option(min=0.1, help="requests per second, except in overload")] = 6.0,
    nodes: Annotated[int, typer.Option(min=2, help="number of nodes besides the head")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="seed of arrivals, sizes, classes and texts")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="file to put the figures into, by scenario")] = None,
) -> None:
    """Start a fleet on several nodes of this computer, inject faults while requests arrive, and report their outcome.

    The load client and the fleet share the computer's cores.
    """
    from rankfleet.bench.faults import SCENARIOS, BenchLoad, FaultBench, fault_test_fleet
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
            for name in scenarios:
                bench = FaultBench(fleet, lambda text, name=name: say(f"{name}: {text}"))  # type: ignore[misc]
                figures[name] = SCENARIOS[name](bench, BenchLoad(rate, seconds, seed))
                err.print(f"{name}: {figures[name]}", markup=False, soft_wrap=True, highlight=False)
                settings = {"seconds": seconds, "nodes": nodes, "seed": seed, "replicas": replicas_of(config)}
                store(json_file, name, figures[name], settings)
                say(f"{name}: waiting until all replicas run again")
                fleet.settle()
    out.print(figures_table(figures, [Column(key, "g") for key in KEYS]))


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
    from rankfleet.bench.faults import fault_test_fleet
    from rankfleet.bench.local_cluster import local_cluster
    from rankfleet.bench.soak import soak as keep_busy
    from rankfleet.bench.tables import Column, figures_table

    with tempfile.TemporaryDirectory() as folder, err.status("measuring the tiers") as status:
        say = status.update if err.is_terminal else lambda text: None
        config = fault_test_fleet(measured_profile(Path(folder)))
        with local_cluster(config, free_port(), 2, say) as fleet:
            figures = keep_busy(fleet, minutes, load, seed, say)
    store(json_file, "soak", figures, {"nodes": 2, "seed": seed, "replicas": replicas_of(config)})
    columns = [
        Column("first_mib", "g", "MiB at first"),
        Column("last_mib", "g", "MiB at last"),
        Column("growth", ".1%"),
    ]
    out.print(figures_table(figures["processes"], columns, first="process"))
    out.print(", ".join(f"{key} {figures[key]}" for key in KEYS))


def measured_profile(folder: Path) -> str:
    """Write a latency profile of the demo tiers on this device, so that replicas that restart need not measure it."""
    from rankfleet.bench.faults import fault_test_fleet
    from rankfleet.bench.profile import profile_file, profile_fleet
    from rankfleet.bench.results import write_json
    from rankfleet.engine.runtime.measure import QUICK

    fleet = fault_test_fleet(None)
    path = folder / "profile.json"
    write_json(path, profile_file(profile_fleet(fleet, QUICK, 4, 10.0), fleet))
    return str(path)


def replicas_of(config: FleetConfig) -> dict[str, int]:
    """How many replicas each group and the router have."""
    return {name: group.replicas.min for name, group in config.groups.items()} | {"router": config.routers}


def store(path: Path | None, scenario: str, figures: dict[str, Any], settings: dict[str, Any]) -> None:
    """Put a scenario's figures into the file; those of other scenarios stay."""
    from rankfleet.bench.results import measured, write_results

    if path is not None:
        about = measured()
        write_results(path, {scenario: {"measured": about, "settings": settings, **figures}}, about, merge=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
