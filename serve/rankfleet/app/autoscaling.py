"""The autoscaling policy as Ray Serve calls it: reads the replicas' reports, asks `scheduling`, never raises."""

import logging
from typing import Any

from ray.serve.config import AutoscalingContext

from rankfleet.scheduling.autoscaling import decide

log = logging.getLogger("ray.serve")


class BacklogPolicy:
    """Runs in the Serve controller. Serve itself applies delays and bounds to what this returns."""

    def __init__(self, target_backlog_s: float) -> None:
        self._target_backlog_s = target_backlog_s

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """(target replicas, state to keep). On any fault the current target stays: an exception here would
        stop the autoscaling of every application on the cluster."""
        try:
            backlogs_s = [float(b) for b in (context.aggregated_metrics or {}).get("backlog_s", {}).values()]
            if not backlogs_s:  # silence is not calm: replicas too busy to report have work
                return context.target_num_replicas, {}
            decision = decide(
                backlogs_s=backlogs_s,
                current=context.target_num_replicas,
                least=context.capacity_adjusted_min_replicas,
                most=context.capacity_adjusted_max_replicas,
                target_backlog_s=self._target_backlog_s,
            )
        except Exception:
            log.exception(
                "autoscaling of %s: keeping %s replicas", context.deployment_name, context.target_num_replicas
            )
            return context.target_num_replicas, {}
        if decision.replicas != context.target_num_replicas:
            log.info("autoscaling of %s: %s", context.deployment_name, decision.reason)
        return decision.replicas, {"reason": decision.reason}
