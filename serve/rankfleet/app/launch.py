"""A fleet on this one computer: start Ray, start Serve, wait until it ranks, stop it all again.

Ray reads its settings from the environment when it is first imported, so nothing here imports it before
`start` has put them there.
"""

import logging
import os
import socket
import sys
import time
from collections.abc import Callable

import httpx

from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import RankfleetError
from rankfleet.engine.checkpoint import find_checkpoint

# Serve's low-latency path: HAProxy hands requests straight to the router, user code runs on the main loop, and
# no line is logged per request. It has to be in the environment before Ray starts.
LOW_LATENCY = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
    "RAY_SERVE_REQUEST_LATENCY_BUCKETS_MS": "5,10,20,35,50,75,100,150,200,350,500,1000,2000,5000",
}
# Logs go to Ray's files, not to the terminal; usage statistics are sent nowhere; other users of this machine
# may not command the cluster.
LOCAL = {"RAY_SERVE_LOG_TO_STDERR": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token"}


class LaunchError(RankfleetError):
    """The fleet could not be started here; the message says why and what to do."""

    code = "launch"


def check_port(host: str, port: int) -> None:
    """Raises LaunchError when something listens there already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise LaunchError(f"{host}:{port} cannot be used ({error.strerror}); choose another with --port") from error


def check_fits(config: FleetConfig, cores: float) -> None:
    """Raises LaunchError when the least number of replicas needs more CPU cores than there are: Ray would wait
    for them for ever."""
    needed = config.router_cpus * config.routers.min + sum(g.cpus * g.replicas.min for g in config.groups.values())
    if needed > cores:
        raise LaunchError(
            f"this fleet reserves {needed:g} CPU cores and the machine has {cores:g}; lower `cpus` of the groups "
            "(fractions are fine) or `router_cpus`"
        )


def start(config: FleetConfig, host: str, port: int, progress: Callable[[str], None]) -> str:
    """Start the fleet and return its address once it ranks. `progress` hears what is going on.

    Raises CheckpointError, LaunchError.
    """
    check_port(host, port)
    cores = float(os.cpu_count() or 1)
    check_fits(config, cores)
    for name, tier in config.tiers.items():
        progress(f"model {name}: {tier.model}")
        find_checkpoint(tier.model, tier.revision)  # fetched once here, not by every replica at the same time

    os.environ.update(LOW_LATENCY | LOCAL)
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions
    from ray.serve.schema import LoggingConfig

    from rankfleet.app.build import APP_NAME, build

    progress("starting Ray")
    ray.init(
        num_cpus=int(cores),
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
        namespace="serve",
    )
    quiet = LoggingConfig(enable_access_log=False, log_level="INFO")
    serve.start(http_options=HTTPOptions(host=host, port=port), logging_config=quiet)
    progress("starting the router and the replica groups")
    target = serve.RunTarget(
        build({"config": config.model_dump(mode="json")}),
        name=APP_NAME,
        route_prefix="/",
        logging_config=quiet,
    )
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    address = f"http://{host}:{port}"
    wait_until_ready(address, progress)
    return address


def wait_until_ready(address: str, progress: Callable[[str], None]) -> None:
    """Until /readyz says so. Raises LaunchError with Serve's own message when a deployment has failed."""
    from ray import serve
    from ray.serve.schema import ApplicationStatus

    from rankfleet.app.build import APP_NAME

    while True:
        application = serve.status().applications.get(APP_NAME)
        if application is not None:
            if application.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
                faults = [d.message for d in application.deployments.values() if d.message] or [application.message]
                raise LaunchError("the fleet did not start:\n" + "\n".join(faults))
            waiting = [name for name, d in application.deployments.items() if d.status.value != "HEALTHY"]
            progress(f"waiting for {', '.join(waiting) or 'the first scores'}")
        try:
            if httpx.get(f"{address}/readyz", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.25)


def stop() -> None:
    """End what `start` began. Nothing of it is left running."""
    if "ray" not in sys.modules:
        return
    import ray
    from ray import serve

    if ray.is_initialized():
        serve.shutdown()
        ray.shutdown()
