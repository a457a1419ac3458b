"""Builds the Ray Serve application of a fleet. Serve imports it as `rankfleet.cluster.build:build`."""

from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application

from rankfleet.cluster.deployment_options import ROUTER, group_options, router_options
from rankfleet.cluster.group_deployment import ReplicaGroup
from rankfleet.cluster.router_deployment import Router
from rankfleet.core.config import parse_config, read_config


def build(args: dict[str, Any]) -> Application:
    """The application of a fleet.

    `args` is one of two: {"groups": names} if a Serve config gives each deployment its options
    (`cluster/serve_config.py`), or {"config": the fleet file's content or its path}.
    Raises ConfigError.
    """
    options: dict[str, dict[str, Any]] = {}
    names = args.get("groups")
    if names is None:
        given = args.get("config")
        config = read_config(Path(given)) if isinstance(given, str) else parse_config(given)
        names = list(config.groups)
        options = {name: group_options(config, name) for name in names} | {ROUTER: router_options(config)}
    groups = {name: serve.deployment(name=name, **options.get(name, {}))(ReplicaGroup).bind(name) for name in names}
    router = serve.deployment(name=ROUTER, **options.get(ROUTER, {}))(Router)
    return router.bind(**groups)
