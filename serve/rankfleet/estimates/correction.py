"""Latency models drift: another neighbour on the machine, another clock, another driver. They are corrected by
what batches take, a little at a time."""

import math
from dataclasses import dataclass, field

from rankfleet.estimates.latency import MIN_MS, LatencyModel

GAIN = 0.2  # share of a batch's error that all tiers of the device take over: it is the device that got slower
TIER_GAIN = 0.05  # and that this tier takes over besides: its model may be off where the others are not
SPREAD_GAIN = 0.05  # share of the spread that the last batch makes up: about twenty batches show a change
MAX_STEP = 0.05  # in log: one batch moves either part by at most 5%, however far off it was
MAX_ERROR = 0.4  # in log: what one batch counts for in the spread at most
MAX_FACTOR = 4.0  # beyond this the profile is of another device; measure anew
HALF_S = 15.0  # in which an idle device is taken to be half as far from its profile
P99 = 2.326  # standard deviations of a normal distribution up to its 99th percentile


def clamp(value: float, limit: float) -> float:
    return max(-limit, min(limit, value))


@dataclass
class Correction:
    """What a device does to its latency models: ln(measured ÷ predicted) is followed by a part that all tiers share
    and a part of each tier's own, their sum kept within ±ln MAX_FACTOR; what they leave is taken to be normal, and
    its variance is followed as well, from the profiled p99_factor = exp(P99·σ) on."""

    _shared: float = 0.0
    _own: dict[str, float] = field(default_factory=dict)
    _variance: dict[str, float] = field(default_factory=dict)
    _known: dict[str, float] = field(default_factory=dict)  # as profiled

    def observed(self, tier: str, model: LatencyModel, predicted_ms: float, measured_ms: float) -> None:
        """A batch took `measured_ms` where `model`, uncorrected, says `predicted_ms`. What is not positive is
        ignored, and below MIN_MS all times count as equal."""
        if not (predicted_ms > 0 and 0 < measured_ms < math.inf):
            return
        error = math.log(max(MIN_MS, measured_ms) / max(MIN_MS, predicted_ms * self.factor(tier)))
        limit = math.log(MAX_FACTOR)
        self._shared = clamp(self._shared + clamp(GAIN * error, MAX_STEP), limit)
        own = self._own.get(tier, 0.0) + clamp(TIER_GAIN * error, MAX_STEP)
        self._own[tier] = max(-limit - self._shared, min(limit - self._shared, own))
        self._known[tier] = deviation(model) ** 2
        known = self._variance.get(tier, self._known[tier])
        self._variance[tier] = known + SPREAD_GAIN * (clamp(error, MAX_ERROR) ** 2 - known)

    def rested(self, idle_s: float) -> None:
        """Nothing has been scored for so long: what has slowed the device down may be over, and nobody would ever see
        it where all are refused for it. Goes back to the profile, by half in each HALF_S."""
        kept = 0.5 ** (idle_s / HALF_S)
        self._shared *= kept
        self._own = {tier: own * kept for tier, own in self._own.items()}
        for tier, variance in self._variance.items():
            self._variance[tier] = self._known[tier] + (variance - self._known[tier]) * kept

    def factor(self, tier: str) -> float:
        """Measured ÷ predicted, as far as it is followed."""
        return math.exp(clamp(self._shared + self._own.get(tier, 0.0), math.log(MAX_FACTOR)))

    def corrected(self, tier: str, model: LatencyModel) -> LatencyModel:
        """The model with all its times multiplied by the factor, and the spread that is seen."""
        factor = self.factor(tier)
        p99_factor = math.exp(P99 * math.sqrt(self._variance[tier])) if tier in self._variance else model.p99_factor
        return LatencyModel(model.alpha_ms * factor, model.beta_ms * factor, model.gamma_ms * factor, p99_factor)


def deviation(model: LatencyModel) -> float:
    """σ of ln(measured ÷ predicted) by the model's p99_factor."""
    return math.log(model.p99_factor) / P99
