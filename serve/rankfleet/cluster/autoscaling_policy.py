"""The application's autoscaling policy as Ray Serve calls it. It reads the reports, lets `autoscaler` decide, and never
raises.

Serve calls it in its controller, about nine times a second, for all deployments at once. An exception here would stop
the autoscaling of every application on the cluster.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ray.serve.config import AutoscalingContext

from rankfleet.autoscaler.board import BoardKeeper, troubles_in
from rankfleet.autoscaler.policy import FleetScaler
from rankfleet.autoscaler.reports import STALE_S, LastReports, observation
from rankfleet.autoscaler.settings import NewestSettings, resources_in, settings_in
from rankfleet.cluster.fleet_board import BoardWriter
from rankfleet.core.autoscaling import Autoscaling

if TYPE_CHECKING:
    from ray.serve._private.common import DeploymentID

log = logging.getLogger("ray.serve")


class FleetPolicy:
    """Decides the number of replicas of all groups together.

    Serve then applies the bounds of each group, and no delay or factor of its own (`cluster/deployment_options.py`).
    """

    def __init__(
        self, router: str, clock: Callable[[], float] = time.monotonic, writer: BoardWriter | None = None
    ) -> None:
        """`router`: name of the deployment that reports settings and offered load. All others are groups.
        `clock`: seconds, never set back as the wall clock may be, which Serve passes as `current_time`.
        `writer`: of what is told to people."""
        self._router = router
        self._clock = clock
        self._reports: dict[str, LastReports] = defaultdict(LastReports)
        self._newest = NewestSettings(STALE_S)
        self._scaler = FleetScaler()
        self._settings: Autoscaling | None = None
        self._keeper = BoardKeeper()
        self._writer = writer or BoardWriter()

    def __call__(
        self, contexts: "dict[DeploymentID, AutoscalingContext]"
    ) -> "tuple[dict[DeploymentID, int], dict[DeploymentID, dict[str, Any]]]":
        """Target number of replicas, and the state and reason of each decision for people to read. A deployment that
        is left out keeps its target."""
        try:
            return self._decide(contexts)
        except Exception:
            log.exception("autoscaling failed; all groups keep their number of replicas")
            return {}, {}

    def _decide(
        self, contexts: "dict[DeploymentID, AutoscalingContext]"
    ) -> "tuple[dict[DeploymentID, int], dict[DeploymentID, dict[str, Any]]]":
        by_name = {context.deployment_name: key for key, context in contexts.items()}
        groups = {name: contexts[key] for name, key in by_name.items() if name != self._router}
        now_s = self._clock()
        series = contexts[by_name[self._router]].raw_metrics if self._router in by_name else None
        routers = self._reports[self._router].read(series, now_s)
        fresh = {name: report.values for name, report in routers.items() if report.is_fresh}
        newest = self._newest.read(fresh, now_s)
        settings = settings_in(newest) or self._settings
        if settings is None:  # no router has reported since the controller started
            return {}, {}
        if self._settings is not None and settings != self._settings:
            log.info("autoscaling: new settings %s", settings.model_dump(exclude_defaults=True))
        self._settings = settings
        fleet = {}
        for name, context in groups.items():
            try:
                running, target = int(context.current_num_replicas), int(context.target_num_replicas)
                if context.capacity_adjusted_min_replicas == context.capacity_adjusted_max_replicas:
                    self._keeper.fixed(name, target, running)
                    continue  # nothing to decide, and no share of the common budget
                fleet[name] = observation(
                    name,
                    self._reports[name].read(context.raw_metrics, now_s),
                    routers,
                    running,
                    target,
                    int(context.capacity_adjusted_min_replicas),
                    int(context.capacity_adjusted_max_replicas),
                )
            except Exception:
                log.exception("autoscaling of %s failed; it keeps its number of replicas", name)
        targets: dict[DeploymentID, int] = {}
        states: dict[DeploymentID, dict[str, Any]] = {}
        units = {name: resources_in(newest, name) for name in fleet}
        for name, decision in self._scaler.decide(fleet, units, settings, now_s).items():
            before = fleet[name].target
            if self._keeper.decided(name, decision, before, fleet[name].running, now_s):
                log.info("autoscaling of %s: %d → %d, %s", name, before, decision.replicas, decision.reason)
            targets[by_name[name]] = decision.replicas
            states[by_name[name]] = {"state": decision.state, "reason": decision.reason}
        self._writer.write(lambda: self._keeper.board(groups, troubles_in(routers), now_s), now_s)
        return targets, states
