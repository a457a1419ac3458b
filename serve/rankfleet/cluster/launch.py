"""Starts a fleet on this computer: Ray, Ray Serve, the deployments; and stops it again.

Ray reads its settings from the environment when it is first imported, so nothing here imports it before they are set.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rankfleet.cluster.deploy import deploy, wait_until_ready
from rankfleet.cluster.environment import prepare_environment, token_path, user_folder
from rankfleet.cluster.failures import as_launch_error
from rankfleet.cluster.memory_fit import check_memory
from rankfleet.cluster.preflight import check_files, check_fits, check_port
from rankfleet.cluster.running_fleets import RunningFleet, register_fleet, unregister_fleet
from rankfleet.core.config import FleetConfig


def start(config: FleetConfig, host: str, port: int, progress: Callable[[str], None]) -> RunningFleet:
    """Start a fleet and return when it answers. `progress`: called with each state as a line of text.

    Raises CheckpointError, ConfigError and LaunchError; where possible, before anything is started.
    """
    check_port(host, port)
    check_fits(config)
    check_files(config, progress)
    prepare_kernels(config, progress)
    check_memory(config)
    with as_launch_error("the fleet"), one_at_a_time(progress):
        check_port(host, port)
        prepare_environment()
        import ray
        from ray import serve
        from ray.serve.config import HTTPOptions
        from ray.serve.schema import LoggingConfig

        progress("starting Ray")
        with as_launch_error("Ray"):
            # "local" starts a cluster of its own, whatever RAY_ADDRESS says and whatever else runs here.
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
        with as_launch_error("Ray Serve"):
            serve.start(
                http_options=HTTPOptions(host=host, port=port), logging_config=LoggingConfig(enable_access_log=False)
            )
    progress("starting the router and the replica groups")
    with as_launch_error("the fleet"):
        deploy(config)
        address, metrics = f"http://{host}:{port}", f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics"
        wait_until_ready(address, progress)
        cluster = ray.get_runtime_context().gcs_address
        fleet = RunningFleet(address, port, metrics, cluster, token_path(os.environ))
        register_fleet(fleet)
        return fleet


@contextmanager
def one_at_a_time(progress: Callable[[str], None]) -> Iterator[None]:
    """Wait for another fleet of this user that is starting, until it has bound its ports: two starts that look for free
    ports at the same time find the same ones. Raises LaunchError."""
    import fcntl

    with (user_folder() / "starting").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another fleet of yours that is starting")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def prepare_kernels(config: FleetConfig, progress: Callable[[str], None]) -> None:
    """Compile the CPU kernels once, here, instead of in every replica at the same time."""
    if any(group.gpus == 0 for group in config.groups.values()):
        from rankfleet.engine.native.library import library

        progress("preparing the CPU kernels; the first time takes about 15 seconds")
        library()


def stop() -> None:
    """Stop the fleet that `start` started: all processes of its cluster end within seconds.

    Leaves out `serve.shutdown()`, which drains HAProxy for half a minute. That is of use to a cluster that keeps
    running, but not to one that ends with its terminal.
    """
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
        unregister_fleet()
