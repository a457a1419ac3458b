"""From a fleet config to a Ray Serve application: `rankfleet.cluster.build:build` is the import path."""

from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application

from rankfleet.cluster.deployment_options import ROUTER, group_options, router_options
from rankfleet.cluster.group_deployment import ReplicaGroup
from rankfleet.cluster.router_deployment import Router
from rankfleet.core.config import parse_config, read_config


def build(args: dict[str, Any]) -> Application:
    """args: {"groups": names}, where a config file of Serve's gives each deployment its options
    (`cluster/serve_config.py`); or {"config": the fleet as a mapping, or the path of its file}. Raises ConfigError."""
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
