"""What is counted for the autoscaler: sums that only grow, in seconds of predicted work, so that a report that is
lost or late loses nothing. Rates are made of them where they are read (`autoscaler/demand.py`)."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple


class Counts(NamedTuple):
    """Of one replica or one router, for one group. asked: work that requests would have got from the group on an
    idle fleet, whatever became of them; wanted: that of it which reached a replica; squares: the sum of squares of
    each request's, from which follows how far chance moves a rate; done: work done, at the tiers that did it;
    finished: the same work at the tiers preferred; below: the part of `finished` that a lesser tier has done."""

    offered_load_s: float = 0.0
    offered_load_squares: float = 0.0
    arrived_load_s: float = 0.0
    arrived_load_squares: float = 0.0
    device_load_s: float = 0.0
    served_load_s: float = 0.0
    downgraded_load_s: float = 0.0


@dataclass
class ReplicaLoad:
    """The books of one replica. Every `arrived` has its `left`."""

    backlog_s: float = 0.0
    _waiting: int = 0
    counts: Counts = field(default_factory=Counts)

    def arrived(self, unloaded_ms: float) -> None:
        """Work came that takes so long at its preferred tier."""
        seconds = unloaded_ms / 1e3
        counts = self.counts
        self.counts = counts._replace(
            arrived_load_s=counts.arrived_load_s + seconds,
            arrived_load_squares=counts.arrived_load_squares + seconds * seconds,
        )
        self.backlog_s += seconds
        self._waiting += 1

    def left(self, unloaded_ms: float) -> None:
        """It is scored, given up or cancelled."""
        self._waiting -= 1
        self.backlog_s = max(0.0, self.backlog_s - unloaded_ms / 1e3) if self._waiting else 0.0

    def scored(self, unloaded_ms: float, served_ms: float, below: bool) -> None:
        """It was scored. served_ms: what it takes at the tier that did it; below: whether that is a lesser one."""
        counts = self.counts
        self.counts = counts._replace(
            device_load_s=counts.device_load_s + served_ms / 1e3,
            served_load_s=counts.served_load_s + unloaded_ms / 1e3,
            downgraded_load_s=counts.downgraded_load_s + (unloaded_ms / 1e3 if below else 0.0),
        )


@dataclass
class OfferedLoad:
    """The books of one router: what its requests would have got on an idle fleet, by group."""

    counts: dict[str, Counts]

    @staticmethod
    def of(groups: Iterable[str]) -> "OfferedLoad":
        return OfferedLoad({group: Counts() for group in groups})

    def know(self, groups: Iterable[str]) -> None:
        """Count for these groups too."""
        for group in groups:
            self.counts.setdefault(group, Counts())

    def add(self, work_ms: Iterable[tuple[str, float]]) -> None:
        """One request. work_ms: group and device time of each of its stages."""
        for group, ms in work_ms:
            counts = self.counts[group]
            self.counts[group] = counts._replace(
                offered_load_s=counts.offered_load_s + ms / 1e3,
                offered_load_squares=counts.offered_load_squares + (ms / 1e3) ** 2,
            )
