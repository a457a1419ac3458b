"""`rankfleet config`: check fleet files, and list their keys."""

from typing import Annotated

import typer

from rankfleet.cli import app, err, out
from rankfleet.cli.keys import table_of_keys
from rankfleet.cli.options import load_config
from rankfleet.core.config import FleetConfig

config_app = typer.Typer(no_args_is_help=True, help="Check fleet files, and list their keys.")
app.add_typer(config_app, name="config")


@config_app.callback()
def config() -> None:
    """Check fleet files, and list their keys."""


@config_app.command()
def check(file: Annotated[str, typer.Argument(help="fleet file, or the name of a shipped one")]) -> None:
    """Check a fleet file and the files that it names, and list every key that is wrong."""
    fleet = load_config(file)

    from rankfleet.cluster.preflight import check_files

    with err.status("checking"):
        unchecked = check_files(fleet, lambda text: None, fetch=False)
    if unchecked:
        err.print(
            f"not checked, because they are not downloaded yet: the models of {', '.join(unchecked)}",
            highlight=False,
            soft_wrap=True,
        )
    replicas = sum(fleet.replicas_of(name).min for name in fleet.groups)
    counts = f"{count(len(fleet.tiers), 'tier')} in {count(len(fleet.groups), 'group')}"
    out.print(f"{file} is valid: {counts}, at least {count(replicas, 'replica')}", soft_wrap=True)


def count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


@config_app.command()
def keys() -> None:
    """List every key of a fleet file, as a Markdown table."""
    print("\n".join(table_of_keys(FleetConfig)))
