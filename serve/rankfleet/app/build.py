"""From a fleet config to a Ray Serve application: `rankfleet.app.build:build` is the import path."""

from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from rankfleet.app.group import ReplicaGroup
from rankfleet.app.router import Router
from rankfleet.core.config import FleetConfig, Group, parse_config, read_config
from rankfleet.core.serveconfig import ROUTER

# Admission is the router's business, by predicted time. These are backstops far above what it lets through.
MAX_ONGOING = {"router": 1000, "group": 4000}


def build(args: dict[str, Any]) -> Application:
    """args: {"config": the fleet as a mapping, or the path of its file}. Raises ConfigError.

    Live settings in the mapping are only a start: the router's `user_config` replaces them.
    """
    given = args.get("config")
    config = read_config(Path(given)) if isinstance(given, str) else parse_config(given)
    fixed = config.fixed
    groups = {
        name: serve.deployment(name=name, **deployment_options(config, name))(ReplicaGroup).bind(name, fixed)
        for name in config.groups
    }
    router = serve.deployment(name=ROUTER, **router_options(config))(Router)
    return router.bind(fixed, **groups)


def router_options(config: FleetConfig) -> dict[str, Any]:
    return {
        "max_ongoing_requests": MAX_ONGOING["router"],
        "ray_actor_options": {"num_cpus": config.router_cpus},
        "user_config": config.live.model_dump(mode="json"),
        "num_replicas": config.routers.min,
    }


def deployment_options(config: FleetConfig, name: str) -> dict[str, Any]:
    group = config.groups[name]
    actor: dict[str, Any] = {"num_cpus": group.cpus, "num_gpus": group.gpus}
    if group.resources:
        actor["resources"] = group.resources
    options: dict[str, Any] = {"max_ongoing_requests": MAX_ONGOING["group"], "ray_actor_options": actor}
    if group.replicas.min == group.replicas.max:
        return options | {"num_replicas": group.replicas.max}
    return options | {"autoscaling_config": autoscaling(config, group)}


def autoscaling(config: FleetConfig, group: Group) -> AutoscalingConfig:
    settings, replicas = config.autoscaling, group.replicas
    return AutoscalingConfig(
        min_replicas=replicas.min,
        max_replicas=replicas.max,
        initial_replicas=max(1, replicas.min),
        look_back_period_s=settings.look_back_s,
        metrics_interval_s=min(0.5, settings.look_back_s),
        upscale_delay_s=settings.upscale_delay_s,
        downscale_delay_s=settings.downscale_delay_s,
        policy=AutoscalingPolicy(
            policy_function="rankfleet.app.autoscaling:BacklogPolicy",
            policy_kwargs={"target_backlog_s": settings.target_backlog_s},
        ),
    )
