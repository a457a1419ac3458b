"""`rankfleet apply`: update the fleet that runs on this computer."""

from typing import Annotated

import typer

from rankfleet.cli import app, out, progress
from rankfleet.cli.options import load_config


@app.command()
def apply(
    config: Annotated[str, typer.Argument(help="the changed fleet file, or the name of a shipped one")],
    port: Annotated[int | None, typer.Option(help="port of the fleet, if several run")] = None,
) -> None:
    """Update the running fleet to a changed fleet file. No request fails meanwhile.

    Most changes restart nothing: replicas load new models beside the ones they host. A change of the resources that
    replicas reserve restarts their deployment, and another set of groups restarts everything; new replicas start first
    if there is room.
    """
    fleet = load_config(config)

    from rankfleet.cluster import update

    with progress("applying") as say:
        update.apply(fleet, say, port)
    for name, experiment in fleet.experiments.items():
        arms = ", ".join(f"{arm} ({each.summary}) ×{each.weight:g}" for arm, each in experiment.arms.items())
        out.print(f"experiment {name}: {'stopped' if experiment.stopped else arms}")
    out.print(f"applied {config}")
