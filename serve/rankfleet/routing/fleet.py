"""What a router knows of the fleet: reports of the groups, and the work it has sent out itself."""

from dataclasses import dataclass, field

from rankfleet.core.config import FleetConfig
from rankfleet.core.messages import ChunkScores
from rankfleet.routing.latency import LatencyModel
from rankfleet.routing.planner import FleetSnapshot, GroupState, TierState

REPLICA_SEEN_S = 30.0  # a replica that has answered within this time counts as ready


@dataclass
class GroupView:
    """One group as seen from here."""

    out_ms: float = 0.0  # predicted work sent and not yet back
    replicas: dict[str, tuple[float, float]] = field(default_factory=dict)  # name → (seen at, its backlog, s)

    def ready(self, now_s: float) -> int:
        return max(1, sum(now_s - at <= REPLICA_SEEN_S for at, _ in self.replicas.values()))

    def backlog_s(self, now_s: float) -> float:
        """Seconds of work per replica: what this router has out, or what the replicas said last less the time
        since then, whichever is more (other routers' work shows only in the latter)."""
        replicas = self.ready(now_s)
        reported = sum(max(0.0, backlog - (now_s - at)) for at, backlog in self.replicas.values())
        return max(self.out_ms / 1e3, reported) / replicas


class FleetView:
    """Turns events into snapshots for the planner. Time is an argument, in seconds of any steady clock."""

    def __init__(self, config: FleetConfig) -> None:
        self._config = config
        self._groups = {name: GroupView() for name in config.groups}
        self._latency: dict[str, LatencyModel] = {}

    def learned(self, models: dict[str, LatencyModel]) -> None:
        """A group has reported its latency models."""
        self._latency |= models

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

    def sent(self, group: str, predicted_ms: float) -> None:
        self._groups[group].out_ms += predicted_ms

    def back(self, group: str, predicted_ms: float) -> None:
        """A chunk is no longer out, whatever became of it."""
        view = self._groups[group]
        view.out_ms = max(0.0, view.out_ms - predicted_ms)

    def heard(self, group: str, scores: ChunkScores, now_s: float) -> None:
        """A replica has answered, and said how much still waits there."""
        replicas = self._groups[group].replicas
        replicas[scores.replica] = (now_s, scores.backlog_s)
        for name in [n for n, (at, _) in replicas.items() if now_s - at > REPLICA_SEEN_S]:
            del replicas[name]

    def replicas(self, group: str, now_s: float) -> int:
        return self._groups[group].ready(now_s)

    def snapshot(self, now_s: float) -> FleetSnapshot:
        tiers = tuple(
            TierState(name, tier.quality, self._config.group_of(name), self._latency.get(name))
            for name, tier in self._config.tiers.items()
        )
        groups = {name: GroupState(view.ready(now_s), view.backlog_s(now_s)) for name, view in self._groups.items()}
        return FleetSnapshot(tiers, groups, self._config.overhead_ms)
