"""`rankfleet config`: is a fleet file right?"""

from typing import Annotated

import typer

from rankfleet.cli import app, err, out
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
    """Read a fleet file and say what is wrong with it, key by key, and with the files that it names."""
    fleet = load_config(file)

    from rankfleet.cluster.preflight import check_files

    with err.status("checking"):
        unseen = check_files(fleet, lambda text: None, fetch=False)
    if unseen:
        err.print(
            f"not checked, since `serve` has yet to fetch them: the models of {', '.join(unseen)}",
            highlight=False,
            soft_wrap=True,
        )
    replicas = sum(group.replicas.min for group in fleet.groups.values())
    counts = f"{count(len(fleet.tiers), 'tier')} in {count(len(fleet.groups), 'group')}, {count(replicas, 'replica')}"
    out.print(f"{file} is right: {counts} at least", soft_wrap=True)


def count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


@config_app.command()
def keys() -> None:
    """List every key of a fleet file, as Markdown."""
    print("| key | type | default | meaning |\n|---|---|---|---|")
    for key in describe_keys(FleetConfig):
        print(f"| `{key.path}` | {key.type} | {key.default} | {key.description} |")
