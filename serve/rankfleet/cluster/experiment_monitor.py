"""Stops arms that are worse than their control: one detached actor gathers what all routers have counted, and decides.

There is one writer, so that routers agree. Nothing depends on its life: routers send sums from the beginning of a
period, so that a new actor knows within a second what the last one knew, but for routers that are gone; decisions are
in the store of the cluster, where the first one stays; and while no actor answers, routers go on with what they know.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from rankfleet.cluster.ray_private import ClusterStore
from rankfleet.cluster.shared_precision import Store
from rankfleet.core.experiment_state import COLUMNS, NO_STATE, PERIOD_S, ExperimentReport, ExperimentState
from rankfleet.core.experiments import Experiment
from rankfleet.estimates.rollback import latency_p99, worse_arms
from rankfleet.router.experiment_counts import ExperimentCounts
from rankfleet.router.experiments import BUCKETS

ACTOR = "rankfleet_experiments"
REPORT_PERIOD_S = 1.0
REPORT_TIMEOUT_S = 10.0
MAX_ROUTERS = 1000  # whose last counts are kept, those that are gone among them

log = logging.getLogger("ray.serve")


def stopped_arms(store: Store, identity: str) -> dict[str, str]:
    """By arm of an experiment that has been stopped, the reason."""
    prefix = f"experiments/{identity}/stopped/"
    found = {key.removeprefix(prefix): store.get(key) for key in store.keys(prefix)}
    return {arm: reason for arm, reason in found.items() if reason is not None}


class ExperimentMonitor:
    """Decides for all routers."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reports: dict[str, Mapping[str, ExperimentReport]] = {}
        self._slow_ms: dict[str, float] = {}

    def report(self, router: str, reports: Mapping[str, ExperimentReport]) -> dict[str, ExperimentState]:
        """Take what a router has counted, in place of its last report, and return what all routers together have.

        router: its name. reports: by `Experiment.identity`.
        """
        self._reports.pop(router, None)
        self._reports[router] = reports
        if len(self._reports) > MAX_ROUTERS:
            del self._reports[next(iter(self._reports))]
        known = {identity for each in self._reports.values() for identity in each}
        self._slow_ms = {identity: ms for identity, ms in self._slow_ms.items() if identity in known}
        return {identity: self._state(identity, own) for identity, own in reports.items()}

    def _state(self, identity: str, own: ExperimentReport) -> ExperimentState:
        """own: of the router that asks, which has the margins that it serves."""
        every = [reports[identity] for reports in self._reports.values() if identity in reports]
        period = max(report.period for report in every)
        current = [report for report in every if report.period == period]
        arms = {arm: summed(current, arm) for arm in dict.fromkeys(arm for report in current for arm in report.arms)}
        stopped = stopped_arms(self._store, identity)
        if arms and own.rollback is not None:
            first = f"experiments/{identity}/first_hour"
            self._store.put(first, str(period.hour))
            number = period.hour - int(self._store.get(first) or period.hour) + period.step + 1
            running = {arm: counts for arm, counts in arms.items() if arm not in stopped}
            worse = worse_arms(running, own.control, own.rollback, own.others, number)
            for arm, reason in worse.items():
                self._store.put(f"experiments/{identity}/stopped/{arm}", reason)
            if (times := own.rollback.latency_p99) is not None:
                latencies = [report.arms[own.control].latencies for report in current if own.control in report.arms]
                if latencies and (p99_ms := latency_p99(np.sum(latencies, axis=0))) is not None:
                    self._slow_ms[identity] = times * p99_ms
            stopped |= worse
        return ExperimentState(
            stopped,
            self._slow_ms.get(identity),
            float(period.hour * PERIOD_S) if arms else None,
            {arm: tuple(counts.sum(axis=0).tolist()) for arm, counts in arms.items()},
        )


def summed(reports: Iterable[ExperimentReport], arm: str) -> np.ndarray:
    """int64 [buckets with requests, columns]: the counts of an arm in all routers."""
    total = np.zeros((BUCKETS, len(COLUMNS)), dtype=np.int64)
    for report in reports:
        if (counts := report.arms.get(arm)) is not None:
            total[counts.buckets] += counts.counts
    return total[total[:, 0] > 0]


class ArmMetrics(Protocol):
    """Exports which arms are stopped."""

    def arm_stopped(self, experiment: str, arm: str, stopped: bool) -> None: ...


Ask = Callable[[str, Mapping[str, ExperimentReport]], Awaitable[dict[str, ExperimentState]]]


class MonitorActor:
    """The actor, as a router reaches it. The first router that asks starts it."""

    def __init__(self) -> None:
        self._actor: Any = None

    async def ask(self, router: str, reports: Mapping[str, ExperimentReport]) -> dict[str, ExperimentState]:
        """As `ExperimentMonitor.report`. Raises what Ray raises, and TimeoutError; the next call looks for the actor
        again."""
        try:
            async with asyncio.timeout(REPORT_TIMEOUT_S):
                self._actor = self._actor or await asyncio.to_thread(self._find)
                states: dict[str, ExperimentState] = await self._actor.report.remote(router, reports)
        except BaseException:
            self._actor = None
            raise
        return states

    def _find(self) -> Any:
        import ray

        actor = ray.remote(num_cpus=0, max_restarts=-1)(ExperimentMonitor)
        return actor.options(name=ACTOR, lifetime="detached", get_if_exists=True).remote(ClusterStore())


class ExperimentReporter:
    """Sends the counts of one router to the monitor, and knows what it has answered."""

    def __init__(self, router: str, metrics: ArmMetrics, ask: Ask, store: Store) -> None:
        """router: its name. ask: `MonitorActor.ask`. store: where the monitor keeps what it has decided."""
        self.states: dict[str, ExperimentState] = {}
        self.counts = ExperimentCounts(self.states)
        self._router, self._metrics, self._ask, self._store = router, metrics, ask, store
        self._names: dict[str, str] = {}
        self._stopped: set[tuple[str, str]] = set()
        self._fault = ""

    async def prepare(self, experiments: Mapping[str, Experiment]) -> None:
        """Find out which arms have been stopped already, before these experiments are served."""
        for identity in {each.identity(name) for name, each in experiments.items()} - self.states.keys():
            self.states[identity] = ExperimentState(await asyncio.to_thread(stopped_arms, self._store, identity))

    def follow(self, experiments: Mapping[str, Experiment]) -> None:
        """These experiments are served from now on."""
        self._names = {each.identity(name): name for name, each in experiments.items()}
        for identity in self.states.keys() - self._names.keys():
            del self.states[identity]
        self.counts.follow(experiments)
        self._tell()

    async def run(self) -> None:
        """Report again and again."""
        while True:
            await asyncio.sleep(REPORT_PERIOD_S)
            await self.report()

    async def report(self) -> None:
        """Report once. While that fails, what is known stays, and the log says so once."""
        if not (reports := self.counts.reports()):
            return
        try:
            states = await self._ask(self._router, reports)
        except Exception as error:
            if not self._fault:
                log.warning("the monitor of experiments does not answer; arms stay as they are: %r", error)
            self._fault = repr(error)
            return
        self._fault = ""
        self.states.update({identity: state for identity, state in states.items() if identity in self._names})
        self._tell()

    def _tell(self) -> None:
        """Log and export which arms are stopped, where that has changed."""
        stopped = {
            (name, arm): reason
            for identity, name in self._names.items()
            for arm, reason in self.states.get(identity, NO_STATE).stopped.items()
        }
        for name, arm in stopped.keys() - self._stopped:
            log.warning("experiment %s: arm %s is stopped: %s", name, arm, stopped[name, arm])
            self._metrics.arm_stopped(name, arm, True)
        for name, arm in self._stopped - stopped.keys():
            self._metrics.arm_stopped(name, arm, False)
        self._stopped = set(stopped)
