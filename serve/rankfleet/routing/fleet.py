"""What a router knows of the fleet: reports of the groups, and the work it has sent out itself."""

import itertools
from dataclasses import dataclass, field

from rankfleet.core.config import FleetConfig
from rankfleet.core.messages import ChunkScores
from rankfleet.routing.latency import LatencyModel
from rankfleet.routing.planner import FleetSnapshot, GroupState, TierState

REPLICA_SEEN_S = 30.0  # a replica that has answered within this time counts as ready


@dataclass
class GroupView:
    """One group as seen from here."""

    least: int  # replicas that Serve always keeps
    out: dict[int, float] = field(default_factory=dict)  # ticket → predicted ms, in order of sending
    moved_s: float = 0.0  # when `out` last began to move: the first was sent, or one came back
    replicas: dict[str, tuple[float, float]] = field(default_factory=dict)  # name → (seen at, its backlog, s)

    def ready(self, now_s: float) -> int:
        """Replicas heard of lately, and at least those that Serve keeps."""
        return max(1, self.least, sum(now_s - at <= REPLICA_SEEN_S for at, _ in self.replicas.values()))

    def backlog_s(self, now_s: float) -> float:
        """Seconds of work per replica: what this router has out, or what the replicas said last, whichever is more
        (other routers' work shows only in the latter), both less the time that has passed since."""
        replicas = self.ready(now_s)
        # Each replica works on one of the oldest, and has done so since something last moved.
        oldest = list(itertools.islice(self.out.values(), replicas))
        done_ms = sum(min(ms, max(0.0, now_s - self.moved_s) * 1e3) for ms in oldest)
        reported = sum(max(0.0, backlog - (now_s - at)) for at, backlog in self.replicas.values())
        return max((sum(self.out.values()) - done_ms) / 1e3, reported) / replicas


class FleetView:
    """Turns events into snapshots for the planner. Time is an argument, in seconds of any steady clock."""

    def __init__(self, config: FleetConfig) -> None:
        self._config = config
        self._groups = {name: GroupView(group.replicas.min) for name, group in config.groups.items()}
        self._latency: dict[str, LatencyModel] = {}
        self._tickets = itertools.count()

    def learned(self, models: dict[str, LatencyModel]) -> None:
        """A group has reported its latency models, or a profile has been read."""
        self._latency |= {tier: model for tier, model in models.items() if tier in self._config.tiers}

    @property
    def ready(self) -> bool:
        """Whether every group that keeps a replica running has reported."""
        return all(
            tier in self._latency
            for group in self._config.groups.values()
            if group.replicas.min > 0
            for tier in group.tiers
        )

    def latency(self, tier: str) -> LatencyModel | None:
        return self._latency.get(tier)

    def sent(self, group: str, predicted_ms: float, now_s: float) -> int:
        """A chunk goes out. Returns a ticket for `back`."""
        view = self._groups[group]
        if not view.out:
            view.moved_s = now_s
        ticket = next(self._tickets)
        view.out[ticket] = predicted_ms
        return ticket

    def back(self, group: str, ticket: int, now_s: float) -> None:
        """A chunk is no longer out, whatever became of it."""
        self._groups[group].out.pop(ticket, None)
        self._groups[group].moved_s = now_s

    def heard(self, group: str, scores: ChunkScores, now_s: float) -> None:
        """A replica has answered, and said how much still waits there."""
        replicas = self._groups[group].replicas
        replicas[scores.replica] = (now_s, scores.backlog_s)
        for name in [n for n, (at, _) in replicas.items() if now_s - at > REPLICA_SEEN_S]:
            del replicas[name]

    def heard_of(self, group: str) -> bool:
        """Whether any replica of a group has answered."""
        return bool(self._groups[group].replicas)

    def replicas(self, group: str, now_s: float) -> int:
        return self._groups[group].ready(now_s)

    def snapshot(self, now_s: float) -> FleetSnapshot:
        tiers = tuple(
            TierState(name, tier.quality, self._config.group_of(name), self._latency.get(name))
            for name, tier in self._config.tiers.items()
        )
        groups = {name: GroupState(view.ready(now_s), view.backlog_s(now_s)) for name, view in self._groups.items()}
        return FleetSnapshot(tiers, groups, self._config.overhead_ms)
