"""How many replicas a group should have: enough that each has at most a target of work waiting.

Backlog is measured in predicted seconds of work, not in requests: one request may hold 10 pairs or 1,000.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Decision:
    """replicas: the target; reason: one sentence for people."""

    replicas: int
    reason: str


def decide(backlogs_s: list[float], current: int, least: int, most: int, target_backlog_s: float) -> Decision:
    """Target for one group.

    backlogs_s: predicted seconds of queued and running work of each replica, averaged over the look-back;
    current: replicas now. With total backlog B the group needs ceil(B ÷ target) replicas. It shrinks only to
    where the same backlog would stay below 70% of the target, so that it does not grow again at once.
    """
    total = sum(b for b in backlogs_s if math.isfinite(b) and b > 0)
    needed = math.ceil(total / target_backlog_s)
    if needed < current:
        needed = min(current, math.ceil(total / (0.7 * target_backlog_s)))
    replicas = max(least, min(most, needed))
    state = f"{total:.2f} s of work on {current} replicas, target {target_backlog_s:.2f} s each"
    if replicas > current:
        return Decision(replicas, f"grow to {replicas}: {state}")
    if replicas < current:
        return Decision(replicas, f"shrink to {replicas}: {state}")
    return Decision(current, f"stay at {current}: {state}")
