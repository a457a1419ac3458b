"""A fleet as Ray Serve's own config: what `rankfleet serve` deploys here is what KubeRay deploys there.

Serve compares configs by their parts. What replicas are built from goes into `args`, where a change rolls all of
them; live settings go into the router's `user_config`, where a change restarts nothing; numbers of replicas and what
each reserves are options of one deployment, where the former restart nothing and the latter roll that deployment.
"""

from typing import Any

from rankfleet.core.config import FleetConfig
from rankfleet.core.deployments import group_options, router_options

APP_NAME = "rankfleet"
ROUTER = "router"
IMPORT_PATH = "rankfleet.app.build:build"


def application(config: FleetConfig) -> dict[str, Any]:
    """One entry of `applications`."""
    return {
        "name": APP_NAME,
        "route_prefix": "/",
        "import_path": IMPORT_PATH,
        "args": {"config": config.fixed},
        "logging_config": {"enable_access_log": False},
        "deployments": [{"name": ROUTER} | router_options(config)]
        + [{"name": name} | group_options(config, name) for name in config.groups],
    }


def serve_config(config: FleetConfig, host: str = "0.0.0.0", port: int = 8000) -> dict[str, Any]:
    """The whole config (`serveConfigV2` of a RayService). host: the address each node's proxy listens on."""
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": host, "port": port},
        "logging_config": {"enable_access_log": False},
        "applications": [application(config)],
    }
