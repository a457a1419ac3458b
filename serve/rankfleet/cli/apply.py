"""`rankfleet apply`: change the fleet that runs on this computer."""

from typing import Annotated

import typer

from rankfleet.cli import app, out, progress
from rankfleet.cli.options import load_config


@app.command()
def apply(
    config: Annotated[str, typer.Argument(help="the changed fleet file")],
    port: Annotated[int | None, typer.Option(help="port of the fleet, where you run several")] = None,
) -> None:
    """Change the running fleet to what a file says.

    Nothing restarts and no request fails: replicas load what is new beside what they host. Only what a replica reserves
    rolls its deployment, and another set of groups all of them, new replicas first where there is room.
    """
    fleet = load_config(config)

    from rankfleet.cluster import update

    with progress("applying") as say:
        update.apply(fleet, say, port)
    for name, experiment in fleet.experiments.items():
        arms = ", ".join(f"{arm} → {settings.model} ×{settings.weight:g}" for arm, settings in experiment.arms.items())
        out.print(f"experiment {name}: {arms}")
    out.print(f"applied {config}")
