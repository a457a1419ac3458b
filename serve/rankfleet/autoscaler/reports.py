"""What replicas and routers tell the autoscaling policy, as the plain numbers that Serve carries.

A replica reports its `LoadCounters` and its backlog; a router, for each group, what was asked of it and the drain time
that follows from the SLO classes, and the settings, which reach the policy in this way without a restart.
Whatever is read here may be wrong in any way: what cannot be understood is left out.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from rankfleet.autoscaler.policy import Observed
from rankfleet.autoscaler.sharing import Unit
from rankfleet.core.sections import Autoscaling
from rankfleet.estimates.load import LoadCounters, OfferedLoad, ReplicaLoad

STALE_S = 5.0  # a report that is older says nothing of now; they come twice a second
SETTING, ASKED, SQUARES, DRAIN, GPUS, CPUS = "set", "offered_load_s", "offered_load_squares", "drain_s", "gpus", "cpus"
OF_REPLICAS = frozenset(name for name in LoadCounters._fields if not name.startswith("offered"))
LARGEST = 1e12  # of any number reported; sums of work reach this after 30,000 years

Points = Mapping[str, tuple[float, float]]  # metric → time and value of its last point


def of_replica(load: ReplicaLoad) -> dict[str, float]:
    counts = load.counters._asdict()
    return {name: counts[name] for name in OF_REPLICAS} | {"backlog_s": load.backlog_s}


def of_router(
    asked: OfferedLoad, drains_s: Mapping[str, float], settings: Autoscaling, units: Mapping[str, Unit]
) -> dict[str, float]:
    """drains_s: by group, where an SLO class applies; units: what a replica of each group takes."""
    report = {f"{SETTING}:{name}": value for name, value in flat(settings.model_dump(mode="json"))}
    for group, counts in asked.counters.items():
        report[f"{ASKED}:{group}"] = counts.offered_load_s
        report[f"{SQUARES}:{group}"] = counts.offered_load_squares
    for group, unit in units.items():
        report[f"{GPUS}:{group}"], report[f"{CPUS}:{group}"] = unit.gpus, unit.cpus
    return report | {f"{DRAIN}:{group}": seconds for group, seconds in drains_s.items()}


def flat(settings: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Names of nested keys joined by colons, which no name of a group has. Without what is null."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}:{rest}", inner) for rest, inner in flat(value))
        elif value is not None:
            yield name, float(value)


def settings_in(report: Mapping[str, float]) -> Autoscaling | None:
    """None where a router's report holds none, or none that are valid."""
    nested: dict[str, Any] = {}
    for key, value in report.items():
        kind, _, path = key.partition(":")
        if kind == SETTING:
            *folders, name = path.split(":")
            place = nested
            for folder in folders:
                place = place.setdefault(folder, {})
                if not isinstance(place, dict):
                    return None
            place[name] = value
    try:
        return Autoscaling.model_validate(nested) if nested else None
    except ValidationError:
        return None


def unit_in(report: Mapping[str, float], group: str) -> Unit:
    """What a replica of a group takes; nothing where a router's report does not say."""
    return Unit(report.get(f"{GPUS}:{group}", 0.0), report.get(f"{CPUS}:{group}", 0.0))


def last_points(series: Any) -> dict[str, dict[str, tuple[float, float]]]:
    """source → metric → time and value of its last point, from Serve's {metric: {source: [point, …]}}."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    if not isinstance(series, Mapping):
        return found
    for metric, sources in series.items():
        if not isinstance(metric, str) or not isinstance(sources, Mapping):
            continue
        for source, points in sources.items():
            try:
                last = points[-1]
                at_s, value = float(last.timestamp), float(last.value)
            except (TypeError, ValueError, AttributeError, LookupError, OverflowError):
                continue
            if math.isfinite(at_s) and 0 <= value <= LARGEST:
                found.setdefault(str(source), {})[metric] = at_s, value
    return found


def is_fresh(points: Points, now_s: float) -> bool:
    return any(now_s - at_s <= STALE_S for at_s, _ in points.values())


@dataclass(frozen=True)
class Routers:
    """What all routers say together. newest: the report of the one that spoke last, which the settings are of."""

    by_name: Mapping[str, Mapping[str, float]]
    newest: Mapping[str, float]
    heard: bool


def routers(series: Any, now_s: float) -> Routers:
    sources = last_points(series)
    values = {name: {metric: value for metric, (_, value) in points.items()} for name, points in sources.items()}
    newest = max(sources, key=lambda name: max(at_s for at_s, _ in sources[name].values()), default=None)
    return Routers(
        values,
        {} if newest is None else values[newest],
        any(is_fresh(points, now_s) for points in sources.values()),
    )


def observed(
    group: str,
    series: Any,
    routers: Routers,
    running: int,
    target: int,
    min_replicas: int,
    max_replicas: int,
    now_s: float,
) -> Observed:
    """A group, from its replicas' series and what the routers say of it."""
    replicas = last_points(series)
    # A sum that is missing for once is left out: were it taken for 0, its return would look like a burst.
    sources = {
        f"router {name}": LoadCounters(report[f"{ASKED}:{group}"], report[f"{SQUARES}:{group}"])
        for name, report in routers.by_name.items()
        if {f"{ASKED}:{group}", f"{SQUARES}:{group}"} <= report.keys()
    }
    backlog_s, fresh = 0.0, 0
    for name, points in replicas.items():
        if points.keys() >= OF_REPLICAS:
            sources[f"replica {name}"] = LoadCounters(**{metric: points[metric][1] for metric in OF_REPLICAS})
        if "backlog_s" in points and is_fresh(points, now_s):
            fresh += 1
            backlog_s += points["backlog_s"][1]
    drain_s = routers.newest.get(f"{DRAIN}:{group}")
    heard = routers.heard and (fresh > 0 or running <= 0)
    return Observed(running, target, min_replicas, max_replicas, sources, backlog_s, drain_s or None, heard)
