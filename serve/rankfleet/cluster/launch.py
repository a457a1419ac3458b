"""Starts a fleet on this computer: Ray, Ray Serve, the deployments; and stops it again.

Ray reads its settings from the environment when it is first imported, so nothing here imports it before they are set.
What does not depend on each other runs at the same time, in threads: most of it waits for other processes.
"""

import logging
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

from rankfleet.cluster.deploy import POLL_S, deploy, wait_until_ready
from rankfleet.cluster.environment import check_port, prepare_environment, token_path
from rankfleet.cluster.failures import as_launch_error
from rankfleet.cluster.named_files import check_named_files
from rankfleet.cluster.ray_private import controller_client
from rankfleet.cluster.running_fleets import RunningFleet, one_start_at_a_time, register_fleet, unregister_fleet
from rankfleet.cluster.steps import Steps
from rankfleet.core.config import FleetConfig
from rankfleet.core.cpus import usable_cpus
from rankfleet.core.model_ids import SHIPPED_MODELS


def start(config: FleetConfig, host: str, port: int, progress: Callable[[str], None]) -> RunningFleet:
    """Start a fleet and return when it answers.

    `progress`: called with what is waited for, as in `Steps`, whenever that changes.

    Raises CheckpointError, ConfigError, UnsafeKernels and LaunchError; for what is wrong with the port or the fleet
    file, before any replica is started.
    """
    check_port(host, port)
    check_named_files(config)
    steps = Steps(progress)
    on_disk = all(is_on_disk(tier.model) for tier in config.tiers.values())
    if not on_disk:  # with the proxies that the environment names, and before other fleets have to wait
        check(config, steps)
    with as_launch_error("the fleet"), one_start_at_a_time(progress):
        check_port(host, port)
        prepare_environment()
        import ray

        with ThreadPoolExecutor(1) as pool:
            checked = pool.submit(check, config, steps) if on_disk else None
            pool.submit(import_module, "ray.serve.schema")  # while Ray's processes start
            with as_launch_error("Ray"), steps.of("ray"):
                # "local" starts a cluster of its own, whatever RAY_ADDRESS says and whatever else runs here.
                ray.init(
                    address="local",
                    num_cpus=usable_cpus(),
                    include_dashboard=False,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    namespace="serve",
                )
            if checked:
                checked.result()
        with as_launch_error("Ray Serve"), steps.of("serve"):
            start_serve(config, host, port)
    with as_launch_error("the fleet"):
        address, metrics = f"http://{host}:{port}", f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics"
        wait_until_ready(address, progress)
        cluster = ray.get_runtime_context().gcs_address
        fleet = RunningFleet(address, port, metrics, cluster, token_path(os.environ))
        register_fleet(fleet)
        return fleet


def start_serve(config: FleetConfig, host: str, port: int) -> None:
    """Start Ray Serve and hand it a fleet as soon as its controller is there. Returns when its proxies are there too,
    which takes seconds more, in which replicas already start."""
    from ray import serve
    from ray.serve.config import HTTPOptions
    from ray.serve.schema import LoggingConfig

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    given_up = threading.Event()

    def deploy_when_up() -> None:
        while controller_client() is None:
            if given_up.wait(POLL_S):
                return
        deploy(config)

    with ThreadPoolExecutor(1) as pool:
        deployed = pool.submit(deploy_when_up)
        try:
            serve.start(
                http_options=HTTPOptions(host=host, port=port), logging_config=LoggingConfig(enable_access_log=False)
            )
        except BaseException:
            given_up.set()
            raise
        deployed.result()


def is_on_disk(model: str) -> bool:
    """Whether a tier's `model` is shipped or a folder, and not on the hub."""
    return (SHIPPED_MODELS / model).is_dir() or Path(model).expanduser().is_dir()


def check(config: FleetConfig, steps: Steps) -> None:
    """Raises what is wrong with a fleet file, its files and the compiled kernels. Imports PyTorch, so that it takes
    seconds."""
    with steps.of("models", "checking"):
        from rankfleet.cluster.memory_fit import check_memory
        from rankfleet.cluster.preflight import check_files, check_fits
        from rankfleet.engine.native.library import kernel_files

        check_fits(config)
        check_files(config, lambda text: steps.say("models", text))
        if any(group.gpus == 0 for group in config.groups.values()):
            kernel_files()
        check_memory(config)


def stop() -> None:
    """Stop the fleet that `start` started: all processes of its cluster end within seconds.

    Leaves out `serve.shutdown()`, which drains HAProxy for half a minute. That is of use to a cluster that keeps
    running, but not to one that ends with its terminal.
    """
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
        unregister_fleet()
