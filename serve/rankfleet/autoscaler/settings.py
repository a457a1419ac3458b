"""The autoscaling settings on their way from the fleet file to the policy, as numbers in the routers' reports.

Serve's own options cannot carry them: a change of a policy's arguments would restart all replicas.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from rankfleet.autoscaler.sharing import Resources
from rankfleet.core.autoscaling import Autoscaling

# Names in a report, each followed by a colon and the setting's or the group's name.
SETTING, GPUS, CPUS = "set", "gpus", "cpus"


def settings_report(settings: Autoscaling, replicas: Mapping[str, Resources]) -> dict[str, float]:
    """What a router reports of its fleet file. replicas: the resources of one replica of each group."""
    report = {f"{SETTING}:{name}": value for name, value in flattened(settings.model_dump(mode="json"))}
    for group, replica in replicas.items():
        report[f"{GPUS}:{group}"], report[f"{CPUS}:{group}"] = replica.gpus, replica.cpus
    return report


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


@dataclass
class NewestSettings:
    """Which settings are the newest while routers turn to another fleet file one after the other.

    They are those to which a router was last seen to turn. A router that starts has turned to nothing, so what it
    reports counts only if no router reports the newest settings any more. All routers end with the same fleet file, so
    the last turn is to its settings, in whatever order they get there.

    memory_s: how long a router is remembered that does not report. Serve leaves a router out while it hands it a file.
    """

    memory_s: float
    _newest: Mapping[str, float] = field(default_factory=dict)
    _seen: dict[str, tuple[Mapping[str, float], float]] = field(default_factory=dict)  # router → settings, time

    def read(self, reports: Mapping[str, Mapping[str, float]], now_s: float) -> Mapping[str, float]:
        """What the newest fleet file says, in the form of `settings_report`; the same as before if no router reports.

        reports: by router, without those that are stale
        now_s: by a steady clock
        """
        self._seen = {name: seen for name, seen in self._seen.items() if now_s - seen[1] <= self.memory_s}
        reported = []
        for name, report in reports.items():
            settings = {key: value for key, value in report.items() if key.partition(":")[0] in (SETTING, GPUS, CPUS)}
            reported.append(settings)
            if self._seen.get(name, (settings, now_s))[0] != settings:
                self._newest = settings
            self._seen[name] = settings, now_s
        if reported and self._newest not in reported:
            self._newest = reported[0]
        return self._newest
