"""A fleet as Ray Serve's own config: what `rankfleet serve` deploys here is what KubeRay deploys there.

Serve compares configs by their parts. The names of the groups go into `args`, where a change rolls all replicas; all
else goes into each deployment's `user_config`, where a change restarts nothing: replicas load what is new beside what
they host, and routers turn to it when they do. Numbers of replicas and what each reserves are options of one
deployment, where the former restart nothing and the latter roll that deployment.
"""

from typing import Any

from rankfleet.cluster.deployment_options import ROUTER, group_options, policy, router_options
from rankfleet.core.config import FleetConfig

APP_NAME = "rankfleet"
IMPORT_PATH = "rankfleet.cluster.build:build"


def application(config: FleetConfig) -> dict[str, Any]:
    """One entry of `applications`."""
    return {
        "name": APP_NAME,
        "route_prefix": "/",
        "import_path": IMPORT_PATH,
        "args": {"groups": sorted(config.groups)},
        "logging_config": {"enable_access_log": False},
        "autoscaling_policy": policy(),
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
