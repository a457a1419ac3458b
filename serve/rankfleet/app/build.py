"""From a fleet config to a Ray Serve application: `rankfleet.app.build:build` is the import path."""

from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application

from rankfleet.app.group import ReplicaGroup
from rankfleet.app.router import Router
from rankfleet.core.config import parse_config, read_config
from rankfleet.core.deployments import ROUTER, group_options, router_options


def build(args: dict[str, Any]) -> Application:
    """args: {"config": the fleet as a mapping, or the path of its file}. Raises ConfigError.

    Live settings in the mapping are only a start: the router's `user_config` replaces them.
    """
    given = args.get("config")
    config = read_config(Path(given)) if isinstance(given, str) else parse_config(given)
    fixed = config.fixed
    groups = {
        name: serve.deployment(name=name, **group_options(config, name))(ReplicaGroup).bind(name, fixed)
        for name in config.groups
    }
    router = serve.deployment(name=ROUTER, **router_options(config))(Router)
    return router.bind(fixed, **groups)
