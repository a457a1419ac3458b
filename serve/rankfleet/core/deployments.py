"""Options of each Ray Serve deployment as plain data: `app.build` gives them to Serve, `manifests` writes them down.

Keys and units are those of Serve's `DeploymentSchema`.
"""

from typing import Any

from rankfleet.core.config import FleetConfig, Group

# Admission is the router's business, by predicted time. These are backstops far above what it lets through.
MAX_ONGOING = {"router": 1000, "group": 4000}
PLACEMENT = "rankfleet.app.placement:LeastWork"
POLICY = "rankfleet.app.autoscaling:BacklogPolicy"


def router_options(config: FleetConfig) -> dict[str, Any]:
    return {
        "max_ongoing_requests": MAX_ONGOING["router"],
        "ray_actor_options": {"num_cpus": config.router_cpus},
        "user_config": config.live.model_dump(mode="json"),
        "num_replicas": config.routers,
    }


def group_options(config: FleetConfig, name: str) -> dict[str, Any]:
    """A fixed number of replicas where `replicas` leaves no choice, else autoscaling."""
    group = config.groups[name]
    actor: dict[str, Any] = {"num_cpus": group.cpus, "num_gpus": group.gpus}
    if group.resources:
        actor["resources"] = group.resources
    options: dict[str, Any] = {
        "max_ongoing_requests": MAX_ONGOING["group"],
        "ray_actor_options": actor,
        "request_router_config": {"request_router_class": PLACEMENT},
    }
    if group.replicas.min == group.replicas.max:
        return options | {"num_replicas": group.replicas.max}
    return options | {"autoscaling_config": autoscaling(config, group)}


def autoscaling(config: FleetConfig, group: Group) -> dict[str, Any]:
    settings, replicas = config.autoscaling, group.replicas
    return {
        "min_replicas": replicas.min,
        "max_replicas": replicas.max,
        "initial_replicas": max(1, replicas.min),
        "look_back_period_s": settings.look_back_s,
        "metrics_interval_s": min(0.5, settings.look_back_s),
        "upscale_delay_s": settings.upscale_delay_s,
        "downscale_delay_s": settings.downscale_delay_s,
        "policy": {"policy_function": POLICY, "policy_kwargs": {"target_backlog_s": settings.target_backlog_s}},
    }
