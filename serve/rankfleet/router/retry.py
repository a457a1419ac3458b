"""How long a chunk is waited for, and whether it is sent again when a replica refuses, loses or fails it.

Scoring twice does no harm, so another replica is asked as long as it can answer in time.
"""

import math
from dataclasses import dataclass, field

from rankfleet.core.bounds import MIN_SLO_MS
from rankfleet.core.errors import Expired, NotHosted, RankfleetError, ReplicaLost, ScoringFailed, Unavailable

MAX_LOSSES = 4
PATIENCE_S = 120.0  # how long a chunk without a deadline is retried, and how long it waits for a first replica
# Why a group has no replica for a chunk.
NO_REPLICA = f"has had no replica for {PATIENCE_S:.0f} s; see `ray status`"
GROUP_GONE = "was removed or failed to deploy; see `serve status`"
GRACE_S = 1.0  # an answer that comes a little after the deadline is worth more than none
SILENCE_S = 5.0  # a replica with work is lost when it says nothing for this long ...
SILENCE_FACTOR = 5.0  # ... and for this many times the predicted time
# For work that is to be done however late: the budget of each further try, to that of the one before, and of the first
# to the predicted time, if it cannot be in time from the start.
LATER = 2.0
UPDATE_RETRY_S = 0.1  # between rounds through the replicas to find one that hosts the router's version of a model


@dataclass(frozen=True, slots=True)
class Deadline:
    """When the scores must be back.

    at_s: seconds on the router's clock; infinity for best-effort work.
    grace_s: how much later an answer is still taken. Infinity for work that is to be done however late: whenever it
        expires, it is queued again with LATER times the budget. Without a deadline it would wait for all that has one,
        an hour of it if others send that.
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
        return None if self.last_try_s == math.inf else max(0.0, self.at_s + self.grace_s - now_s)


@dataclass
class Attempts:
    """The tries to have one chunk scored by a group.

    first_s: when it was first sent. min_ms: device time that it takes at least.
    tried: replicas that have refused, lost or failed it, and are asked again only if no other is left.
    failed: the replica on which scoring failed; empty if none did. If another one can score the chunk, that replica is
        at fault, else the chunk is.
    lost: replicas that went away with it.
    at_s, budget_s: the deadline that the next try is queued with, and its budget, at least the time that it takes.
    """

    group: str
    deadline: Deadline
    first_s: float
    min_ms: float
    tried: list[str] = field(default_factory=list)
    failed: str = ""
    lost: list[str] = field(default_factory=list)
    at_s: float = field(init=False)
    budget_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.at_s = self.deadline.at_s
        self.budget_s = max(self.at_s - self.first_s, self.min_ms / 1e3, MIN_SLO_MS / 1e3)

    def slack_ms(self, now_s: float, beside_ms: float) -> float | None:
        """As `Chunk.slack_ms`, for a try that is sent now. beside_ms: until the chunk is queued, and from its scores to
        the client."""
        return None if self.at_s == math.inf else (self.at_s - now_s) * 1e3 - beside_ms

    def after(self, error: RankfleetError, replica: str, has_other: bool, now_s: float) -> float:
        """How many seconds to wait before the next try. Raises what the request gets if there is none.

        replica: the one that was asked; empty if it is not known. has_other: whether a replica runs that has not been
        tried, this one being tried now.
        """
        if replica and replica not in self.tried and not isinstance(error, Expired):
            self.tried.append(replica)
        match error:
            case ReplicaLost():
                return self._after_loss(error, replica or "a replica", now_s)
            case NotHosted():
                return self._after_refusal(error, has_other, now_s)
            case ScoringFailed() if replica and has_other and not self.failed and self._can_be_in_time(now_s):
                self.failed = replica
                return 0.0
            case Expired() if self.deadline.late_is_fine and self.at_s < math.inf:
                self.budget_s *= LATER
                self.at_s = now_s + self.budget_s
                return 0.0
        raise error

    def _can_be_in_time(self, now_s: float) -> bool:
        return now_s + self.min_ms / 1e3 <= self.deadline.last_try_s

    def _after_loss(self, error: RankfleetError, replica: str, now_s: float) -> float:
        """Another replica is asked at once, a bounded number of times and for a bounded time."""
        self.lost.append(replica)
        if not self._can_be_in_time(now_s):
            raise Expired(f"{replica} went away, and no time was left to ask another replica") from error
        why = ""
        if len(self.lost) >= MAX_LOSSES:
            why = f"{len(self.lost)} replicas went away, one after the other: {', '.join(self.lost)}"
        elif now_s - self.first_s >= PATIENCE_S:
            why = f"no replica has answered for {now_s - self.first_s:.0f} s; {replica} went away"
        if why:
            raise Unavailable(f"group {self.group}: {why}; see the replicas' logs, then retry") from error
        return 0.0

    def _after_refusal(self, error: RankfleetError, has_other: bool, now_s: float) -> float:
        """During an update, replicas and routers of two versions run side by side: ask one after the other, and begin
        again after a while."""
        last_try_s = self.deadline.last_try_s
        if now_s >= last_try_s:
            raise Expired(f"{error}, and none that does answered in time") from error
        if now_s - self.first_s > PATIENCE_S:
            message = f"group {self.group}: {error}, for {PATIENCE_S:.0f} s; is an update stuck?"
            raise Unavailable(message) from error
        if has_other:
            return 0.0
        self.tried.clear()
        return min(UPDATE_RETRY_S, last_try_s - now_s)


def silent_at_s(heard_s: float, answer_s: float) -> float:
    """When a replica that has work and last gave a sign of life at `heard_s` counts as lost.

    answer_s: how long its answer was predicted to take.
    """
    return heard_s + max(SILENCE_S, SILENCE_FACTOR * answer_s)
