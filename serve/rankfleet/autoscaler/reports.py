"""The reports that replicas and routers send to the autoscaling policy, as the plain numbers that Serve carries.

A replica reports its load counters and its backlog. A router reports, for each group, the load offered to it and the
drain time that follows from the SLO classes; and the settings, which reach the policy in this way without a restart.

Each source numbers its reports. By the number the policy knows the last one, and by its own clock how long ago that
came. It never compares the clocks of two machines.

A report may be missing, stale or wrong in any way. What cannot be understood is left out.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from rankfleet.autoscaler.policy import Observation
from rankfleet.autoscaler.settings import settings_report
from rankfleet.autoscaler.sharing import Resources
from rankfleet.core.autoscaling import Autoscaling
from rankfleet.estimates.load import LoadCounters, OfferedLoad, ReplicaLoad

STALE_S = 5.0  # an older report says nothing about now; reports come twice a second
LARGEST = 1e12  # of any number in a report; sums of work would reach this after 30,000 years
NUMBER, BACKLOG = "report", "backlog_s"
# Names in a router's report, each followed by a colon and the group's name.
OFFERED, OFFERED_SQUARES, DRAIN = "offered_load_s", "offered_load_squares", "drain_s"
EJECTED = "ejected"  # as these
REFUSED = "refused"  # followed by a colon and the code of the error
REPLICA_COUNTERS = frozenset(name for name in LoadCounters._fields if name not in (OFFERED, OFFERED_SQUARES))


def replica_report(number: int, load: ReplicaLoad) -> dict[str, float]:
    """What a replica reports. number: higher than that of its last report."""
    counters = load.counters._asdict()
    return {NUMBER: number, BACKLOG: load.backlog_s} | {name: counters[name] for name in REPLICA_COUNTERS}


def router_report(
    number: int,
    offered: OfferedLoad,
    drain_times_s: Mapping[str, float],
    settings: Autoscaling,
    replicas: Mapping[str, Resources],
    ejected: Mapping[str, int] = MappingProxyType({}),
    refused: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, float]:
    """What a router reports.

    number: higher than that of its last report
    drain_times_s: by group, where an SLO class applies
    replicas: the resources of one replica of each group
    ejected: replicas of each group that are ejected now
    refused: requests that the fleet could not serve since the router started, by code
    """
    report = {NUMBER: number} | settings_report(settings, replicas)
    for group, counters in offered.counters.items():
        report[f"{OFFERED}:{group}"] = counters.offered_load_s
        report[f"{OFFERED_SQUARES}:{group}"] = counters.offered_load_squares
    for kind, numbers in ((DRAIN, drain_times_s), (EJECTED, ejected), (REFUSED, refused)):
        report |= {f"{kind}:{name}": number for name, number in numbers.items()}
    return report


def last_values(series: Any) -> dict[str, dict[str, float]]:
    """{source: {metric: value}} of each source's report with the highest number.

    series: Serve's {metric: {source: [point, …]}}. All points of one report have the same time stamp, and stamps are
    compared for nothing else: if a source's clock is set back, its last point is not its newest.
    """
    numbers = series.get(NUMBER) if isinstance(series, Mapping) else None
    found: dict[str, dict[str, float]] = {}
    for source, points in numbers.items() if isinstance(numbers, Mapping) else ():
        try:
            stamp = max(points, key=lambda point: point.value).timestamp
        except (TypeError, ValueError, AttributeError):
            continue
        report = {
            metric: value_at(stamp, sources.get(source))
            for metric, sources in series.items()
            if isinstance(sources, Mapping)
        }
        if 0 <= report[NUMBER] <= LARGEST:
            found[str(source)] = {metric: value for metric, value in report.items() if 0 <= value <= LARGEST}
    return found


def value_at(stamp: float, points: Any) -> float:
    """The value of the point with this time stamp; NaN if there is none that makes sense."""
    try:
        return next((float(point.value) for point in reversed(points) if point.timestamp == stamp), math.nan)
    except (TypeError, ValueError, AttributeError, OverflowError):
        return math.nan


@dataclass(frozen=True)
class Report:
    """The last report of one source. values: by metric; is_fresh: whether it came within STALE_S."""

    values: Mapping[str, float]
    is_fresh: bool


@dataclass
class LastReports:
    """The last report of each source of one deployment, and when it came."""

    _came: dict[str, tuple[float, float]] = field(default_factory=dict)  # source → number of its last report, time

    def read(self, series: Any, now_s: float) -> dict[str, Report]:
        """The reports in Serve's metrics of the deployment, by source. Sources that are not in it are forgotten.

        A report has come when its number is first read. After a restart a source may count from the beginning, so any
        other number is a new report. now_s: by a steady clock of the reader's own.
        """
        found = last_values(series)
        before, self._came = self._came, {}
        for source, values in found.items():
            number, came_s = before.get(source, (math.nan, now_s))
            self._came[source] = values[NUMBER], came_s if number == values[NUMBER] else now_s
        return {source: Report(values, now_s - self._came[source][1] <= STALE_S) for source, values in found.items()}


def observation(
    group: str,
    replicas: Mapping[str, Report],
    routers: Mapping[str, Report],
    running: int,
    target: int,
    min_replicas: int,
    max_replicas: int,
) -> Observation:
    """A group by the reports of its replicas and of the routers.

    running, target, min_replicas, max_replicas: as Serve says

    Where routers differ in the drain time, because some have a newer fleet file, the shortest counts.
    """
    offered, squares, drain = (f"{name}:{group}" for name in (OFFERED, OFFERED_SQUARES, DRAIN))
    # A source whose counter is missing once is left out: taken for 0, its return would look like a burst.
    sources = {
        f"router {name}": LoadCounters(report.values[offered], report.values[squares])
        for name, report in routers.items()
        if {offered, squares} <= report.values.keys()
    } | {
        f"replica {name}": LoadCounters(**{metric: report.values[metric] for metric in REPLICA_COUNTERS})
        for name, report in replicas.items()
        if report.values.keys() >= REPLICA_COUNTERS
    }
    backlogs_s = [
        report.values[BACKLOG] for report in replicas.values() if report.is_fresh and BACKLOG in report.values
    ]
    drain_s = min((report.values[drain] for report in routers.values() if drain in report.values), default=None)
    complete = any(report.is_fresh for report in routers.values()) and (bool(backlogs_s) or running <= 0)
    return Observation(running, target, min_replicas, max_replicas, sources, sum(backlogs_s), drain_s or None, complete)
