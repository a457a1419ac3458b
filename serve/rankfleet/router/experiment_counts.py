"""Counts what became of the requests of each experiment in one router, for the monitor of all routers."""

from collections import defaultdict
from collections.abc import Callable, Mapping

import numpy as np

from rankfleet.core.events import RequestEvent
from rankfleet.core.experiment_state import (
    COLUMNS,
    NO_STATE,
    PERIOD_S,
    ArmCounts,
    ExperimentReport,
    ExperimentState,
    Period,
)
from rankfleet.core.experiments import Experiment
from rankfleet.estimates.rollback import BINS, latency_bin
from rankfleet.router.experiments import bucket


class ArmTally:
    """Sums of one arm in one period: rows by bucket, in the order of COLUMNS, and answers by latency."""

    def __init__(self) -> None:
        self.rows: defaultdict[int, list[int]] = defaultdict(lambda: [0] * len(COLUMNS))
        self.latencies = np.zeros(BINS, dtype=np.int64)

    def count(self, event: RequestEvent, slow_ms: float | None) -> None:
        row = self.rows[bucket(event.unit or "0")]
        row[0] += 1
        if event.error is not None:
            row[1] += 1
            return
        if event.met is not None:
            row[2] += 1
            row[3] += not event.met
        if slow_ms is not None:
            row[4] += 1
            row[5] += event.total_ms > slow_ms
        self.latencies[latency_bin(event.total_ms)] += 1

    def counts(self) -> ArmCounts:
        buckets = np.fromiter(self.rows, dtype=np.int64, count=len(self.rows))
        return ArmCounts(buckets, np.array(list(self.rows.values()), dtype=np.int64), self.latencies)


class PeriodTally:
    """Sums of one experiment in the newest period that a request has arrived in."""

    def __init__(self) -> None:
        self.period = Period(0, 0)
        self.arms: defaultdict[str, ArmTally] = defaultdict(ArmTally)

    def count(self, event: RequestEvent, slow_ms: float | None) -> None:
        """Count a request, unless it has arrived in an earlier period."""
        period = Period(int(event.at_s // PERIOD_S), event.step)
        if period > self.period:
            self.period = period
            self.arms.clear()
        if period == self.period and event.arm is not None:
            self.arms[event.arm].count(event, slow_ms)


class ExperimentCounts:
    """The counts of all experiments that a router serves, by `Experiment.identity`."""

    def __init__(self, states: Mapping[str, ExperimentState]) -> None:
        """states: by `Experiment.identity`; what it says at the time counts."""
        self._states = states
        self._experiments: dict[str, tuple[str, Experiment]] = {}
        self._tallies: dict[str, PeriodTally] = {}

    def follow(self, experiments: Mapping[str, Experiment]) -> None:
        """Report these experiments from now on. Their counts so far are kept, those of others are dropped."""
        self._experiments = {each.identity(name): (name, each) for name, each in experiments.items()}
        self._tallies = {identity: self._tallies.get(identity, PeriodTally()) for identity in self._experiments}

    def listener(self, experiments: Mapping[str, Experiment]) -> Callable[[RequestEvent], None]:
        """What counts the events of a service with these experiments. Those that are not followed are not counted."""
        identities = {name: each.identity(name) for name, each in experiments.items()}

        def count(event: RequestEvent) -> None:
            identity = identities.get(event.experiment or "", "")
            if (tally := self._tallies.get(identity)) is not None:
                tally.count(event, self._states.get(identity, NO_STATE).slow_ms)

        return count

    def reports(self) -> dict[str, ExperimentReport]:
        """The counts of the experiments that are followed."""
        return {
            identity: ExperimentReport(
                name,
                experiment.control_arm,
                experiment.rollback,
                len(experiment.arms) - 1,
                (tally := self._tallies[identity]).period,
                {arm: each.counts() for arm, each in tally.arms.items()},
            )
            for identity, (name, experiment) in self._experiments.items()
        }
