"""Builds the Ray Serve application of a fleet. Serve imports it as `rankfleet.cluster.build:build`."""

from typing import Any

from ray import serve
from ray.serve import Application

from rankfleet.cluster.deployment_options import ROUTER
from rankfleet.cluster.group_deployment import ReplicaGroup
from rankfleet.cluster.router_deployment import Router


def build(args: dict[str, Any]) -> Application:
    """The application of a fleet. `args`: names of the `groups` with replicas of their own, and of those `in_router`.
    Serve's config gives each deployment its options (`cluster/serve_config.py`)."""
    groups = {name: serve.deployment(name=name)(ReplicaGroup).bind(name) for name in args["groups"]}
    return serve.deployment(name=ROUTER)(Router).bind(dict.fromkeys(args["in_router"], ReplicaGroup), **groups)
