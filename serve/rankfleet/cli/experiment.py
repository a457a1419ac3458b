"""`rankfleet experiment`: the experiments of a running fleet, their weights, and the kill switch."""

import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from rankfleet.cli import app, err, out, progress
from rankfleet.clients.http import JsonClient
from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import ConfigError
from rankfleet.core.experiment_changes import with_stop, with_weights

KEY = "RANKFLEET_API_KEY"

experiment_app = typer.Typer(no_args_is_help=True, help="See, change, judge and stop experiments.")
app.add_typer(experiment_app, name="experiment")

PortOption = Annotated[int | None, typer.Option(help="port of the fleet, if several run on this computer")]
RayServiceOption = Annotated[
    str | None,
    typer.Option(
        "--rayservice",
        help="on Kubernetes: a file with what `kubectl get rayservice NAME -o json` prints, or - for standard input. "
        "The patch for `kubectl patch` goes to standard output",
    ),
]


@experiment_app.callback()
def experiment() -> None:
    """See, change, judge and stop experiments."""


@experiment_app.command()
def status(
    url: Annotated[
        str | None, typer.Option(help="address of the fleet; default: the one that runs on this computer")
    ] = None,
    port: PortOption = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="also write it to this file")] = None,
) -> None:
    """Show arms, weights in force, the next step, and what has been counted and stopped. The API key, if the fleet
    wants one, is read from RANKFLEET_API_KEY."""
    if url is None:
        from rankfleet.cluster.running_fleets import pick_fleet, running_fleets

        url = pick_fleet(running_fleets(), port).address
    experiments = JsonClient(url, key=os.environ.get(KEY), key_name=KEY).ask("GET", "/v1/fleet", tries=1)["experiments"]
    if as_json is not None:
        as_json.write_text(json.dumps(experiments, indent=2) + "\n", encoding="utf-8")
    if not experiments:
        out.print("this fleet has no experiments")
    for each in experiments:
        show(each)


def show(experiment: dict[str, Any]) -> None:
    """One experiment, as GET /v1/fleet has it."""
    since, shadow = experiment["since_s"], experiment["mode"] == "shadow"
    counted = "nothing counted yet"
    if since:
        counted = f"counts since {datetime.fromtimestamp(since, UTC):%Y-%m-%d %H:%M} UTC"
    parts = ["shadow" if shadow else "", "stopped" if experiment["stopped"] else "" if shadow else counted]
    title = f"{experiment['name']}: {', '.join(filter(None, parts))}"
    columns = slice(3 if shadow else None)  # the arms of a shadow experiment answer nothing that could be counted
    head = ("arm", "changes", "share", "requests", "errors", "budgets met")
    table = Table(*head[columns], title=title, title_justify="left")
    for arm in experiment["arms"]:
        met = f"{arm['met'] / arm['budgets']:.1%} of {arm['budgets']:,}" if arm["budgets"] else "–"
        control = arm["name"] == experiment["control"] and not shadow
        name = f"{arm['name']} (control)" if control else arm["name"]
        share = "stopped" if arm["stopped"] else f"{arm['share']:.2%}"
        row = (name, arm["changes"], share, f"{arm['requests']:,}", f"{arm['errors']:,}", met)
        table.add_row(*row[columns])
    out.print(table)
    for arm in experiment["arms"]:
        if arm["stopped"]:
            out.print(f"{arm['name']} is stopped: {arm['stopped']}", highlight=False, soft_wrap=True)
    if (step := experiment["next"]) is not None:
        weights = ", ".join(f"{arm} {weight:g}" for arm, weight in step["weights"].items())
        out.print(f"next: {weights} at {step['at']}", highlight=False, soft_wrap=True)


@experiment_app.command("set")
def set_weights(
    name: Annotated[str, typer.Argument(help="of the experiment")],
    weights: Annotated[list[str], typer.Argument(help="ARM=WEIGHT ...; arms that are left out keep their weight")],
    port: PortOption = None,
    rayservice: RayServiceOption = None,
) -> None:
    """Change weights of the running fleet from now on. No unit moves that need not, no request fails, and steps of the
    schedule that are still to come are dropped.

    The fleet file does not change: add the step that is printed, or the next `rankfleet apply` takes it back.
    """
    parsed, at = parse_weights(weights), datetime.now(UTC)

    def change(config: FleetConfig) -> FleetConfig:
        nonlocal at
        at = datetime.now(UTC)  # reaching the fleet has taken seconds
        return with_weights(config, name, parsed, at)

    make(change, port, rayservice)
    shown = ", ".join(f"{arm}: {weight:g}" for arm, weight in parsed.items())
    say(
        f"to keep it, make this the last step of the schedule of {name} in the fleet file:\n"
        f"  - {{at: {at.isoformat()}, weights: {{{shown}}}}}"
    )


@experiment_app.command()
def stop(
    name: Annotated[str, typer.Argument(help="of the experiment")],
    arm: Annotated[str | None, typer.Argument(help="one arm, whose units then get what the control's get")] = None,
    port: PortOption = None,
    rayservice: RayServiceOption = None,
) -> None:
    """Stop an experiment of the running fleet, or one arm of it. No request fails.

    The fleet file does not change: set `stopped: true` there, too, or the next `rankfleet apply` takes it back.
    """
    make(lambda config: with_stop(config, name, arm), port, rayservice)
    say(f"to keep it, set `stopped: true` of {name if arm is None else f'arm {arm} of {name}'} in the fleet file")


def parse_weights(words: list[str]) -> dict[str, float]:
    """ARM=WEIGHT by arm. Raises ConfigError."""
    parsed = {}
    for word in words:
        arm, _, weight = word.partition("=")
        try:
            parsed[arm] = float(weight)
        except ValueError:
            raise ConfigError(f"{word}: give ARM=WEIGHT, such as small=10") from None
    return parsed


def make(change: Callable[[FleetConfig], FleetConfig], port: int | None, rayservice: str | None) -> None:
    """Make a change to the fleet on this computer, or print its patch of a RayService. Raises what they raise."""
    if rayservice is not None:
        from rankfleet.k8s.live_change import live_patch

        try:
            text = sys.stdin.read() if rayservice == "-" else Path(rayservice).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{rayservice}: {error.strerror}") from error
        print(json.dumps(live_patch(text, change)))
        say("hand it over with: kubectl patch rayservice NAME --type merge --patch-file FILE")
        return

    from rankfleet.cluster.update import change_live

    with progress("changing") as tell:
        change_live(change, tell, port)
    say("every router follows")


def say(text: str) -> None:
    """Print a note for people beside what is for programs."""
    err.print(text, highlight=False, markup=False, soft_wrap=True)
