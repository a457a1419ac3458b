"""Options of each Ray Serve deployment as plain data: `app.build` gives them to Serve, `manifests` writes them down.

Keys and units are those of Serve's `DeploymentSchema`.
"""

from typing import Any

from rankfleet.core.config import FleetConfig, Group

# Admission is the router's business, by predicted time. These are backstops far above what it lets through.
MAX_ONGOING = {"router": 1000, "group": 4000}
PLACEMENT = "rankfleet.app.placement:LeastWork"
POLICY = "rankfleet.app.autoscaling:BacklogPolicy"
# A replica that fails three checks in a row is replaced; one that does not answer counts as failing.
HEALTH = {"health_check_period_s": 5.0, "health_check_timeout_s": 15.0}
DRAIN_CHECK_S = 0.5  # how often a replica that goes looks whether its work is done


def router_options(config: FleetConfig) -> dict[str, Any]:
    """Replica bounds of the groups go with the live settings: the router waits for those that are kept."""
    return {
        "max_ongoing_requests": MAX_ONGOING["router"],
        "ray_actor_options": {"num_cpus": config.router_cpus},
        "user_config": config.live.model_dump(mode="json") | {"replicas": bounds(config)},
        "num_replicas": config.routers,
    } | updates(config)


def bounds(config: FleetConfig) -> dict[str, dict[str, int]]:
    """`replicas` of each group."""
    return {name: group.replicas.model_dump(mode="json") for name, group in config.groups.items()}


def group_options(config: FleetConfig, name: str) -> dict[str, Any]:
    """Autoscaled even where `replicas` leaves no choice: from a fixed number to a range would roll all replicas."""
    group = config.groups[name]
    actor: dict[str, Any] = {"num_cpus": group.cpus, "num_gpus": group.gpus}
    if group.resources:
        actor["resources"] = group.resources
    return {
        "max_ongoing_requests": MAX_ONGOING["group"],
        "ray_actor_options": actor,
        "request_router_config": {"request_router_class": PLACEMENT},
        "autoscaling_config": autoscaling(config, group),
    } | updates(config)


def updates(config: FleetConfig) -> dict[str, Any]:
    """New replicas first, then the old ones finish their work."""
    return HEALTH | {
        "max_surge_percent": config.updates.surge_percent,
        "graceful_shutdown_timeout_s": config.updates.drain_s,
        "graceful_shutdown_wait_loop_s": DRAIN_CHECK_S,
    }


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
