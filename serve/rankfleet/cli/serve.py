"""`rankfleet serve`: run a fleet on this computer."""

import contextlib
import ipaddress
import signal
import threading
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from rankfleet.cli import app, err, out, progress
from rankfleet.cli.news import News, View
from rankfleet.cli.options import ConfigOption, load_config
from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import ConfigError
from rankfleet.estimates.quality import own_table

WATCH_PERIOD_S = 2.0
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
    keys: Annotated[
        Path | None, typer.Option(help="file of API keys, in place of `keys` in the fleet file; see `rankfleet keys`")
    ] = None,
    allow_anyone: Annotated[
        bool, typer.Option("--allow-anyone", help="listen on an address that others reach, without API keys")
    ] = False,
) -> None:
    """Run a fleet on this computer until Ctrl-C."""
    fleet = load_config(config)
    if keys is not None:
        fleet = fleet.model_copy(update={"keys": str(keys.resolve())})
    if fleet.keys is None and not allow_anyone and not is_loopback(host):
        raise ConfigError(
            f"--host {host}: others can reach this address, and the fleet asks for no API key. Name a file of keys "
            "with --keys (`rankfleet keys new` makes one), or say --allow-anyone"
        )
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop_now(stopped))

    from rankfleet.cluster import launch
    from rankfleet.cluster.failures import lost_and_failing
    from rankfleet.cluster.fleet_board import board_now

    started = False
    try:
        with progress("ray: starting") as say:
            running = launch.start(fleet, host, port, say)
        started = True
        greet(fleet, running.address, running.metrics)
        news = News(time.monotonic())
        while not stopped.wait(WATCH_PERIOD_S):
            with contextlib.suppress(Exception):  # a busy controller may not answer in time
                for line in news.lines(View(board_now(), *lost_and_failing()), time.monotonic()):
                    err.print(f"[dim]{time.strftime('%H:%M:%S')}[/]  {escape(line)}", highlight=False, soft_wrap=True)
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


def is_loopback(host: str) -> bool:
    """Whether only this computer reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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
        "API keys": f"needed, by {fleet.keys}" if fleet.keys else "",
    }
    for name, fact in facts.items():
        if fact:
            out.print(f"  [dim]{name:16}[/]{fact}", highlight=False, soft_wrap=True)
    out.print("\nTry it:\n")
    print(EXAMPLE.format(address=address), flush=True)
    if fleet.keys:
        out.print("\nwith -H 'authorization: Bearer KEY'")
    out.print("\nCtrl-C stops it.")
