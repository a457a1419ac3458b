"""What becomes of a chunk whose replica went away. Scoring twice does no harm, so another replica is asked, as long as
that can be in time."""

import math
from dataclasses import dataclass

MAX_ATTEMPTS = 4
PATIENCE_S = 120.0  # without a deadline a chunk is tried for so long, and waits so long for a first replica
LATE_S = 1.0  # beyond a deadline: an answer that comes a little late is worth more than none
SILENCE_S = 5.0  # a replica with work says nothing for so long, and for SILENCE_FACTOR times what was predicted
SILENCE_FACTOR = 5.0


@dataclass(frozen=True)
class Verdict:
    """again: whether to ask another replica; in_time: False where only time was wanting; reason: for people."""

    again: bool
    in_time: bool
    reason: str


def retry(attempts: int, first_s: float, now_s: float, deadline_s: float, min_ms: float) -> Verdict:
    """Whether a chunk that was sent `attempts` times in vain, first at `first_s`, is sent again.

    deadline_s: on the same clock, infinity for none; min_ms: device time it takes at least.
    """
    if now_s + min_ms / 1e3 > deadline_s:
        return Verdict(False, False, "its replica went away, and no time was left to ask another")
    if attempts >= MAX_ATTEMPTS:
        return Verdict(False, True, f"{attempts} replicas went away, one after the other")
    if now_s - first_s >= PATIENCE_S:
        return Verdict(False, True, f"no replica has answered for {now_s - first_s:.0f} s")
    return Verdict(True, True, f"attempt {attempts} was lost with its replica")


def wait_s(now_s: float, deadline_s: float) -> float | None:
    """How long an attempt may take at most; None for no end, where there is no deadline: what waits is not lost."""
    return None if deadline_s == math.inf else max(0.0, deadline_s - now_s) + LATE_S


def silent_at_s(heard_s: float, predicted_s: float) -> float:
    """When a replica that has work and was heard of last at `heard_s` is given up. predicted_s: until it would have
    answered."""
    return heard_s + max(SILENCE_S, SILENCE_FACTOR * predicted_s)
