"""A fleet on this one computer: start Ray, start Serve, wait until it ranks, change it, stop it all again.

Ray reads its settings from the environment when it is first imported, so nothing here imports it before they
are there.
"""

import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from rankfleet.core.config import FleetConfig
from rankfleet.core.environment import LOCAL, LOW_LATENCY, SIDE_PORTS
from rankfleet.core.errors import RankfleetError
from rankfleet.core.serveconfig import APP_NAME, serve_config
from rankfleet.engine.checkpoint import find_checkpoint
from rankfleet.retrieval.bm25 import Bm25Index
from rankfleet.routing.profile import read_profile

POLL_S = 0.25
SETTLE_S = 1.0


@dataclass(frozen=True)
class Running:
    """Where a started fleet is reached. metrics: Prometheus metrics of this node."""

    address: str
    metrics: str


class LaunchError(RankfleetError):
    """The fleet could not be started or reached here; the message says why and what to do."""

    code = "launch"


def start(config: FleetConfig, host: str, port: int, progress: Callable[[str], None]) -> Running:
    """Start the fleet and return where it is once it ranks. `progress` hears what is going on.

    Raises CheckpointError, ConfigError, LaunchError, before anything is started where that can be known.
    """
    check_port(host, port)
    check_fits(config)
    check_files(config, progress)
    prepare_kernels(config, progress)

    os.environ.update(LOW_LATENCY | LOCAL | side_ports())
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions
    from ray.serve.schema import LoggingConfig

    progress("starting Ray")
    ray.init(
        num_cpus=os.cpu_count(),
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
        namespace="serve",
    )
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(http_options=HTTPOptions(host=host, port=port), logging_config=LoggingConfig(enable_access_log=False))
    progress("starting the router and the replica groups")
    deploy(config)
    address = f"http://{host}:{port}"
    wait_until_ready(address, progress)
    return Running(address, f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics")


def prepare_kernels(config: FleetConfig, progress: Callable[[str], None]) -> None:
    """Compile the CPU's kernels here and once, instead of in every replica at the same time."""
    if any(group.gpus == 0 for group in config.groups.values()):
        from rankfleet.engine.native.library import library

        progress("preparing the CPU kernels; the first time takes about 15 seconds")
        library()


def apply(config: FleetConfig, progress: Callable[[str], None]) -> None:
    """Change the fleet that runs on this computer to `config`, and return once it runs.

    Raises CheckpointError, ConfigError; LaunchError when no fleet runs or the changed one does not start.
    """
    check_fits(config)
    check_files(config, progress)
    if config.updates.surge_percent and not room_to_surge(config):
        progress("no cores are free for new replicas beside the old ones, so those stop first")
        config = config.model_copy(update={"updates": config.updates.model_copy(update={"surge_percent": 0})})
    os.environ.update(LOW_LATENCY | LOCAL)
    import ray

    try:
        ray.init(address="auto", logging_level=logging.ERROR, log_to_driver=False, namespace="serve")
    except (ConnectionError, RuntimeError) as error:
        raise LaunchError("no fleet runs on this computer; start one with `rankfleet serve`") from error
    try:
        deploy(config)
        time.sleep(SETTLE_S)  # the controller takes the new config up in its next round
        while not is_running(progress):
            time.sleep(POLL_S)
    finally:
        ray.shutdown()


def deploy(config: FleetConfig) -> None:
    """Hand the fleet to Serve and return at once. Where it runs already only what differs is changed.

    The way of config files, which `serve deploy` and KubeRay go too: `serve.run` would restart every replica. Its
    REST door needs Ray's dashboard, so this knocks at the controller itself.
    """
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    client = _get_global_client()
    if client is None:
        raise LaunchError("Serve does not run on this cluster; start a fleet with `rankfleet serve`")
    client.deploy_apps(ServeDeploySchema.model_validate(serve_config(config)))


def stop() -> None:
    """End what `start` began: every process of this cluster is gone within seconds.

    Serve's own shutdown is left out on purpose. It drains HAProxy for half a minute, which a cluster that keeps
    running needs and one that ends with its terminal does not.
    """
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


def wait_until_ready(address: str, progress: Callable[[str], None]) -> None:
    """Until /readyz says so. Raises LaunchError when a deployment has failed."""
    while True:
        is_running(progress)
        try:
            if httpx.get(f"{address}/readyz", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass  # the ingress is not up yet
        time.sleep(POLL_S)


def is_running(progress: Callable[[str], None]) -> bool:
    """Whether all deployments are. Raises LaunchError with Serve's own message when one has failed."""
    from ray import serve
    from ray.serve.schema import ApplicationStatus

    application = serve.status().applications.get(APP_NAME)
    if application is None:
        return False
    if application.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
        faults = [d.message for d in application.deployments.values() if d.message] or [application.message]
        raise LaunchError("the fleet did not start:\n" + "\n".join(faults))
    waiting = [name for name, d in application.deployments.items() if d.status.value != "HEALTHY"]
    progress(f"waiting for {', '.join(waiting) or 'the first scores'}")
    return application.status == ApplicationStatus.RUNNING


def is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def check_port(host: str, port: int) -> None:
    """Raises LaunchError when nothing can listen there."""
    if not is_free(host, port):
        raise LaunchError(f"{host}:{port} is in use or not an address of this computer; choose another with --port")


def side_ports() -> dict[str, str]:
    """Free ports in place of those of Serve's side ports that are taken, as by another fleet on this computer."""
    chosen = {}
    for name, default in SIDE_PORTS.items():
        if name not in os.environ and not is_free("0.0.0.0", default):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                chosen[name] = str(probe.getsockname()[1])
    return chosen


def check_files(config: FleetConfig, progress: Callable[[str], None]) -> None:
    """Raises what replicas would raise for models, profile or index that are missing or wrong. Models of the hub
    are fetched here once, not by every replica at the same time."""
    for name, tier in config.tiers.items():
        progress(f"model {name}: {tier.model}")
        find_checkpoint(tier.model, tier.revision)
    if config.profile:
        read_profile(config.profile)
    if config.search:
        Bm25Index.load(Path(config.search.index))


def reserved(config: FleetConfig, count: Callable[[int], int] = lambda replicas: replicas) -> dict[str, float]:
    """What the replicas to start with take. count: of how many there are, instead of those there should be."""
    taken = {"CPU cores": config.router_cpus * count(config.routers), "GPUs": 0.0}
    for group in config.groups.values():
        replicas = count(max(1, group.replicas.min))
        taken["CPU cores"] += group.cpus * replicas
        taken["GPUs"] += group.gpus * replicas
    return taken


def here() -> dict[str, float]:
    """What this computer has."""
    import torch

    return {"CPU cores": float(os.cpu_count() or 1), "GPUs": float(torch.cuda.device_count())}


def room_to_surge(config: FleetConfig) -> bool:
    """Whether new replicas find room beside the old ones. Serve would wait for it for ever."""
    there = here()
    return all(needed <= there[what] for what, needed in reserved(config, config.updates.at_most).items())


def check_fits(config: FleetConfig) -> None:
    """Raises LaunchError when the replicas to start with need more than this computer has: Ray would wait for it
    for ever."""
    groups, there = config.groups.values(), here()
    for what, needed in reserved(config).items():
        if needed > there[what]:
            raise LaunchError(
                f"this fleet reserves {needed:g} {what} and the machine has {there[what]:g}; lower `cpus` or `gpus` of "
                "the groups (fractions are fine), or take fewer groups"
            )
    if named := sorted({name for group in groups for name in group.resources}):
        raise LaunchError(f"custom resources ({', '.join(named)}) are for clusters; this computer has none")
