"""The reports that replicas and routers send to the autoscaling policy, as the plain numbers that Serve carries.

A replica reports its load counters and its backlog. A router reports, for each group, the load offered to it and the
drain time that follows from the SLO classes; and the settings, which reach the policy in this way without a restart.

A report may be missing, stale or wrong in any way. What cannot be understood is left out.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from rankfleet.autoscaler.policy import Observation
from rankfleet.autoscaler.sharing import Resources
from rankfleet.core.sections import Autoscaling
from rankfleet.estimates.load import LoadCounters, OfferedLoad, ReplicaLoad

STALE_S = 5.0  # an older report says nothing about now; reports come twice a second
LARGEST = 1e12  # of any number in a report; sums of work would reach this after 30,000 years
BACKLOG = "backlog_s"
# Names in a router's report, each followed by a colon and the setting's or the group's name.
SETTING, OFFERED, OFFERED_SQUARES = "set", "offered_load_s", "offered_load_squares"
DRAIN, GPUS, CPUS = "drain_s", "gpus", "cpus"
REPLICA_COUNTERS = frozenset(name for name in LoadCounters._fields if name not in (OFFERED, OFFERED_SQUARES))

Points = Mapping[str, tuple[float, float]]  # metric → time and value of its last point


def replica_report(load: ReplicaLoad) -> dict[str, float]:
    """What a replica reports."""
    counters = load.counters._asdict()
    return {name: counters[name] for name in REPLICA_COUNTERS} | {BACKLOG: load.backlog_s}


def router_report(
    offered: OfferedLoad, drain_times_s: Mapping[str, float], settings: Autoscaling, replicas: Mapping[str, Resources]
) -> dict[str, float]:
    """What a router reports.

    drain_times_s: by group, where an SLO class applies
    replicas: the resources of one replica of each group
    """
    report = {f"{SETTING}:{name}": value for name, value in flattened(settings.model_dump(mode="json"))}
    for group, counters in offered.counters.items():
        report[f"{OFFERED}:{group}"] = counters.offered_load_s
        report[f"{OFFERED_SQUARES}:{group}"] = counters.offered_load_squares
    for group, replica in replicas.items():
        report[f"{GPUS}:{group}"], report[f"{CPUS}:{group}"] = replica.gpus, replica.cpus
    return report | {f"{DRAIN}:{group}": seconds for group, seconds in drain_times_s.items()}


def flattened(settings: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Settings as (name, value), without nulls. Nested names are joined by colons, which no group's name contains."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}:{rest}", inner) for rest, inner in flattened(value))
        elif value is not None:
            yield name, float(value)


def settings_in(report: Mapping[str, float]) -> Autoscaling | None:
    """The settings in a router's report; None if there are none, or none that are valid."""
    nested: dict[str, Any] = {}
    for key, value in report.items():
        kind, _, path = key.partition(":")
        if kind == SETTING:
            *sections, name = path.split(":")
            place = nested
            for section in sections:
                place = place.setdefault(section, {})
                if not isinstance(place, dict):
                    return None
            place[name] = value
    try:
        return Autoscaling.model_validate(nested) if nested else None
    except ValidationError:
        return None


def resources_in(report: Mapping[str, float], group: str) -> Resources:
    """The resources of one replica of a group by a router's report; zero if it does not say."""
    return Resources(report.get(f"{GPUS}:{group}", 0.0), report.get(f"{CPUS}:{group}", 0.0))


def last_points(series: Any) -> dict[str, dict[str, tuple[float, float]]]:
    """{source: {metric: time and value of its last point}} from Serve's {metric: {source: [point, …]}}."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    if not isinstance(series, Mapping):
        return found
    for metric, sources in series.items():
        if not isinstance(metric, str) or not isinstance(sources, Mapping):
            continue
        for source, points in sources.items():
            try:
                last = points[-1]
                time_s, value = float(last.timestamp), float(last.value)
            except (TypeError, ValueError, AttributeError, LookupError, OverflowError):
                continue
            if math.isfinite(time_s) and 0 <= value <= LARGEST:
                found.setdefault(str(source), {})[metric] = time_s, value
    return found


def is_fresh(points: Points, now_s: float) -> bool:
    """Whether any metric of a source has a point that is not stale."""
    return any(now_s - time_s <= STALE_S for time_s, _ in points.values())


@dataclass(frozen=True)
class RouterReports:
    """The reports of all routers.

    newest: the report that came last; the settings are taken from it
    fresh: whether any report is not stale
    """

    by_router: Mapping[str, Mapping[str, float]]
    newest: Mapping[str, float]
    fresh: bool


def router_reports(series: Any, now_s: float) -> RouterReports:
    """The routers' reports in Serve's metrics of their deployment."""
    sources = last_points(series)
    values = {name: {metric: value for metric, (_, value) in points.items()} for name, points in sources.items()}
    newest = max(sources, key=lambda name: max(time_s for time_s, _ in sources[name].values()), default=None)
    return RouterReports(
        values,
        {} if newest is None else values[newest],
        any(is_fresh(points, now_s) for points in sources.values()),
    )


def observation(
    group: str,
    series: Any,
    routers: RouterReports,
    running: int,
    target: int,
    min_replicas: int,
    max_replicas: int,
    now_s: float,
) -> Observation:
    """A group by the reports of its replicas and of the routers.

    series: Serve's metrics of the group's deployment
    running, target, min_replicas, max_replicas: as Serve says
    """
    replicas = last_points(series)
    # A source whose counter is missing once is left out: taken for 0, its return would look like a burst.
    sources = {
        f"router {name}": LoadCounters(report[f"{OFFERED}:{group}"], report[f"{OFFERED_SQUARES}:{group}"])
        for name, report in routers.by_router.items()
        if {f"{OFFERED}:{group}", f"{OFFERED_SQUARES}:{group}"} <= report.keys()
    }
    backlog_s, fresh_replicas = 0.0, 0
    for name, points in replicas.items():
        if points.keys() >= REPLICA_COUNTERS:
            sources[f"replica {name}"] = LoadCounters(**{metric: points[metric][1] for metric in REPLICA_COUNTERS})
        if BACKLOG in points and is_fresh(points, now_s):
            fresh_replicas += 1
            backlog_s += points[BACKLOG][1]
    drain_s = routers.newest.get(f"{DRAIN}:{group}")
    complete = routers.fresh and (fresh_replicas > 0 or running <= 0)
    return Observation(running, target, min_replicas, max_replicas, sources, backlog_s, drain_s or None, complete)
