"""`rankfleet models`: the tiers of a fleet, and whether they are at hand."""

from rich.table import Table

from rankfleet.cli import app, out
from rankfleet.cli.options import ConfigOption, load_config


@app.command()
def models(config: ConfigOption = "demo") -> None:
    """List the tiers of a fleet: model, quality, group, and whether it is on this machine."""
    fleet = load_config(config)
    table = Table(
        "tier",
        "model",
        "revision",
        "nDCG@10",
        "group",
        "here",
        box=None,
        header_style="bold",
        padding=(0, 2, 0, 0),
    )
    for name, tier in fleet.tiers.items():
        here = "yes" if is_local(tier.model, tier.revision) else "no: fetched from the hub on first use"
        table.add_row(name, tier.model, tier.revision or "latest", f"{tier.quality:.4f}", fleet.group_of(name), here)
    out.print(table)


def is_local(model: str, revision: str | None) -> bool:
    from rankfleet.core.errors import CheckpointError
    from rankfleet.engine.checkpoint import find_checkpoint

    try:
        find_checkpoint(model, revision, local_only=True)
    except CheckpointError:
        return False
    return True
