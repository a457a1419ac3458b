"""Autoscaling in the simulator: the decision that serves, with the delays and the start-up time around it."""

from collections import deque
from dataclasses import dataclass, field

from rankfleet.core.config import Autoscaling, Replicas
from rankfleet.scheduling.autoscaling import Decision, decide

TICK_S = 0.5  # how often Serve asks the policy, as `core/deployments.py` sets it


@dataclass
class Scaler:
    """Targets for one group. start_s: from the decision to a replica that scores."""

    settings: Autoscaling
    replicas: Replicas
    start_s: float
    _seen: deque[tuple[float, float]] = field(default_factory=deque)  # time, backlog of all replicas in seconds
    _wanted_since_s: float | None = None
    _wanted: int = 0

    def target(self, backlog_s: float, current: int, now_s: float) -> int:
        """How many replicas there should be. A wish counts once it has lasted as long as the settings say."""
        self._seen.append((now_s, backlog_s))
        while self._seen[0][0] < now_s - self.settings.look_back_s:
            self._seen.popleft()
        mean_s = sum(backlog for _, backlog in self._seen) / len(self._seen)
        decision = self._decide(mean_s, current)
        direction = (decision.replicas > current) - (decision.replicas < current)
        if direction == 0 or direction != self._wanted:
            self._wanted, self._wanted_since_s = direction, now_s
        delay_s = self.settings.upscale_delay_s if direction > 0 else self.settings.downscale_delay_s
        if direction == 0 or self._wanted_since_s is None or now_s - self._wanted_since_s < delay_s:
            return current
        return decision.replicas

    def _decide(self, backlog_s: float, current: int) -> Decision:
        each = [backlog_s / max(1, current)] * max(1, current)
        return decide(each, current, self.replicas.min, self.replicas.max, self.settings.target_backlog_s)
