"""How long a chunk is waited for, and whether it is sent again when its replica is lost.

Scoring twice does no harm, so another replica is asked as long as it can answer in time.
"""

import math
from dataclasses import dataclass

MAX_ATTEMPTS = 4
PATIENCE_S = 120.0  # how long a chunk without a deadline is retried, and how long it waits for a first replica
GRACE_S = 1.0  # an answer that comes a little after the deadline is worth more than none
SILENCE_S = 5.0  # a replica with work is lost when it says nothing for this long ...
SILENCE_FACTOR = 5.0  # ... and for this many times the predicted time


@dataclass(frozen=True, slots=True)
class Deadline:
    """When the scores must be back.

    at_s: seconds on the router's clock; infinity for best-effort work.
    grace_s: how much later an answer is still taken. Infinity for work that is to be done however late: it is queued
        with its deadline, and once more without one if it expires.
    """

    at_s: float = math.inf
    grace_s: float = GRACE_S

    @property
    def late_is_fine(self) -> bool:
        return self.grace_s == math.inf

    @property
    def last_try_s(self) -> float:
        """Until when another attempt may be made."""
        return math.inf if self.late_is_fine else self.at_s

    def wait_s(self, now_s: float) -> float | None:
        """How long to wait for an answer from now; None for no limit."""
        return None if self.last_try_s == math.inf else max(0.0, self.at_s - now_s) + self.grace_s


@dataclass(frozen=True)
class Verdict:
    """again: whether to ask another replica. in_time: False if only the lack of time is against it."""

    again: bool
    in_time: bool
    reason: str


def retry(attempts: int, first_s: float, now_s: float, last_try_s: float, min_ms: float) -> Verdict:
    """Whether a chunk that was lost `attempts` times is sent again.

    first_s: when it was first sent. last_try_s: as in `Deadline`. min_ms: device time that it takes at least.
    """
    if now_s + min_ms / 1e3 > last_try_s:
        return Verdict(False, False, "its replica went away, and no time was left to ask another")
    if attempts >= MAX_ATTEMPTS:
        return Verdict(False, True, f"{attempts} replicas went away, one after the other")
    if now_s - first_s >= PATIENCE_S:
        return Verdict(False, True, f"no replica has answered for {now_s - first_s:.0f} s")
    return Verdict(True, True, f"attempt {attempts} was lost with its replica")


def silent_at_s(heard_s: float, predicted_s: float) -> float:
    """When a replica that has work and last gave a sign of life at `heard_s` counts as lost.

    predicted_s: how long its answer was predicted to take.
    """
    return heard_s + max(SILENCE_S, SILENCE_FACTOR * predicted_s)
