"""Options of each Ray Serve deployment as plain data, for `cluster/build.py` and `cluster/serve_config.py`.

Keys and units are those of Serve's `DeploymentSchema`.
"""

from typing import Any

from rankfleet.core.config import FleetConfig

ROUTER = "router"
# The router admits requests by predicted time, memory and number (`api/admission.py`). These limits are far above
# what it admits, because a request that Serve holds back gets no answer at all, and neither does a health check.
MAX_ONGOING_REQUESTS = {"router": 100_000, "group": 4000}
REQUEST_ROUTER = "rankfleet.cluster.request_router:LeastWorkRouter"
# The application's policy, which scales all groups together. It gets no settings here, because a change of
# `policy_kwargs` would restart replicas; it reads them from the router's reports.
AUTOSCALING_POLICY: dict[str, Any] = {
    "policy_function": "rankfleet.cluster.autoscaling_policy:FleetPolicy",
    "policy_kwargs": {"router": ROUTER},
}
# Serve replaces a replica that fails three checks in a row. A check that is not answered in time has failed.
HEALTH_CHECKS = {"health_check_period_s": 5.0, "health_check_timeout_s": 15.0}
ROUTING_STATS_PERIOD_S = 0.5  # how often Serve asks a replica which models it hosts; routers are told of changes
# Serve's RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S, in which HAProxy may still send requests to a router that is
# to end. The time-out of its shutdown counts from the beginning of that.
ROUTER_DRAIN_S = 30.0
SHUTDOWN_POLL_S = 0.5  # how often a replica that is stopping checks whether its work is done
# The policy has windows and delays of its own, which change live, so Serve adds none. It keeps reports for a moment
# only: they are sums that grow, so that the last one contains all before it.
AUTOSCALING_TIMES = {
    "look_back_period_s": 2.0,
    "metrics_interval_s": 0.25,
    "upscale_delay_s": 0.0,
    "downscale_delay_s": 0.0,
}


def router_options(config: FleetConfig) -> dict[str, Any]:
    """Options of the router. It gets the whole file as `user_config`, where a change restarts nothing."""
    return {
        "max_ongoing_requests": MAX_ONGOING_REQUESTS["router"],
        "ray_actor_options": {"num_cpus": config.cpus_per_router},
        "user_config": config.model_dump(mode="json"),
        # Serve passes on the reports of autoscaled deployments only, so the router is one, with a range of one number.
        "autoscaling_config": autoscaling_config(config.routers, config.routers),
    } | update_options(config, ROUTER_DRAIN_S)


def group_options(config: FleetConfig, name: str) -> dict[str, Any]:
    """Options of a group. It is autoscaled even if its range is one number: turning autoscaling on later would restart
    all replicas."""
    group = config.groups[name]
    actor: dict[str, Any] = {"num_cpus": group.cpus, "num_gpus": group.gpus}
    if group.resources:
        actor["resources"] = group.resources
    return {
        "max_ongoing_requests": MAX_ONGOING_REQUESTS["group"],
        "ray_actor_options": actor,
        "user_config": config.for_groups,
        "request_router_config": {
            "request_router_class": REQUEST_ROUTER,
            "request_routing_stats_period_s": ROUTING_STATS_PERIOD_S,
        },
        "autoscaling_config": autoscaling_config(group.replicas.min, group.replicas.max),
    } | update_options(config)


def update_options(config: FleetConfig, drain_s: float = 0.0) -> dict[str, Any]:
    """Health checks, and how a rolling update goes: new replicas start first, then the old ones finish their work.

    drain_s: for which Serve keeps a replica that is to end as it is, before it finishes its work.
    """
    return HEALTH_CHECKS | {
        "max_surge_percent": config.updates.surge_percent,
        "graceful_shutdown_timeout_s": config.updates.graceful_shutdown_timeout_s + drain_s,
        "graceful_shutdown_wait_loop_s": SHUTDOWN_POLL_S,
    }


def autoscaling_config(min_replicas: int, max_replicas: int) -> dict[str, Any]:
    """Serve's autoscaling options of a deployment.

    Serve sets a running deployment back to `initial_replicas` at every change of its options. Only groups that may have
    no replica get it: they start with one, which measures their latency.
    """
    initial = {"initial_replicas": 1} if min_replicas == 0 else {}
    return {"min_replicas": min_replicas, "max_replicas": max_replicas} | initial | AUTOSCALING_TIMES
