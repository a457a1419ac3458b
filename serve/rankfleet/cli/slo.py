"""`rankfleet bench slo`: whether budgets are met, and their time is used."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rankfleet.cli import err, out
from rankfleet.cli.bench import bench_app
from rankfleet.cli.options import ConfigOption, load_config
from rankfleet.cluster.environment import free_port


@bench_app.command()
def slo(
    fleet: ConfigOption = "demo",
    each: Annotated[int, typer.Option(min=5, help="requests of each size and budget")] = 40,
    seed: Annotated[int, typer.Option(min=0, help="seed of the texts")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="file to put the figures into, by processor")] = None,
) -> None:
    """Start a fleet, and measure whether it meets budgets of 10 to 200 ms and uses their time.

    One client sends 20 or 100 documents at a time: as soon as the fleet is ready, on a quiet machine, and while another
    process keeps one core busy. Times are the client's.
    """
    from rankfleet.bench.results import measured, write_results
    from rankfleet.bench.slo import measure
    from rankfleet.cluster import launch

    config = load_config(fleet)
    with err.status("starting the fleet") as status:
        try:
            url = launch.start(config, "127.0.0.1", free_port(), status.update).address
            figures = {"fleet": fleet, "seed": seed, **measure(url, config, each, seed, status.update)}
        finally:
            launch.stop()
    show(figures)
    if json_file is not None:
        about = measured(packages=("aiohttp",))
        write_results(json_file, {about["machine"]: {"measured": about, **figures}}, about, merge=True)


def show(figures: dict[str, Any]) -> None:
    from rankfleet.bench.tables import Column, figures_table

    columns = [
        Column("met", ".1%"),
        Column("used", ".0%", "budget used where work was left out"),
        Column("late", "g"),
        Column("unscored", "g"),
        Column("p50_ms", "g"),
        Column("p99_ms", "g"),
        Column("quality", ".4f"),
    ]
    for name, condition in figures["conditions"].items():
        out.print(figures_table(condition["cells"], columns, title=f"{name}: {condition['met']:.1%} met"))
        steps = ", ".join(f"{step} {ms}" for step, ms in condition["steps_p50_ms"].items() if ms)
        outside = f"{condition['outside_p50_ms']} (95%: {condition['outside_p95_ms']})"
        out.print(f"median ms: {steps}; between client and router {outside}\n", soft_wrap=True, highlight=False)
