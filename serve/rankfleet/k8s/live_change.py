"""A live change of a fleet on Kubernetes: the patch of its RayService that KubeRay hands to the running cluster."""

import json
from collections.abc import Callable
from typing import Any

import yaml

from rankfleet.cluster.deployment_options import ROUTER
from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import ConfigError
from rankfleet.core.fleet_file import parse_config
from rankfleet.k8s.yaml_text import to_yaml


def live_patch(text: str, change: Callable[[FleetConfig], FleetConfig]) -> dict[str, Any]:
    """The merge patch that makes a change to the live settings of a RayService.

    text: the RayService as JSON, as `kubectl get -o json` prints it. Only the router's `user_config` is changed, since
    nobody else reads live settings, so that KubeRay starts no second cluster. Raises ConfigError where it is none of
    Rankfleet's, and what `change` raises.
    """
    try:
        config = yaml.safe_load(json.loads(text)["spec"]["serveConfigV2"])
        (application,) = config["applications"]
        (router,) = (each for each in application["deployments"] if each["name"] == ROUTER)
        fleet = router["user_config"]
    except (ValueError, LookupError, TypeError, yaml.YAMLError) as error:
        raise ConfigError(
            "this is no RayService of a fleet; give what `kubectl get rayservice NAME -o json` prints"
        ) from error
    router["user_config"] = change(parse_config(fleet, "the RayService")).model_dump(mode="json")
    return {"spec": {"serveConfigV2": to_yaml(config)}}
