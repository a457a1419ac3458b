"""Options of each Ray Serve deployment as plain data: `app.build` gives them to Serve, `manifests` writes them down.

Keys and units are those of Serve's `DeploymentSchema`.
"""

from typing import Any

from rankfleet.core.config import FleetConfig

ROUTER = "router"
# The router admits by predicted time, memory and number of requests (`api/admission.py`). These limits are far
# above what it admits: a request that Serve holds back gets no answer at all, and neither does a health check.
MAX_ONGOING = {"router": 100_000, "group": 4000}
PLACEMENT = "rankfleet.cluster.request_router:LeastWork"
POLICY = "rankfleet.cluster.autoscaling_policy:FleetPolicy"
# A replica that fails three checks in a row is replaced; one that does not answer counts as failing.
HEALTH = {"health_check_period_s": 5.0, "health_check_timeout_s": 15.0}
HOSTED_S = 0.5  # how often a replica is asked which models it hosts; routers hear of it when that changes
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
    """The whole file goes to routers as `user_config`, where a change of it restarts nothing."""
    return {
        "max_ongoing_requests": MAX_ONGOING["router"],
        "ray_actor_options": {"num_cpus": config.router_cpus},
        "user_config": config.model_dump(mode="json"),
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
        "user_config": config.for_groups,
        "request_router_config": {"request_router_class": PLACEMENT, "request_routing_stats_period_s": HOSTED_S},
        "autoscaling_config": bounds(group.replicas.min, group.replicas.max),
    } | updates(config)


def updates(config: FleetConfig) -> dict[str, Any]:
    """New replicas first, then the old ones finish their work."""
    return HEALTH | {
        "max_surge_percent": config.updates.surge_percent,
        "graceful_shutdown_timeout_s": config.updates.drain_s,
        "graceful_shutdown_wait_loop_s": DRAIN_CHECK_S,
    }


def bounds(min_replicas: int, max_replicas: int) -> dict[str, Any]:
    """Serve takes a deployment that is there back to `initial_replicas` at every change of it, so that only groups that
    may sleep have them: at first one replica, which says how fast it is."""
    return (
        {"min_replicas": min_replicas, "max_replicas": max_replicas}
        | ({"initial_replicas": 1} if min_replicas == 0 else {})
        | PROMPT
    )


def policy() -> dict[str, Any]:
    """Of the application, for all groups together. A setting named here could not change without new replicas."""
    return {"policy_function": POLICY, "policy_kwargs": {"router": ROUTER}}
