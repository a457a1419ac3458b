"""`rankfleet bench faults` and `rankfleet bench soak`: inject faults into a fleet, or keep it busy for long."""

import datetime
import json
import socket
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from rankfleet.cli import err, out
from rankfleet.cli.bench import bench_app, names
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
    from rankfleet.bench.faults import SCENARIOS, Bench, BenchLoad, fleet_to_break
    from rankfleet.bench.local_cluster import local_cluster

    asked = names(scenario)
    if unknown := [name for name in asked if name not in SCENARIOS]:
        raise ConfigError(f"--scenario {', '.join(unknown)}: unknown; choose from {', '.join(SCENARIOS)}")
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, err.status("measuring the tiers") as status:
        say = status.update if err.is_terminal else lambda text: None
        config = fleet_to_break(measured_profile(Path(folder)))
        with local_cluster(config, free_port(), nodes, say) as fleet:
            for name in asked:
                bench = Bench(fleet, lambda text, name=name: say(f"{name}: {text}"))  # type: ignore[misc]
                figures[name] = SCENARIOS[name](bench, BenchLoad(rate, seconds, seed))
                err.print(f"{name}: {figures[name]}", markup=False, soft_wrap=True, highlight=False)
                given = {"seconds": seconds, "nodes": nodes, "seed": seed}
                write(json_file, name, figures[name] | {"conditions": conditions(config) | given})
                say(f"{name}: waiting until all replicas run again")
                fleet.settle()
    table = Table("", *(key.replace("_", " ") for key in KEYS), box=None, padding=(0, 2, 0, 0))
    for name, row in figures.items():
        table.add_row(name, *("" if row.get(key) is None else f"{row[key]:g}" for key in KEYS))
    out.print(table)


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
    from rankfleet.bench.faults import fleet_to_break
    from rankfleet.bench.local_cluster import local_cluster
    from rankfleet.bench.soak import soak as keep_busy

    with tempfile.TemporaryDirectory() as folder, err.status("measuring the tiers") as status:
        say = status.update if err.is_terminal else lambda text: None
        config = fleet_to_break(measured_profile(Path(folder)))
        with local_cluster(config, free_port(), 2, say) as fleet:
            figures = keep_busy(fleet, minutes, load, seed, say)
    write(json_file, "soak", figures | {"conditions": conditions(config) | {"nodes": 2, "seed": seed}})
    table = Table("process", "MiB at first", "MiB at last", "growth", box=None, padding=(0, 2, 0, 0))
    for name, row in figures["processes"].items():
        table.add_row(name, f"{row['first_mib']:g}", f"{row['last_mib']:g}", f"{row['growth']:.1%}")
    out.print(table)
    out.print(", ".join(f"{key} {figures[key]}" for key in KEYS))


def measured_profile(folder: Path) -> str:
    """The path of a latency profile of the demo tiers on this device, so that restarted replicas need not measure."""
    import torch

    from rankfleet.bench.faults import fleet_to_break
    from rankfleet.engine.checkpoint.files import find_checkpoint
    from rankfleet.engine.runtime.measure import QUICK, measure
    from rankfleet.engine.runtime.scorer import Scorer
    from rankfleet.estimates.latency import fit
    from rankfleet.estimates.profile import profile_json

    torch.set_num_threads(1)
    models = {}
    for name, tier in fleet_to_break(None).tiers.items():
        scorer = Scorer.load(find_checkpoint(tier.model, tier.revision), "auto")
        models[name] = fit(list(measure(scorer, min(512, scorer.max_pair), QUICK, 4, 10.0)))
    path = folder / "profile.json"
    path.write_text(json.dumps(profile_json(models, {})), encoding="utf-8")
    return str(path)


def conditions(config: FleetConfig) -> dict[str, Any]:
    """The conditions under which the figures were measured."""
    import importlib.metadata

    from rankfleet.bench.machine import cpu_name

    versions = {name: importlib.metadata.version(name) for name in ("rankfleet", "ray", "torch")}
    replicas = {name: group.replicas.min for name, group in config.groups.items()} | {"router": config.routers}
    return {
        "device": cpu_name(),
        "loader": "on the same cores as the fleet",
        "replicas": replicas,
        "versions": versions,
        "date": datetime.date.today().isoformat(),
    }


def write(path: Path | None, name: str, figures: dict[str, Any]) -> None:
    """Put the figures into the file under this name, and keep what else it contains."""
    if path is None:
        return
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(stored | {name: figures}, indent=2) + "\n", encoding="utf-8")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
