"""`rankfleet models`: list the tiers of a fleet, download their models, and export them."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from rankfleet.bench.tables import terminal
from rankfleet.cli import app, err, out, progress
from rankfleet.cli.options import ConfigOption, load_config, pick_tier

if TYPE_CHECKING:
    from rankfleet.engine.checkpoint.hub import HubModel

models_app = typer.Typer(help="List the tiers of a fleet, download their models, and export them.")
app.add_typer(models_app, name="models")


@models_app.callback(invoke_without_command=True)
def models(context: typer.Context, config: ConfigOption = "demo") -> None:
    """List the tiers of a fleet: model, quality, group, precision, and whether the model is on this computer.

    The quality is what the router plans by: that of the fused order where candidates come ranked.
    """
    if context.invoked_subcommand is not None:
        return
    from rankfleet.estimates.quality import own_table

    fleet = load_config(config)
    rows, quality = [], own_table(fleet).tiers
    for name, tier in fleet.tiers.items():
        here = "yes" if is_local(tier.model, tier.revision) else "no"
        group, revision = fleet.group_of(name), (tier.revision or "latest")[:8]
        rows.append((name, tier.model, revision, f"{quality[name]:.4f}", group, fleet.groups[group].dtype, here))
    out.print(terminal(("tier", "model", "revision", "nDCG@10", "group", "precision", "here"), rows))
    if any(row[-1] == "no" for row in rows):
        out.print(
            f"download what is not here:  rankfleet models pull --config {config}", highlight=False, soft_wrap=True
        )


@models_app.command()
def pull(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL[@REVISION]]...", help="models of the hub, such as org/name")
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", "-c", help="fleet file, or the name of a shipped one, whose models to get")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="file to write sizes and folders to")] = None,
) -> None:
    """Download models from the Hugging Face hub: those of a fleet, or those named, each once.

    All are looked up first, and nothing is downloaded unless all can be had and fit on the disk. A connection that
    breaks is taken up again; what is there already is not asked for. HF_TOKEN names a token for private and gated
    models, HF_HOME another folder for the cache, HF_ENDPOINT another hub.
    """
    from rankfleet.bench.results import write_json
    from rankfleet.engine.checkpoint.files import find_checkpoint, look_up_all

    fleet = load_config(config or "demo").tiers if config or not models else {}
    wanted = {text: (text.partition("@")[0], text.partition("@")[2] or None) for text in models or []}
    wanted |= {name: (tier.model, tier.revision) for name, tier in fleet.items()}
    with err.status("looking up the models"):
        on_hub = look_up_all(wanted)
    rows = [
        (
            name if name in fleet else "",
            found.model,
            (found.revision or "latest")[:8],
            decimal(found.bytes),
            here(found),
        )
        for name, found in on_hub.items()
    ]
    if rows:
        out.print(terminal(("tier", "model", "revision", "size", "here"), rows))
    written = dict[str, dict[str, Any]]()
    since_s = time.monotonic()
    for name, (model, revision) in wanted.items():
        found = on_hub.get(name)
        with downloading(name, found.missing_bytes if found else 0) as count_bytes:
            folder = find_checkpoint(model, revision, progress=count_bytes).folder
        written[name] = {"model": model, "revision": revision, "folder": str(folder)}
        if found:
            sizes = {"bytes": found.bytes, "downloaded_bytes": found.missing_bytes}
            written[name] |= {"commit": found.commit} | sizes
    missing = sum(found.missing_bytes for found in set(on_hub.values()))
    took = f"; downloaded {decimal(missing)} in {time.monotonic() - since_s:.0f} s" if missing else ""
    out.print(f"on this computer: {', '.join(wanted)}{took}", highlight=False, soft_wrap=True)
    if json_file is not None:
        write_json(json_file, {"models": written})


def here(found: "HubModel") -> str:
    if not found.missing_bytes:
        return "yes"
    part = found.bytes - found.missing_bytes
    return f"{decimal(part)} of it" if part else "no"


@contextmanager
def downloading(name: str, missing: int) -> Iterator[Callable[[int], object]]:
    """Show how much of `missing` bytes is there: on a terminal as a bar, else as a line for each tenth."""
    from rankfleet.engine.checkpoint.hub import in_tenths

    if not missing:
        yield lambda done: None
    elif err.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, TimeRemainingColumn(), console=err) as bar:
            task = bar.add_task(name, total=missing)
            yield lambda done: bar.update(task, completed=done)
    else:
        with progress(f"downloading {name}") as say:
            yield in_tenths(f"downloading {name}", missing, say)


@models_app.command()
def export(
    tier: Annotated[str, typer.Argument(help="tier whose model is exported")],
    folder: Annotated[Path, typer.Option("--out", "-o", help="folder for the checkpoint; must not exist")],
    config: ConfigOption = "demo",
) -> None:
    """Write the model of a tier as a float32 checkpoint that Sentence Transformers can load."""
    from rankfleet.engine.checkpoint.files import find_checkpoint
    from rankfleet.engine.checkpoint.storage import write_float32

    settings = pick_tier(load_config(config), tier)
    write_float32(find_checkpoint(settings.model, settings.revision), folder)
    out.print(f"{tier} is in {folder}:  CrossEncoder({str(folder)!r})", soft_wrap=True)


def is_local(model: str, revision: str | None) -> bool:
    from rankfleet.core.errors import CheckpointError
    from rankfleet.engine.checkpoint.files import find_checkpoint

    try:
        find_checkpoint(model, revision, local_only=True)
    except CheckpointError:
        return False
    return True
