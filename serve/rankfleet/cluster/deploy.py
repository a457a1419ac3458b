"""Hands a fleet to Ray Serve and reads what Serve says of it."""

import logging
import time
from collections.abc import Callable

import httpx

from rankfleet.cluster.failures import LaunchError, explain_failure, start_failures
from rankfleet.cluster.ray_private import controller_client
from rankfleet.cluster.serve_config import APP_NAME, ROUTER, serve_config
from rankfleet.cluster.steps import together
from rankfleet.core.config import FleetConfig
from rankfleet.core.fingerprint import settings_name

POLL_S = 0.1


def deploy(config: FleetConfig, is_update: bool = False) -> None:
    """Hand a fleet to Serve and return at once. Serve compares it with what runs and changes only what differs.

    `is_update`: the fleet runs already, so it keeps its current number of replicas; Serve would go back to
    `initial_replicas`. Raises LaunchError if Serve does not run.
    """
    from ray.serve.schema import ServeDeploySchema

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    client = controller_client()
    if client is None:
        raise LaunchError("Ray Serve does not run on this cluster; start a fleet with `rankfleet serve`")
    whole = serve_config(config)
    if is_update:
        for deployment in whole["applications"][0]["deployments"]:
            deployment["autoscaling_config"].pop("initial_replicas", None)
    client.deploy_apps(ServeDeploySchema.model_validate(whole))


def is_running(progress: Callable[[str], None], config: FleetConfig | None = None) -> bool:
    """Whether all deployments run. Raises LaunchError, with the reason first, if one has failed: at the first try if
    its replica raised one of Rankfleet's errors, and otherwise when Serve has given up trying.

    `config`: the fleet that was deployed last. A replica that still starts for a file before it may fail without harm.
    """
    from ray import serve
    from ray.serve.schema import ApplicationStatus

    application = serve.status().applications.get(APP_NAME)
    if application is None:
        return False
    has_failed = application.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY)
    files = {"", settings_name(config.model_dump(mode="json")), settings_name(config.for_groups)} if config else None
    failures = [each for each in start_failures(application) if files is None or each.file in files]
    if has_failed or any(failure.is_final for failure in failures):
        raise LaunchError(explain_failure(application.message, failures))
    why = {failure.deployment: f"{failure.reason}; trying again" for failure in failures}
    states = {
        "router" if name == ROUTER else f"group {name}": why.get(name, "loading")
        for name, deployment in application.deployments.items()
        if deployment.status.value != "HEALTHY"
    }
    progress(together(states or {"first scores" if application.deployments else "fleet": "waiting"}))
    return application.status == ApplicationStatus.RUNNING


def wait_until_ready(address: str, progress: Callable[[str], None]) -> None:
    """Return when /readyz answers 200. Raises LaunchError if a deployment has failed."""
    with httpx.Client(timeout=2, trust_env=False) as http:
        while True:
            is_running(progress)
            try:
                if http.get(f"{address}/readyz").status_code == 200:
                    return
            except httpx.HTTPError:
                pass  # the ingress is not up yet
            time.sleep(POLL_S)
