"""The autoscaling policy of the application as Ray Serve calls it: reads the reports, asks `scheduling`, never raises.

Serve runs it in its controller, about nine times a second, for all deployments at once. An exception here would stop
the autoscaling of every application on the cluster.
"""

import logging
import math
from typing import Any

from ray.serve._private.common import DeploymentID
from ray.serve.config import AutoscalingContext

from rankfleet.autoscaler import reports
from rankfleet.autoscaler.policy import FleetScaler
from rankfleet.core.sections import Autoscaling

log = logging.getLogger("ray.serve")
Contexts = dict[DeploymentID, AutoscalingContext]


class FleetPolicy:
    """Serve adds no delays and no factors of its own (`cluster/deployment_options.py`), only the bounds again."""

    def __init__(self, router: str) -> None:
        """router: the deployment that reports settings and demand; all others are groups."""
        self._router = router
        self._scaler = FleetScaler()
        self._settings: Autoscaling | None = None

    def __call__(self, contexts: Contexts) -> tuple[dict[DeploymentID, int], dict[DeploymentID, dict[str, Any]]]:
        """Targets, and for people the reason of each. A deployment that is left out keeps its target."""
        try:
            return self._decide(contexts)
        except Exception:
            log.exception("autoscaling: all groups keep their replicas")
            return {}, {}

    def _decide(self, contexts: Contexts) -> tuple[dict[DeploymentID, int], dict[DeploymentID, dict[str, Any]]]:
        by_name = {context.deployment_name: key for key, context in contexts.items()}
        groups = {name: contexts[key] for name, key in by_name.items() if name != self._router}
        if not groups:
            return {}, {}
        now_s = float(next(iter(groups.values())).current_time or math.nan)
        if not math.isfinite(now_s):
            return {}, {}
        router = contexts[by_name[self._router]].raw_metrics if self._router in by_name else None
        routers = reports.router_reports(router, now_s)
        settings = reports.settings_in(routers.newest) or self._settings
        if settings is None:  # no router has spoken since the controller started
            return {}, {}
        if self._settings is not None and settings != self._settings:
            log.info("autoscaling: new settings %s", settings.model_dump(exclude_defaults=True))
        self._settings = settings
        fleet = {}
        for name, context in groups.items():
            try:
                if context.capacity_adjusted_min_replicas == context.capacity_adjusted_max_replicas:
                    continue  # nothing to decide, and no part of the common budget
                fleet[name] = reports.observation(
                    name,
                    context.raw_metrics,
                    routers,
                    int(context.current_num_replicas),
                    int(context.target_num_replicas),
                    int(context.capacity_adjusted_min_replicas),
                    int(context.capacity_adjusted_max_replicas),
                    now_s,
                )
            except Exception:
                log.exception("autoscaling of %s: keeping its replicas", name)
        targets: dict[DeploymentID, int] = {}
        states: dict[DeploymentID, dict[str, Any]] = {}
        units = {name: reports.resources_in(routers.newest, name) for name in fleet}
        for name, decision in self._scaler.decide(fleet, units, settings, now_s).items():
            if decision.replicas != fleet[name].target:
                log.info("autoscaling of %s: %s", name, decision.reason)
            targets[by_name[name]] = decision.replicas
            states[by_name[name]] = {"state": decision.state, "reason": decision.reason}
        return targets, states
