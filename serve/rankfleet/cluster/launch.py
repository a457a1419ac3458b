"""A fleet on this one computer: start Ray, start Serve, wait until it ranks, change it, stop it all again.

Ray reads its settings from the environment when it is first imported, so nothing here imports it before they
are there.
"""

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import httpx

from rankfleet.cluster import changes
from rankfleet.cluster.environment import (
    LOCAL,
    LOW_LATENCY,
    haproxy_files,
    leave_proxies,
    ray_temp,
    token_path,
    token_place,
    user_folder,
)
from rankfleet.cluster.failures import LaunchError, one_sentence, reason_of, troubles, why_failed
from rankfleet.cluster.preflight import check_files, check_fits, check_port, room_to_surge, side_ports
from rankfleet.cluster.running_fleets import Fleet, fleets, forget_fleet, note_fleet, pick_fleet
from rankfleet.cluster.serve_config import APP_NAME, serve_config
from rankfleet.core.config import FleetConfig

POLL_S = 0.25


@dataclass(frozen=True)
class StartedFleet:
    """Where a started fleet is reached. metrics: Prometheus metrics of this node."""

    address: str
    metrics: str


def start(config: FleetConfig, host: str, port: int, progress: Callable[[str], None]) -> StartedFleet:
    """Start the fleet and return where it is once it ranks. `progress` hears what is going on.

    Raises CheckpointError, ConfigError, LaunchError, before anything is started where that can be known.
    """
    check_port(host, port)
    check_fits(config)
    check_files(config, progress)
    prepare_kernels(config, progress)
    with one_at_a_time(progress):
        check_port(host, port)
        prepare_environment()
        import ray
        from ray import serve
        from ray.serve.config import HTTPOptions
        from ray.serve.schema import LoggingConfig

        progress("starting Ray")
        with one_sentence("Ray"):
            # "local": its own, whatever RAY_ADDRESS says and whatever else runs here.
            ray.init(
                address="local",
                num_cpus=os.cpu_count(),
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
                namespace="serve",
            )
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        progress("starting Ray Serve")
        with one_sentence("Ray Serve"):
            serve.start(
                http_options=HTTPOptions(host=host, port=port), logging_config=LoggingConfig(enable_access_log=False)
            )
    progress("starting the router and the replica groups")
    with one_sentence("the fleet"):
        deploy(config)
        address = f"http://{host}:{port}"
        wait_until_ready(address, progress)
        note_fleet(Fleet(address, port, ray.get_runtime_context().gcs_address, token_path(os.environ)))
        return StartedFleet(address, f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics")


@contextmanager
def one_at_a_time(progress: Callable[[str], None]) -> Iterator[None]:
    """Let another fleet of this user that is starting go first, until its ports are taken: two that look for free ports
    at the same time find the same ones. Raises LaunchError."""
    import fcntl

    try:
        lock = (user_folder() / "starting").open("w")
    except OSError as error:
        raise LaunchError(str(error)) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another fleet of yours that is starting")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def prepare_environment() -> None:
    """Set what Ray and Serve read, for this process and all that it starts. Raises LaunchError that says what to set
    where there is no folder for their files."""
    leave_proxies(os.environ)
    try:
        os.environ.update(ray_temp(os.environ) | token_place(os.environ) | haproxy_files(os.environ))
    except OSError as error:
        raise LaunchError(str(error)) from error
    os.environ.update(LOW_LATENCY | LOCAL | side_ports())


def prepare_kernels(config: FleetConfig, progress: Callable[[str], None]) -> None:
    """Compile the CPU's kernels here and once, instead of in every replica at the same time."""
    if any(group.gpus == 0 for group in config.groups.values()):
        from rankfleet.engine.native.library import library

        progress("preparing the CPU kernels; the first time takes about 15 seconds")
        library()


def apply(config: FleetConfig, progress: Callable[[str], None], port: int | None = None) -> None:
    """Change the fleet that `rankfleet serve` runs on this computer to `config`, and return once it serves it. port:
    which one, where there are several.

    Raises CheckpointError, ConfigError; LaunchError when no fleet runs, or the change cannot work: then the fleet goes
    on as it was.
    """
    check_fits(config)
    check_files(config, progress)
    fleet = pick_fleet(fleets(), port)
    prepare_environment()
    if fleet.token and "RAY_AUTH_TOKEN" not in os.environ:
        os.environ["RAY_AUTH_TOKEN_PATH"] = fleet.token
    import ray

    def fitting(changed: FleetConfig) -> FleetConfig:
        if not changed.updates.surge_percent or room_to_surge(changed):
            return changed
        progress("no cores are free for new replicas beside the old ones, so those stop first")
        return changed.model_copy(update={"updates": changed.updates.model_copy(update={"surge_percent": 0})})

    progress(f"changing the fleet at {fleet.address}")
    try:
        ray.init(address=fleet.cluster, logging_level=logging.ERROR, log_to_driver=False, namespace="serve")
    except Exception as error:  # of many classes
        raise LaunchError(
            f"the fleet at {fleet.address} does not answer ({reason_of(str(error))}); where RAY_AUTH_TOKEN was set for "
            "`rankfleet serve`, set it to the same"
        ) from error
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    try:
        # On an event loop, where handles work that run on the main one (`LOW_LATENCY`).
        asyncio.run(
            changes.change(config, partial(deploy, changed=True), lambda: is_running(progress), progress, fitting)
        )
    finally:
        ray.shutdown()


def deploy(config: FleetConfig, changed: bool = False) -> None:
    """Hand the fleet to Serve and return at once. changed: it runs already, and only what differs is changed; as many
    replicas as there are stay, where Serve would begin anew with `initial_replicas`.

    The way of config files, which `serve deploy` and KubeRay go too: `serve.run` would restart every replica. Its
    REST door needs Ray's dashboard, so this knocks at the controller itself.
    """
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    client = _get_global_client()
    if client is None:
        raise LaunchError("Serve does not run on this cluster; start a fleet with `rankfleet serve`")
    whole = serve_config(config)
    if changed:
        for deployment in whole["applications"][0]["deployments"]:
            deployment["autoscaling_config"].pop("initial_replicas", None)
    client.deploy_apps(ServeDeploySchema.model_validate(whole))


def stop() -> None:
    """End what `start` began: every process of this cluster is gone within seconds.

    Serve's own shutdown is left out on purpose. It drains HAProxy for half a minute, which a cluster that keeps
    running needs and one that ends with its terminal does not.
    """
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
        forget_fleet()


def wait_until_ready(address: str, progress: Callable[[str], None]) -> None:
    """Until /readyz says so. Raises LaunchError when a deployment has failed."""
    while True:
        is_running(progress)
        try:
            if httpx.get(f"{address}/readyz", timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass  # the ingress is not up yet
        time.sleep(POLL_S)


def is_running(progress: Callable[[str], None]) -> bool:
    """Whether all deployments are. Raises LaunchError, with the reason first, when one has failed: at once where its
    replica raised an error of ours, and otherwise when Serve has tried often enough."""
    from ray import serve
    from ray.serve.schema import ApplicationStatus

    application = serve.status().applications.get(APP_NAME)
    if application is None:
        return False
    failed = application.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY)
    found = troubles(application)
    if failed or any(trouble.ours for trouble in found):
        raise LaunchError(why_failed(application.message, found))
    waiting = [name for name, d in application.deployments.items() if d.status.value != "HEALTHY"]
    again = "".join(f"; {trouble}; trying again" for trouble in found)
    if application.deployments:
        progress(f"waiting for {', '.join(waiting) or 'the first scores'}{again}")
    return application.status == ApplicationStatus.RUNNING
