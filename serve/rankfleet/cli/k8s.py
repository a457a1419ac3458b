"""`rankfleet k8s`: Kubernetes manifests of a fleet."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from rankfleet.cli import app, err
from rankfleet.cli.options import ConfigOption, load_config
from rankfleet.cluster.serve_config import APP_NAME
from rankfleet.core.errors import ConfigError
from rankfleet.k8s.manifests import IMAGE
from rankfleet.k8s.manifests import render as render_service

k8s_app = typer.Typer(no_args_is_help=True, help="Write Kubernetes manifests.")
app.add_typer(k8s_app, name="k8s")


@k8s_app.callback()
def k8s() -> None:
    """Write Kubernetes manifests."""


@k8s_app.command()
def render(
    config: ConfigOption = "demo",
    name: Annotated[str, typer.Option(help="name of the RayService")] = APP_NAME,
    image: Annotated[str, typer.Option(help="container image of all pods (k8s/Dockerfile)")] = IMAGE,
    out_file: Annotated[Path | None, typer.Option("--out", help="file to write to; default: the terminal")] = None,
    allow_anyone: Annotated[
        bool, typer.Option("--allow-anyone", help="ask for no API keys: whoever reaches port 8000 may use the fleet")
    ] = False,
) -> None:
    """Render a fleet file as a RayService for KubeRay, which reads API keys from a secret."""
    command = command_line(config, name, image, out_file, allow_anyone)
    text = render_service(load_config(config), command, name, image, allow_anyone)
    if out_file is None:
        print(text, end="")
        return
    try:
        out_file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{out_file}: {error.strerror or error}") from error
    err.print(f"wrote {out_file}")


def command_line(config: str, name: str, image: str, out_file: Path | None, allow_anyone: bool) -> str:
    """The command that renders the same manifest, without options that have their default."""
    words = ["rankfleet", "k8s", "render", "--config", config]
    words += ["--name", name] if name != APP_NAME else []
    words += ["--image", image] if image != IMAGE else []
    words += ["--allow-anyone"] if allow_anyone else []
    words += ["--out", str(out_file)] if out_file else []
    return shlex.join(words)
