"""Options of each Ray Serve deployment as plain data: `app.build` gives them to Serve, `manifests` writes them down.

Keys and units are those of Serve's `DeploymentSchema`.
"""

from typing import Any

from rankfleet.core.config import FleetConfig

ROUTER = "router"
# Admission is the router's business, by predicted time. These are backstops far above what it lets through.
MAX_ONGOING = {"router": 1000, "group": 4000}
PLACEMENT = "rankfleet.app.placement:LeastWork"
POLICY = "rankfleet.app.autoscaling:FleetPolicy"
# A replica that fails three checks in a row is replaced; one that does not answer counts as failing.
HEALTH = {"health_check_period_s": 5.0, "health_check_timeout_s": 15.0}
DRAIN_CHECK_S = 0.5  # how often a replica that goes looks whether its work is done
# The policy has its own windows and delays, which change live; Serve is to add none. Reports are kept for a moment
# only, since they are sums that grow: the last one says it all.
PROMPT = {
    "look_back_period_s": 2.0,
    "metrics_interval_s": 0.25,
    "upscale_delay_s": 0.0,
    "downscale_delay_s": 0.0,
}


def router_options(config: FleetConfig) -> dict[str, Any]:
    """What the replicas of each group are goes with the live settings: the router waits for those that are kept, and
    tells the autoscaling policy what one takes, whose own settings could not change without new replicas."""
    groups = {
        name: {"least": group.replicas.min, "cpus": group.cpus, "gpus": group.gpus}
        for name, group in config.groups.items()
    }
    return {
        "max_ongoing_requests": MAX_ONGOING["router"],
        "ray_actor_options": {"num_cpus": config.router_cpus},
        "user_config": config.live.model_dump(mode="json") | {"groups": groups},
        # Serve passes on the reports of autoscaled deployments only; these bounds leave no choice.
        "autoscaling_config": bounds(config.routers, config.routers),
    } | updates(config)


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
        "autoscaling_config": bounds(group.replicas.min, group.replicas.max),
    } | updates(config)


def updates(config: FleetConfig) -> dict[str, Any]:
    """New replicas first, then the old ones finish their work."""
    return HEALTH | {
        "max_surge_percent": config.updates.surge_percent,
        "graceful_shutdown_timeout_s": config.updates.drain_s,
        "graceful_shutdown_wait_loop_s": DRAIN_CHECK_S,
    }


def bounds(least: int, most: int) -> dict[str, Any]:
    return {"min_replicas": least, "max_replicas": most, "initial_replicas": max(1, least)} | PROMPT


def policy() -> dict[str, Any]:
    """Of the application, for all groups together. A setting named here could not change without new replicas."""
    return {"policy_function": POLICY, "policy_kwargs": {"router": ROUTER}}
