"""`rankfleet serve`: run a fleet on this computer."""

import contextlib
import signal
import threading
from typing import Annotated

import typer
from rich.markup import escape

from rankfleet.cli import app, err, out, progress
from rankfleet.cli.options import ConfigOption, load_config
from rankfleet.core.config import FleetConfig
from rankfleet.estimates.quality import own_table

WATCH_PERIOD_S = 5.0
EXAMPLE = """\
curl -s {address}/v1/rerank -H 'content-type: application/json' -d '{{
  "query": "How do vaccines protect against disease?",
  "slo_ms": 200,
  "documents": [
    "The stock market closed higher on Friday after strong earnings.",
    "A vaccine trains the immune system to recognise a germ, so that it can fight the disease later.",
    "Heavy rain is expected in the north of the country this weekend."
  ]
}}'"""


@app.command()
def serve(
    config: ConfigOption = "demo",
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="port to listen on")] = 8000,
) -> None:
    """Run a fleet on this computer until Ctrl-C."""
    fleet = load_config(config)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop_now(stopped))

    from rankfleet.cluster import launch
    from rankfleet.cluster.failures import new_failures

    started = False
    try:
        with progress("ray: starting") as say:
            running = launch.start(fleet, host, port, say)
        started = True
        greet(fleet, running.address, running.metrics)
        known: set[str] = set()
        while not stopped.wait(WATCH_PERIOD_S):
            with contextlib.suppress(Exception):  # a busy controller may not answer in time
                for failure in new_failures(known):
                    err.print(f"[yellow]warning:[/yellow] {escape(failure)}", highlight=False, soft_wrap=True)
    except KeyboardInterrupt:
        started = True
    finally:
        # A second Ctrl-C must not interrupt the clean-up.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        with err.status("stopping"), contextlib.suppress(Exception):
            launch.stop()
        if started:
            err.print("stopped")


def stop_now(stopped: threading.Event) -> None:
    stopped.set()
    raise KeyboardInterrupt


def greet(fleet: FleetConfig, address: str, metrics: str) -> None:
    out.print(f"[bold green]ready[/] at [bold]{address}[/]", highlight=False)
    table = own_table(fleet)
    ranks = [*table.tiers.items()] + ([("as given", table.retriever)] if table.retriever else [])
    classes = [f"{name} {f'{slo.slo_ms:g} ms' if slo.slo_ms else 'none'}" for name, slo in fleet.slo_classes.items()]
    facts = {
        "nDCG@10": ", ".join(f"{name} {quality:.3f}" for name, quality in ranks),
        "budgets": ", ".join(classes),
        "console": f"{address}/console",
        "API page": f"{address}/docs",
        "metrics": metrics,
    }
    for name, fact in facts.items():
        if fact:
            out.print(f"  [dim]{name:16}[/]{fact}", highlight=False, soft_wrap=True)
    out.print("\nTry it:\n")
    print(EXAMPLE.format(address=address), flush=True)
    out.print("\nCtrl-C stops it.")
