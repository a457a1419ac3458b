"""The command line: one module a verb."""

import sys

import typer
from rich.console import Console
from rich.markup import escape

from rankfleet.core.errors import RankfleetError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Rankfleet: a reranking cluster that answers with the best ranking that fits the time.",
)
out = Console()
err = Console(stderr=True)


def main() -> None:
    """Entry point: errors of ours become one message and exit status 1."""
    from rankfleet.cli import (  # noqa: F401  (each registers its verbs)
        apply,
        bench,
        config,
        distill,
        evaluate,
        faults,
        index,
        k8s,
        models,
        plan,
        profile,
        rank,
        serve,
        simulate,
    )

    try:
        app()
    except RankfleetError as error:
        err.print(f"[red]error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)
