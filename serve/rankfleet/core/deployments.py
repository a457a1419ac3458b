"""Options of each Ray Serve deployment as plain data: `app.build` gives them to Serve, `manifests` writes them down.

Keys and units are those of Serve's `DeploymentSchema`.
"""

from typing import Any

from rankfleet.core.config import FleetConfig, Group

ROUTER = "router"
# Admission is the router's business, by predicted time. These are backstops far above what it lets through.
MAX_ONGOING = {"router": 1000, "group": 4000}
POLICY = "rankfleet.app.autoscaling:FleetPolicy"
# The policy has its own windows and delays, which change live; Serve is to add none. Reports are kept for a moment
# only, since they are sums that grow: the last one says it all.
PROMPT = {
    "look_back_period_s": 2.0,
    "metrics_interval_s": 0.25,
    "upscale_delay_s": 0.0,
    "downscale_delay_s": 0.0,
}


def router_options(config: FleetConfig) -> dict[str, Any]:
    options: dict[str, Any] = {
        "max_ongoing_requests": MAX_ONGOING["router"],
        "ray_actor_options": {"num_cpus": config.router_cpus},
        "user_config": config.live.model_dump(mode="json"),
    }
    if not autoscaled(config):
        return options | {"num_replicas": config.routers}
    # Serve passes on the reports of autoscaled deployments only; these bounds leave no choice.
    return options | {"autoscaling_config": bounds(config.routers, config.routers)}


def group_options(config: FleetConfig, name: str) -> dict[str, Any]:
    """A fixed number of replicas where `replicas` leaves no choice, else autoscaling."""
    group = config.groups[name]
    actor: dict[str, Any] = {"num_cpus": group.cpus, "num_gpus": group.gpus}
    if group.resources:
        actor["resources"] = group.resources
    options: dict[str, Any] = {"max_ongoing_requests": MAX_ONGOING["group"], "ray_actor_options": actor}
    if group.replicas.min == group.replicas.max:
        return options | {"num_replicas": group.replicas.max}
    return options | {"autoscaling_config": bounds(group.replicas.min, group.replicas.max)}


def bounds(least: int, most: int) -> dict[str, Any]:
    return {"min_replicas": least, "max_replicas": most, "initial_replicas": max(1, least)} | PROMPT


def autoscaled(config: FleetConfig) -> dict[str, Group]:
    """The groups whose number of replicas is open."""
    return {name: group for name, group in config.groups.items() if group.replicas.min < group.replicas.max}


def policy(config: FleetConfig) -> dict[str, Any] | None:
    """Of the application, for all groups together; None where nothing is open. What is named here cannot change
    without new replicas, so no setting is."""
    units = {name: {"gpus": group.gpus, "cpus": group.cpus} for name, group in autoscaled(config).items()}
    if not units:
        return None
    return {"policy_function": POLICY, "policy_kwargs": {"router": ROUTER, "groups": units}}
