"""Latency models drift: another neighbour on the machine, another clock, another driver. They are corrected by
what batches take, a little at a time."""

import math
from dataclasses import dataclass, field

from rankfleet.routing.latency import LatencyModel

GAIN = 0.05  # share of a batch's error that is taken over: about twenty batches show a change
MOST_STEP = 0.02  # in log: one batch moves a prediction by at most 2%, however far off it was
MOST_FACTOR = 4.0  # beyond this the profile is of another device; measure anew


@dataclass
class Correction:
    """factor by tier: measured ÷ predicted, followed in log steps of at most MOST_STEP and kept within
    1 ÷ MOST_FACTOR … MOST_FACTOR."""

    _logs: dict[str, float] = field(default_factory=dict)

    def observed(self, tier: str, predicted_ms: float, measured_ms: float) -> None:
        """A batch took `measured_ms` where the uncorrected model says `predicted_ms`. What is not positive is
        ignored."""
        if not (predicted_ms > 0 and 0 < measured_ms < math.inf):
            return
        known = self._logs.get(tier, 0.0)
        step = GAIN * (math.log(measured_ms / predicted_ms) - known)
        most = math.log(MOST_FACTOR)
        self._logs[tier] = max(-most, min(most, known + max(-MOST_STEP, min(MOST_STEP, step))))

    def factor(self, tier: str) -> float:
        return math.exp(self._logs.get(tier, 0.0))

    def corrected(self, tier: str, model: LatencyModel) -> LatencyModel:
        """The model with all its times multiplied by the factor; its spread stays as profiled."""
        factor = self.factor(tier)
        return LatencyModel(model.alpha_ms * factor, model.beta_ms * factor, model.gamma_ms * factor, model.p99_factor)
