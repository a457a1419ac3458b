"""Load counters for the autoscaler: seconds of predicted device time, as sums that only grow.

A report that is lost or late loses nothing, because rates are computed where reports are read
(`autoscaler/demand.py`).

Work is measured at the tier of the request's unloaded plan, the one it would get on an idle fleet. Under load late
binding gives requests cheaper tiers, and the work that was actually done would make an overloaded group look calm.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple


class LoadCounters(NamedTuple):
    """Counters of one router or one replica, for one group. All but the squares are in seconds of device time.

    offered_load_s: work of all requests at the router, refused ones too, by their unloaded plans
    arrived_load_s: work of all chunks that reached a replica, by their unloaded plans
    served_load_s: work of all chunks that were scored, by their unloaded plans
    downgraded_load_s: the part of `served_load_s` that a tier of lower quality has scored
    device_load_s: the same chunks as `served_load_s`, at the tiers that scored them
    …_squares: sum of the squares of the single amounts, s²; squares ÷ sum is how far chance moves a rate
    """

    offered_load_s: float = 0.0
    offered_load_squares: float = 0.0
    arrived_load_s: float = 0.0
    arrived_load_squares: float = 0.0
    device_load_s: float = 0.0
    served_load_s: float = 0.0
    downgraded_load_s: float = 0.0


@dataclass(slots=True)
class ReplicaLoad:
    """The load of one replica. Every `arrived` is followed by one `left`.

    backlog_s: work that waits or is being scored, by the unloaded plans
    counters: so far
    """

    backlog_s: float = 0.0
    counters: LoadCounters = field(default_factory=LoadCounters)
    _chunks: int = 0  # that have arrived and not left

    def arrived(self, unloaded_ms: float) -> None:
        """A chunk arrived. unloaded_ms: its device time at the tier of its unloaded plan."""
        seconds, so_far = unloaded_ms / 1e3, self.counters
        self.counters = so_far._replace(
            arrived_load_s=so_far.arrived_load_s + seconds,
            arrived_load_squares=so_far.arrived_load_squares + seconds * seconds,
        )
        self.backlog_s += seconds
        self._chunks += 1

    def left(self, unloaded_ms: float) -> None:
        """A chunk was scored, expired, failed or cancelled."""
        self._chunks -= 1
        self.backlog_s = max(0.0, self.backlog_s - unloaded_ms / 1e3) if self._chunks else 0.0

    def scored(self, unloaded_ms: float, device_ms: float, downgraded: bool) -> None:
        """A chunk was scored.

        unloaded_ms: its device time at the tier of its unloaded plan
        device_ms: its device time at the tier that scored it
        downgraded: whether that tier has a lower quality
        """
        seconds, so_far = unloaded_ms / 1e3, self.counters
        self.counters = so_far._replace(
            device_load_s=so_far.device_load_s + device_ms / 1e3,
            served_load_s=so_far.served_load_s + seconds,
            downgraded_load_s=so_far.downgraded_load_s + (seconds if downgraded else 0.0),
        )


@dataclass
class OfferedLoad:
    """The load offered to one router, by group."""

    counters: dict[str, LoadCounters]

    @staticmethod
    def of(groups: Iterable[str]) -> "OfferedLoad":
        """All groups at zero."""
        return OfferedLoad({group: LoadCounters() for group in groups})

    def add_groups(self, groups: Iterable[str]) -> None:
        """Count for these groups too."""
        for group in groups:
            self.counters.setdefault(group, LoadCounters())

    def add(self, work_ms: Iterable[tuple[str, float]]) -> None:
        """Count one request. work_ms: group and device time of each stage of its unloaded plan."""
        for group, ms in work_ms:
            counters = self.counters[group]
            self.counters[group] = counters._replace(
                offered_load_s=counters.offered_load_s + ms / 1e3,
                offered_load_squares=counters.offered_load_squares + (ms / 1e3) ** 2,
            )
