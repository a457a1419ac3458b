"""What a router knows of one replica, and its chunks in flight there.

Pure: time is an argument, in seconds of any steady clock.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, field

from rankfleet.core.sections import Routing
from rankfleet.estimates.arrivals import ArrivalMeter
from rankfleet.estimates.frontier import Frontier

# Ejection of replicas that lose or fail work, by the rules of Envoy's outlier detection: the time grows by one step
# with each ejection, shrinks by one for each EJECTION_STEP_S without any, and never the last replica is ejected.
EJECTION_STEP_S = 5.0
MAX_EJECTION_STEPS = 12
SETTLE_S = 1.0  # how long after chunks were withdrawn a replica's report may still hold their time


@dataclass(slots=True, eq=False)
class Entry:
    """A chunk in flight.

    predicted_ms: device time, as its replica's queue counts it.
    frontier: the tiers that may score it; None if none of them is measured.
    p99_s: 99th percentile of its device time.
    models: fingerprints, of which its replica should host at least one; empty for any.
    tried: replicas that have refused, lost or failed this chunk before.
    replica: the replica that has it, since `placed_s`; empty before one is chosen.
    run_ms: its mean device time at the tier that the replica takes, if it has found the replica idle.
    answer_s: within which its answer is predicted, from `placed_s`: `p99_s` and the work ahead of it at its replica.
    record: where it counts; None before a replica is chosen. A replica that Serve lists again has a new one.
    given_up: why its answer is not waited for any more; empty while it is.
    over_share: as in `Chunk`.
    tokens: of its pairs.
    """

    predicted_ms: float
    deadline_s: float
    sent_s: float
    frontier: Frontier | None = None
    p99_s: float = 0.0
    models: Collection[str] = ()
    tried: Collection[str] = ()
    replica: str = ""
    placed_s: float = 0.0
    run_ms: float = 0.0
    answer_s: float = 0.0
    record: "ReplicaRecord | None" = None
    given_up: str = ""
    over_share: bool = False
    tokens: int = 0


@dataclass(slots=True)
class ReplicaRecord:
    """One replica. `own_ms`, `since_ms` and `chunks` are of this router's chunks.

    known_s, backlog_s: its backlog, and when that was known: as it reported, or as a chunk makes it that finds it idle.
    own_ms: predicted device time of the chunks that are there. since_ms: of those that were placed there since then.
    chunks: in flight there.
    withdrawn_s: when one was last withdrawn.
    heard_s: when it last answered.
    arrivals: of this router's chunks there, as the replica measures those of all.
    ejected_until_s: when its last ejection ends or ended. steps: the length of that in EJECTION_STEP_S.
    """

    known_s: float = -math.inf
    backlog_s: float = 0.0
    own_ms: float = 0.0
    since_ms: float = 0.0
    chunks: int = 0
    withdrawn_s: float = -math.inf
    heard_s: float = -math.inf
    ejected_until_s: float = -math.inf
    steps: int = 0
    arrivals: ArrivalMeter = field(default_factory=lambda: ArrivalMeter(Routing()))

    @property
    def is_on_trial(self) -> bool:
        """Whether it has a chunk and has not answered since its last ejection began: one that hangs looks idle again,
        and would draw the chunks that others have no time for."""
        return self.chunks > 0 and self.heard_s < self.ejected_until_s - self.steps * EJECTION_STEP_S

    def ahead_ms(self, now_s: float) -> float:
        """Predicted milliseconds until a chunk that is placed there now would start."""
        return max(0.0, self.backlog_s - (now_s - self.known_s)) * 1e3 + self.since_ms

    def is_ejected(self, now_s: float) -> bool:
        """Whether other replicas are preferred to this one."""
        return now_s < self.ejected_until_s

    def eject(self, now_s: float) -> None:
        """Prefer other replicas for a while. After it, this one gets one chunk, and more once it has answered."""
        quiet_steps = int(min(self.steps, (now_s - self.ejected_until_s) / EJECTION_STEP_S))
        self.steps = min(MAX_EJECTION_STEPS, 1 + self.steps - quiet_steps)
        self.ejected_until_s = now_s + self.steps * EJECTION_STEP_S

    def takes(self, entry: Entry, now_s: float) -> None:
        """A chunk is placed here."""
        self.chunks += 1
        self.own_ms += entry.predicted_ms
        ahead_ms, left_ms = self.ahead_ms(now_s), (entry.deadline_s - now_s) * 1e3
        entry.record, entry.placed_s, entry.answer_s = self, now_s, entry.p99_s + ahead_ms / 1e3
        is_idle = ahead_ms <= 0
        if not entry.over_share:
            self.arrivals.arrived(left_ms, now_s, entry.tokens, found_idle=is_idle)
        if not is_idle:
            self.since_ms += entry.predicted_ms
            return
        if entry.frontier is not None:  # it starts at once
            point = entry.frontier.alone(left_ms, entry.tokens, self.arrivals.stats, self.arrivals.routing)
            entry.run_ms = point.mean_ms
        self.known_s, self.backlog_s = now_s, entry.run_ms / 1e3

    def loses(self, entry: Entry, now_s: float) -> None:
        """A chunk is here no longer.

        Of what this replica reported, it takes its share of this router's chunks with it: the replica counts it by
        another model than this router, and chunks of other routers are taken to be like these. Once the last one has
        gone, nothing is left, since no answer would ever correct it.
        """
        self.chunks -= 1
        reported_ms = self.own_ms - self.since_ms
        self.own_ms -= entry.predicted_ms
        if entry.placed_s > self.known_s:
            self.since_ms = max(0.0, self.since_ms - entry.predicted_ms)
        elif entry.placed_s == self.known_s:  # it found the replica idle
            self.backlog_s -= entry.run_ms / 1e3
        elif reported_ms > 0:
            age_s = now_s - self.known_s
            rest = max(0.0, 1.0 - entry.predicted_ms / reported_ms)
            self.backlog_s = age_s + max(0.0, self.backlog_s - age_s) * rest
        if self.chunks == 0:
            self.own_ms = self.since_ms = 0.0  # without what rounding has left

    def reports(self, backlog_s: float, now_s: float, ahead_s: float) -> None:
        """It has answered, and reported its backlog. ahead_s: as in `ChunkScores`.

        Beyond this router's own work, only what other routers have sent within shares and with deadlines like its own
        counts: of the rest, this router has nothing in flight that would tell it that others come first.
        """
        backlog_s = min(backlog_s, self.own_ms / 1e3 + ahead_s)
        if now_s - self.withdrawn_s < SETTLE_S:
            backlog_s = min(backlog_s, self.ahead_ms(now_s) / 1e3)
        self.heard_s = self.known_s = now_s
        self.backlog_s, self.since_ms = backlog_s, 0.0
