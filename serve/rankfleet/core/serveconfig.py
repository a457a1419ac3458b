"""A fleet as Ray Serve's own config: what `rankfleet serve` deploys here is what KubeRay deploys there.

Serve compares configs by their parts. The fixed part of the fleet goes into `args`, where a change rolls the
replicas; the live settings go into the router's `user_config`, where a change restarts nothing.
"""

from typing import Any

from rankfleet.core.config import FleetConfig
from rankfleet.core.deployments import ROUTER, policy

APP_NAME = "rankfleet"
IMPORT_PATH = "rankfleet.app.build:build"


def application(config: FleetConfig) -> dict[str, Any]:
    """One entry of `applications`."""
    scaling = policy(config)
    return {
        "name": APP_NAME,
        "route_prefix": "/",
        "import_path": IMPORT_PATH,
        "args": {"config": config.fixed},
        "logging_config": {"enable_access_log": False},
        **({} if scaling is None else {"autoscaling_policy": scaling}),
        "deployments": [{"name": ROUTER, "user_config": config.live.model_dump(mode="json")}],
    }


def serve_config(config: FleetConfig, host: str = "0.0.0.0", port: int = 8000) -> dict[str, Any]:
    """The whole config (`serveConfigV2` of a RayService). host: the address each node's proxy listens on."""
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": host, "port": port},
        "logging_config": {"enable_access_log": False},
        "applications": [application(config)],
    }
