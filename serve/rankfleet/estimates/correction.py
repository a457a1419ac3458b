"""Online correction of latency models by what batches take.

A device drifts from its profile: other processes on the machine, another clock rate, another driver.
"""

import math
from dataclasses import dataclass, field

from rankfleet.estimates.latency import SPREAD_MS, LatencyModel

# Weights of exponential averages: the share of a batch's error that each part of the correction takes over.
DEVICE_GAIN = 0.2  # the part that all models of the device share: usually it is the device that got slower
MODEL_GAIN = 0.05  # the model's own part: its profile may be off where the others' are not
OVERHEAD_GAIN = 0.25  # the overhead, by batches that are shorter than SHORT_MS
SHORT_MS = 5.0  # longer batches vary by more than the millisecond or two of overhead; the largest overhead
VARIANCE_GAIN = 0.05  # the variance of the error: about twenty batches show a change
WHOLE_MS = 20.0  # profiled time of a batch that counts in full; of shorter ones, their share of it
MAX_LOG_STEP = 0.05  # one batch moves either part by at most 5%, however far off it was
MAX_LOG_ERROR = 0.4  # a batch enters the variance with at most this error
MAX_FACTOR = 4.0  # a device that differs more from its profile needs a new one
HALF_LIFE_S = 15.0  # of the correction while the device is idle
P99_SIGMAS = 2.326  # standard deviations of a normal distribution at its 99th percentile


def clamp(value: float, limit: float) -> float:
    """`value` within ±limit."""
    return max(-limit, min(limit, value))


@dataclass
class Correction:
    """Follows how the times of the batches of one device differ from their profile.

        time = factor(model) · profiled time + overhead
        ln factor(model) = device part + own part of the model,  within ±ln MAX_FACTOR

    Batches of at least SHORT_MS correct the factor, as if there were no overhead: work that can wait is scored in
    parts, and each pays it again. Shorter ones correct the overhead alone, which is the same for all models: the way to
    the device's thread and back, which a profile is timed without, makes a batch of one word take twice as long. In the
    factor that would make long batches look so slow that no budget admits them. What counts is the profiled time: by
    the corrected one, a factor that has grown would let shorter and shorter batches raise it. Batches below WHOLE_MS
    correct the factor by their share of that, for the same reason: beside routers that are busy with a few requests,
    lone ones of 5 ms take 10.

    What the factor leaves, ln((measured + SPREAD_MS) ÷ (predicted + SPREAD_MS)), is taken to be normal with variance
    σ², which is followed too and starts at the profile's: p99_factor = exp(P99_SIGMAS · σ).
    """

    overhead_ms: float = 0.0
    _device_part: float = 0.0
    _own_parts: dict[str, float] = field(default_factory=dict)
    _variances: dict[str, float] = field(default_factory=dict)
    _profiled_variances: dict[str, float] = field(default_factory=dict)

    def observed(self, name: str, model: LatencyModel, profiled_ms: float, measured_ms: float) -> None:
        """Learn from one batch of a model.

        profiled_ms: the mean by the profiled, uncorrected `model`
        measured_ms: what the batch took

        Ignores times that are not positive and finite.
        """
        if not (profiled_ms > 0 and 0 < measured_ms < math.inf):
            return
        predicted_ms = profiled_ms * self.factor(name)
        if profiled_ms < SHORT_MS:
            error_ms = clamp(measured_ms - predicted_ms - self.overhead_ms, SHORT_MS)
            self.overhead_ms = clamp(self.overhead_ms + OVERHEAD_GAIN * error_ms, SHORT_MS)
            return
        error = math.log(measured_ms) - math.log(predicted_ms)  # their ratio may be too small for a float
        limit = math.log(MAX_FACTOR)
        weight = min(1.0, profiled_ms / WHOLE_MS)
        self._device_part = clamp(self._device_part + weight * clamp(DEVICE_GAIN * error, MAX_LOG_STEP), limit)
        own_part = self._own_parts.get(name, 0.0) + weight * clamp(MODEL_GAIN * error, MAX_LOG_STEP)
        self._own_parts[name] = max(-limit - self._device_part, min(limit - self._device_part, own_part))
        self._profiled_variances[name] = log_sigma(model) ** 2
        variance = self._variances.get(name, self._profiled_variances[name])
        spread = clamp(math.log((measured_ms + SPREAD_MS) / (predicted_ms + SPREAD_MS)), MAX_LOG_ERROR)
        self._variances[name] = variance + VARIANCE_GAIN * (spread**2 - variance)

    def rested(self, idle_s: float) -> None:
        """Decay towards the profile, by half in each HALF_LIFE_S of idle time.

        What slowed the device down may be over. Without this a device that is so slow that every request is refused
        would never be seen to have recovered.
        """
        kept = 0.5 ** (idle_s / HALF_LIFE_S)
        self.overhead_ms *= kept
        self._device_part *= kept
        self._own_parts = {name: own_part * kept for name, own_part in self._own_parts.items()}
        for name, variance in self._variances.items():
            profiled = self._profiled_variances[name]
            self._variances[name] = profiled + (variance - profiled) * kept

    def factor(self, name: str) -> float:
        """Estimate of measured ÷ profiled time, without the overhead."""
        return math.exp(clamp(self._device_part + self._own_parts.get(name, 0.0), math.log(MAX_FACTOR)))

    def corrected(self, name: str, model: LatencyModel) -> LatencyModel:
        """The profiled model with its times multiplied by the factor, the overhead, and the observed p99_factor."""
        factor = self.factor(name)
        p99_factor = model.p99_factor
        if name in self._variances:
            p99_factor = math.exp(P99_SIGMAS * math.sqrt(self._variances[name]))
        alpha_ms = max(0.0, model.alpha_ms * factor + self.overhead_ms)
        return LatencyModel(alpha_ms, model.beta_ms * factor, model.gamma_ms * factor, p99_factor)


def log_sigma(model: LatencyModel) -> float:
    """σ of ln((measured + SPREAD_MS) ÷ (predicted + SPREAD_MS)) that the model's p99_factor stands for."""
    return math.log(model.p99_factor) / P99_SIGMAS
