"""`rankfleet profile`: measure how long each tier takes on this device."""

import datetime
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress
from rich.table import Table

from rankfleet.cli import app, err, out
from rankfleet.cli.options import ConfigOption, load_config
from rankfleet.core.errors import CheckpointError, ConfigError


@app.command()
def profile(
    config: ConfigOption = "demo",
    json_file: Annotated[Path | None, typer.Option("--json", help="file to write the profile to")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="how often each batch shape is measured")] = 4,
    seconds: Annotated[float, typer.Option(min=1, help="longest time spent on one tier")] = 60.0,
) -> None:
    """Time each tier on batches of many shapes, and fit its latency model t = α + β·tokens + γ·Σ length².

    Name the profile in the fleet file (`profile: FILE`), so that replicas need not measure when they start.
    """
    fleet = load_config(config)

    import torch

    from rankfleet.bench.machine import cpu_name
    from rankfleet.engine.checkpoint.files import find_checkpoint
    from rankfleet.engine.runtime.checkpoint_checks import check_checkpoint
    from rankfleet.engine.runtime.measure import GRID, measure
    from rankfleet.engine.runtime.scorer import Scorer
    from rankfleet.estimates.latency import fit, held_out_errors
    from rankfleet.estimates.profile import profile_json

    models, rows, dtypes = {}, [], {}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
    with Progress(console=err, transient=True) as bar:
        for name, tier in fleet.tiers.items():
            group = fleet.groups[fleet.group_of(name)]
            torch.set_num_threads(group.threads)
            try:
                checkpoint = find_checkpoint(tier.model, tier.revision)
                check_checkpoint(checkpoint, group.dtype, tier.max_tokens)
                scorer = Scorer.load(checkpoint, group.dtype)
            except CheckpointError as error:
                raise CheckpointError(f"tier {name}: {error}") from error
            dtypes[name] = scorer.dtype
            samples = []
            task = bar.add_task(name, total=len(GRID) * repeats)
            for sample in measure(scorer, min(tier.max_tokens or 512, scorer.max_pair), GRID, repeats, seconds):
                samples.append(sample)
                bar.advance(task)
            if len(samples) < 6:
                raise ConfigError(f"tier {name} is too slow to profile in {seconds:g} s; give more --seconds")
            models[name] = fit(samples)
            rows.append((name, len(samples), models[name], held_out_errors(samples)))

    table = Table(
        "tier", "α ms", "β µs/token", "γ ns/token²", "p99 ÷ mean", "error p50", "error p99", "spread", box=None
    )
    for name, _, model, off in rows:
        table.add_row(
            name,
            f"{model.alpha_ms:.2f}",
            f"{model.beta_ms * 1e3:.2f}",
            f"{model.gamma_ms * 1e6:.2f}",
            f"{model.p99_factor:.2f}",
            f"{off.p50:.0%}",
            f"{off.p99:.0%}",
            f"{off.spread:.0%}",
        )
    out.print(table)
    out.print(
        "Errors: on shapes that the model was not fitted to. Spread: variation between batches of one shape.",
        soft_wrap=True,
    )
    if json_file is not None:
        measured: dict[str, Any] = {
            "device": device,
            "threads": {name: fleet.groups[fleet.group_of(name)].threads for name in fleet.tiers},
            "dtype": dtypes,
            "torch": torch.__version__,
            "date": datetime.date.today().isoformat(),
            "samples": {name: count for name, count, _, _ in rows},
            "held_out_error": {name: off.to_json() for name, _, _, off in rows},
        }
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(profile_json(models, measured), indent=2) + "\n", encoding="utf-8")
        out.print(f"written to {json_file}; name it in the fleet file:  profile: {json_file}", soft_wrap=True)
