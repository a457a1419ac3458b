"""`rankfleet k8s`: Kubernetes manifests of a fleet."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from rankfleet.cli import app, err
from rankfleet.cli.keys import table_of_keys
from rankfleet.cli.options import SHIPPED, ConfigOption, load_config
from rankfleet.core.errors import ConfigError
from rankfleet.k8s.cluster_file import ClusterFile, parse_cluster, read_cluster
from rankfleet.k8s.helm import chart
from rankfleet.k8s.render import render as render_fleet

k8s_app = typer.Typer(no_args_is_help=True, help="Write Kubernetes manifests.")
app.add_typer(k8s_app, name="k8s")
CLUSTERS = SHIPPED / "clusters"


@k8s_app.callback()
def k8s() -> None:
    """Write Kubernetes manifests."""


@k8s_app.command()
def render(
    config: ConfigOption = "demo",
    cluster: Annotated[
        str | None,
        typer.Option(help="cluster file (docs/kubernetes.md), or a shipped one: fleet, production, incremental"),
    ] = None,
    name: Annotated[str | None, typer.Option(help="name of the RayService; default: the cluster file's")] = None,
    image: Annotated[str | None, typer.Option(help="container image; default: the cluster file's")] = None,
    allow_anyone: Annotated[
        bool, typer.Option("--allow-anyone", help="ask for no API keys: whoever reaches port 8000 may use the fleet")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="folder for base, overlays/NAME and charts/NAME; default: the terminal")
    ] = None,
    overlay: Annotated[
        str | None, typer.Option(help="NAME of the overlay and chart; default: the fleet file's")
    ] = None,
    helm: Annotated[bool, typer.Option("--helm", help="write a Helm chart with the same objects, too")] = False,
) -> None:
    """Render a fleet file for KubeRay: a RayService and what it needs, as Kustomize and as a Helm chart."""
    fleet, options = load_config(config), {"name": name, "image": image, "allow_anyone": allow_anyone or None}
    placed = load_cluster(cluster, {key: value for key, value in options.items() if value is not None})
    command = command_line(config, cluster, options, out, overlay, helm)
    rendering = render_fleet(fleet, placed, command)
    if out is None:
        print(rendering.stream, end="")
        return
    target = overlay or Path(config).stem
    texts = rendering.kustomize(target)
    if helm:
        texts |= {f"charts/{target}/{path}": text for path, text in chart(rendering, placed, command).items()}
    try:
        for path, text in texts.items():
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            (out / path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{out}: {error.strerror or error}") from error
    err.print(f"wrote {out}; apply it with: kubectl apply -k {out / 'overlays' / target}")


@k8s_app.command()
def keys() -> None:
    """List every key of a cluster file, as a Markdown table."""
    print("\n".join(table_of_keys(ClusterFile)))


def load_cluster(cluster: str | None, options: dict[str, Any]) -> ClusterFile:
    """The cluster file at this path, or the shipped one of this name, with options in place of its keys. Raises
    ConfigError."""
    if cluster is None:
        return parse_cluster(options, "options")
    shipped = CLUSTERS / f"{cluster}.yaml"
    read = read_cluster(shipped if shipped.exists() and not Path(cluster).exists() else Path(cluster))
    return parse_cluster(read.model_dump() | options, "options")


def command_line(
    config: str, cluster: str | None, options: dict[str, Any], out: Path | None, overlay: str | None, helm: bool
) -> str:
    """The command that renders the same files, without options that have their default."""
    words = ["rankfleet", "k8s", "render", "--config", config]
    words += ["--cluster", cluster] if cluster else []
    for key in ("name", "image"):
        words += [f"--{key}", options[key]] if options[key] else []
    words += ["--allow-anyone"] if options["allow_anyone"] else []
    words += ["--out", str(out)] if out else []
    words += ["--overlay", overlay] if overlay else []
    words += ["--helm"] if helm else []
    return shlex.join(words)
