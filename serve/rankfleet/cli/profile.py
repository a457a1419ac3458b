"""`rankfleet profile`: measure how long each tier takes on this device, and what a request costs client and router."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from rankfleet.cli import app, err, out
from rankfleet.cli.options import ConfigOption, load_config


@app.command()
def profile(
    config: ConfigOption = "demo",
    json_file: Annotated[Path | None, typer.Option("--json", help="file to write the profile to")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="how often each batch shape is measured")] = 4,
    seconds: Annotated[float, typer.Option(min=1, help="longest time spent on one tier")] = 60.0,
) -> None:
    """Time each tier on batches of many shapes, and fit its latency model t = α + β·tokens + γ·Σ length².

    Then time what a request costs client and router, for the simulator.

    Name the profile in the fleet file (`profile: FILE`), so that replicas need not measure when they start.
    """
    fleet = load_config(config)

    from rankfleet.bench.profile import profile_file, profile_fleet
    from rankfleet.bench.request_cost import request_cost
    from rankfleet.bench.results import write_json
    from rankfleet.bench.tables import terminal
    from rankfleet.engine.runtime.measure import GRID

    with Progress(console=err, transient=True) as bar:
        tasks = {name: bar.add_task(name, total=len(GRID) * repeats) for name in fleet.tiers}
        profiles = profile_fleet(fleet, GRID, repeats, seconds, lambda tier: bar.advance(tasks[tier]))
    with err.status("measuring what a request costs client and router"):
        cost = request_cost(fleet, {name: tier.model for name, tier in profiles.items()})

    header = ("tier", "dtype", "α ms", "β µs/token", "γ ns/token²", "p99 ÷ mean", "error p50", "error p99", "spread")
    rows = [
        (
            name,
            tier.dtype,
            f"{tier.model.alpha_ms:.2f}",
            f"{tier.model.beta_ms * 1e3:.2f}",
            f"{tier.model.gamma_ms * 1e6:.2f}",
            f"{tier.model.p99_factor:.2f}",
            f"{tier.errors.p50:.0%}",
            f"{tier.errors.p99:.0%}",
            f"{tier.errors.spread:.0%}",
        )
        for name, tier in profiles.items()
    ]
    out.print(terminal(header, rows))
    out.print(
        "Errors: on shapes that the model was not fitted to. Spread: variation between batches of one shape.",
        soft_wrap=True,
    )
    out.print(
        f"Client and router: {cost.request_ms:.2f} ms per request and {cost.document_ms * 1e3:.1f} µs per document "
        f"before the chunks are sent, {cost.reply_ms:.2f} ms for the reply, with documents that the cache knows.",
        soft_wrap=True,
    )
    if json_file is not None:
        write_json(json_file, profile_file(profiles, fleet, cost))
        out.print(f"written to {json_file}; name it in the fleet file:  profile: {json_file}", soft_wrap=True)
