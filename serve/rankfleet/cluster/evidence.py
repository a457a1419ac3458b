"""What a router keeps and counts of its requests: for experiments, and for whoever reads its events."""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial

from rankfleet.cluster.event_files import EventFiles
from rankfleet.cluster.experiment_monitor import ExperimentReporter, MonitorActor
from rankfleet.cluster.ray_private import ClusterStore
from rankfleet.cluster.telemetry import RouterTelemetry
from rankfleet.core.config import FleetConfig
from rankfleet.core.events import Feedback, RequestEvent, ShadowEvent
from rankfleet.core.experiment_state import ExperimentState
from rankfleet.router.shadow import OnShadow


class Evidence:
    """The evidence of one router."""

    def __init__(self, router: str, telemetry: RouterTelemetry) -> None:
        """router: its name."""
        self._telemetry = telemetry
        self._files = EventFiles(router, telemetry.dropped)
        self._reporter = ExperimentReporter(router, telemetry, MonitorActor().ask, ClusterStore())

    @property
    def states(self) -> Mapping[str, ExperimentState]:
        """As in `Splits`."""
        return self._reporter.states

    async def prepare(self, fleet: FleetConfig) -> None:
        """Learn which arms have been stopped, before this version of the fleet is served."""
        await self._reporter.prepare(fleet.experiments)

    def follow(self, fleet: FleetConfig) -> None:
        """This version of the fleet is served from now on."""
        self._reporter.follow(fleet.experiments)
        self._files.adjust(fleet.events)
        if fleet.events.folder is not None:
            self._files.start()

    async def run(self) -> None:
        """Tell the monitor of experiments what is counted, again and again."""
        await self._reporter.run()

    async def stop(self) -> None:
        """Write what is left."""
        await asyncio.to_thread(self._files.stop)

    def on_event(self, fleet: FleetConfig) -> Callable[[RequestEvent], None] | None:
        """Who wants to know what became of requests; None if nobody does."""
        listeners: list[Callable[[RequestEvent], object]] = []
        listeners += [self._reporter.counts.listener(fleet.experiments)] if fleet.experiments else []
        listeners += [self._files.write] if fleet.events.folder is not None else []

        def tell(event: RequestEvent) -> None:
            for listener in listeners:
                listener(event)

        return tell if listeners else None

    def on_shadow(self, fleet: FleetConfig) -> OnShadow:
        """Counts comparisons with shadow arms, and writes them where events are kept."""
        return partial(self._shadow, fleet.events.folder is not None)

    def on_feedback(self, fleet: FleetConfig) -> Callable[[Feedback], bool] | None:
        """Queues feedback, and says whether there was room; None where no events are kept."""
        return self._files.write if fleet.events.folder is not None else None

    def _shadow(self, is_kept: bool, outcome: str, event: ShadowEvent | None) -> None:
        self._telemetry.shadow(outcome)
        if is_kept and event is not None:
            self._files.write(event)
