"""A fleet as a Ray Serve config: `rankfleet serve` deploys the same config as KubeRay.

What a change of the fleet file restarts depends on where Serve finds it:

- `args` of the application: the names of the groups, apart for those in the router. A change restarts all replicas.
- `user_config` of a deployment: nearly everything else. A change restarts nothing: replicas load new models beside the
  ones they host, and routers turn to the new file when replicas host its models.
- Options of a deployment: the number of replicas, where a change restarts nothing, and the resources of a replica,
  where a change restarts that deployment.
"""

from typing import Any

from rankfleet.cluster.deployment_options import AUTOSCALING_POLICY, ROUTER, group_options, router_options
from rankfleet.core.config import FleetConfig

APP_NAME = "rankfleet"
IMPORT_PATH = "rankfleet.cluster.build:build"


def serve_config(config: FleetConfig, host: str = "0.0.0.0", port: int = 8000) -> dict[str, Any]:
    """The whole config: `serveConfigV2` of a RayService. `host`, `port`: where each node's proxy listens."""
    application = {
        "name": APP_NAME,
        "route_prefix": "/",
        "import_path": IMPORT_PATH,
        "args": {
            "groups": sorted(config.deployed),
            "in_router": sorted(config.groups.keys() - config.deployed.keys()),
        },
        "logging_config": {"enable_access_log": False},
        "autoscaling_policy": AUTOSCALING_POLICY,
        "deployments": [{"name": ROUTER} | router_options(config)]
        + [{"name": name} | group_options(config, name) for name in config.deployed],
    }
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": host, "port": port},
        "logging_config": {"enable_access_log": False},
        "applications": [application],
    }
