"""`rankfleet models`: list the tiers of a fleet, and export their models."""

from pathlib import Path
from typing import Annotated

import typer

from rankfleet.bench.tables import terminal
from rankfleet.cli import app, out
from rankfleet.cli.options import ConfigOption, load_config, pick_tier

models_app = typer.Typer(help="List the tiers of a fleet, and export their models.")
app.add_typer(models_app, name="models")


@models_app.callback(invoke_without_command=True)
def models(context: typer.Context, config: ConfigOption = "demo") -> None:
    """List the tiers of a fleet: model, quality, group, precision, and whether the model is on this computer."""
    if context.invoked_subcommand is not None:
        return
    fleet = load_config(config)
    rows = []
    for name, tier in fleet.tiers.items():
        here = "yes" if is_local(tier.model, tier.revision) else "no: downloaded on first use"
        group = fleet.group_of(name)
        precision = fleet.groups[group].dtype
        rows.append((name, tier.model, tier.revision or "latest", f"{tier.quality:.4f}", group, precision, here))
    out.print(terminal(("tier", "model", "revision", "nDCG@10", "group", "precision", "on this computer"), rows))


@models_app.command()
def export(
    tier: Annotated[str, typer.Argument(help="tier whose model is exported")],
    folder: Annotated[Path, typer.Option("--out", "-o", help="folder for the checkpoint; must not exist")],
    config: ConfigOption = "demo",
) -> None:
    """Write the model of a tier as a float32 checkpoint that Sentence Transformers can load."""
    from rankfleet.engine.checkpoint.files import find_checkpoint
    from rankfleet.engine.checkpoint.storage import write_float32

    settings = pick_tier(load_config(config), tier)
    write_float32(find_checkpoint(settings.model, settings.revision), folder)
    out.print(f"{tier} is in {folder}:  CrossEncoder({str(folder)!r})", soft_wrap=True)


def is_local(model: str, revision: str | None) -> bool:
    from rankfleet.core.errors import CheckpointError
    from rankfleet.engine.checkpoint.files import find_checkpoint

    try:
        find_checkpoint(model, revision, local_only=True)
    except CheckpointError:
        return False
    return True
