"""The command line: one module per command."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from rankfleet.cli.states import States
from rankfleet.core.errors import RankfleetError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Rankfleet: a reranking cluster that answers every request with the best ranking its time allows.",
)
out = Console()
err = Console(stderr=True)


@contextmanager
def progress(first: str, clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[str], None]]:
    """A function that shows the present state of a long command.

    On a terminal that is one line (`States`). Otherwise each new state is printed once, on its own line, with the
    seconds since the start.
    """
    if err.is_terminal:
        states = States(clock)
        states.say(first)
        with err.status(states):
            yield states.say
        return
    shown: set[str] = set()
    since_s = clock()

    def show(text: str) -> None:
        if text not in shown:
            shown.add(text)
            err.print(f"{clock() - since_s:5.1f} s  {text}", markup=False, highlight=False, soft_wrap=True)

    show(first)
    yield show


def main() -> None:
    """Entry point: an error of Rankfleet is shown as one message, with exit status 1."""
    from rankfleet.cli import (  # noqa: F401  (each registers its commands)
        api_keys,
        apply,
        bench,
        config,
        distill,
        evaluate,
        experiment,
        experiment_report,
        faults,
        index,
        k8s,
        models,
        plan,
        profile,
        rank,
        recommend,
        serve,
        simulate,
        slo,
    )

    try:
        app()
    except RankfleetError as error:
        err.print(f"[red]error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)
