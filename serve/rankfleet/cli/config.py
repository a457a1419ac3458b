"""`rankfleet config`: is a fleet file right?"""

from typing import Annotated

import typer

from rankfleet.cli import app, out
from rankfleet.cli.options import load_config
from rankfleet.core.config import FleetConfig
from rankfleet.core.keys import describe_keys

config_app = typer.Typer(no_args_is_help=True, help="Check fleet files.")
app.add_typer(config_app, name="config")


@config_app.callback()
def config() -> None:
    """Check fleet files."""


@config_app.command()
def check(file: Annotated[str, typer.Argument(help="fleet file, or the name of a shipped one")]) -> None:
    """Read a fleet file and say what is wrong with it, key by key."""
    fleet = load_config(file)
    replicas = sum(group.replicas.min for group in fleet.groups.values())
    out.print(f"{file} is right: {len(fleet.tiers)} tiers in {len(fleet.groups)} groups, {replicas} replicas at least")


@config_app.command()
def keys() -> None:
    """List every key of a fleet file, as Markdown."""
    print("| key | type | default | meaning |\n|---|---|---|---|")
    for key in describe_keys(FleetConfig):
        print(f"| `{key.path}` | {key.type} | {key.default} | {key.description} |")
