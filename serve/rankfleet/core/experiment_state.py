"""What routers and the monitor of experiments tell each other."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from rankfleet.core.experiments import Rollback

PERIOD_S = 3600  # counts begin anew with each hour of wall-clock time, and with each step of the schedule


class Period(NamedTuple):
    """An hour since 1970, and the step of the schedule in force. A later period is greater."""

    hour: int
    step: int


@dataclass(frozen=True)
class ArmCounts:
    """Counts of one arm in one period, apart for each bucket of units.

    buckets: int64 [n], 0 to 9,999. counts: int64 [n, 6], in the order of `COLUMNS`.
    latencies: int64 [bins], answers by latency (`estimates/rollback.py: latency_bin`).
    """

    buckets: np.ndarray
    counts: np.ndarray
    latencies: np.ndarray


# budgets: answers that had a budget; missed: of those, late ones. timed: answers while it was known which latency is
# slow; slow: of those, slower ones.
COLUMNS = ("requests", "errors", "budgets", "missed", "timed", "slow")


@dataclass(frozen=True)
class ExperimentReport:
    """What one router has counted in one period: sums from its beginning, so that a report may be lost or sent twice.

    arms: of those with requests.
    """

    name: str
    control: str
    rollback: Rollback | None
    others: int
    period: Period
    arms: Mapping[str, ArmCounts]


@dataclass(frozen=True)
class ExperimentState:
    """What all routers together have seen of an experiment.

    stopped: by arm that is stopped, the reason. slow_ms: the latency from which an answer counts as slow; None if that
    is not known yet, or not asked for. since_s: when the counts begin, in seconds since 1970; None before the first.
    counts: by arm, in the order of `COLUMNS`.
    """

    stopped: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    slow_ms: float | None = None
    since_s: float | None = None
    counts: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: MappingProxyType({}))


NO_STATE = ExperimentState()
