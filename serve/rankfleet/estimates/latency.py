"""How long a tier takes: t = α + β·tokens + γ·Σ length², measured per tier and device.

β is the work of the matrix products, γ that of attention, α what every batch costs.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from rankfleet.core.messages import Work
from rankfleet.estimates.frontier import TierOption

MIN_MS = 1.0  # the rest of a request costs more than that: below it a relative error says nothing


@dataclass(frozen=True)
class Sample:
    """One timed batch."""

    work: Work
    ms: float


@dataclass(frozen=True)
class LatencyModel:
    """alpha_ms, beta_ms (per token), gamma_ms (per squared token); p99_factor: the 99th percentile of
    measured ÷ predicted, so that "fits" speaks of the slow batches and not of the mean."""

    alpha_ms: float
    beta_ms: float
    gamma_ms: float
    p99_factor: float = 1.0

    def mean_ms(self, work: Work) -> float:
        return self.alpha_ms + self.beta_ms * work.tokens + self.gamma_ms * work.squares

    def share_ms(self, work: Work, share: float) -> float:
        """Device time of work that makes up so much of a full batch, of whose fixed cost it bears its share."""
        return self.mean_ms(work) - self.alpha_ms * (1.0 - share)

    def p99_ms(self, work: Work) -> float:
        return self.mean_ms(work) * self.p99_factor

    def option(self, tier: str, quality: float, work: Work) -> TierOption:
        """What a queue needs to know: the cost of any batch, and what this work adds, both at the 99th percentile, and
        by how much less they are as a rule."""
        added_ms = self.beta_ms * work.tokens + self.gamma_ms * work.squares
        return TierOption(
            tier, quality, self.alpha_ms * self.p99_factor, added_ms * self.p99_factor, 1 / self.p99_factor
        )

    def to_json(self) -> dict[str, float]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> "LatencyModel":
        """Raises ValueError for what no fit can give."""
        values = {name: float(data[name]) for name in LatencyModel.__annotations__}
        if not all(math.isfinite(value) and value >= 0 for value in values.values()) or values["p99_factor"] < 1:
            raise ValueError(f"times must be finite and not negative, and p99_factor at least 1: {values}")
        return LatencyModel(**values)


def fit(samples: Sequence[Sample]) -> LatencyModel:
    """Least squares on relative errors with coefficients of at least 0, on the median of each size.

    A coefficient that comes out negative is noise around zero: it is set to zero and the others are fitted
    again. Where samples are few the slowest two do not count for `p99_factor`: among twenty the slowest may be
    anything, while a machine starts up. Raises ValueError for fewer than three samples.
    """
    if len(samples) < 3:
        raise ValueError(f"a latency model needs at least 3 samples, got {len(samples)}")
    mean_over_p99 = median_ms(samples)
    ms = np.array(list(mean_over_p99.values()))
    terms = np.array([[1.0, work.tokens, work.squares] for work in mean_over_p99])
    active = [0, 1, 2]
    coefficients = np.zeros(3)
    while active:
        solved = np.linalg.lstsq(terms[:, active] / ms[:, None], np.ones(len(ms)), rcond=None)[0]
        if (solved >= 0).all():
            coefficients[active] = solved
            break
        active.pop(int(solved.argmin()))
    alpha, beta, gamma = coefficients.tolist()
    model = LatencyModel(alpha, beta, gamma)
    over = [(s.ms - mean_ms) / max(mean_ms, MIN_MS) for s in samples for mean_ms in (model.mean_ms(s.work),)]
    slow = float(np.quantile(over, min(0.99, (len(samples) - 3) / (len(samples) - 1))))
    return replace(model, p99_factor=1.0 + max(0.0, slow))


def median_ms(samples: Sequence[Sample]) -> dict[Work, float]:
    """The median of each size, in the order in which sizes come."""
    by_size: dict[Work, list[float]] = {}
    for sample in samples:
        by_size.setdefault(sample.work, []).append(sample.ms)
    return {work: float(np.median(ms)) for work, ms in by_size.items()}


@dataclass(frozen=True)
class Errors:
    """How far predictions are off, as shares of what was measured.

    p50, p99: |predicted ÷ measured − 1| over sizes the model was not fitted to, each size's median of its batches
    counting as measured, and that as at least MIN_MS; spread: 99th percentile of |batch ÷ its size's median − 1|,
    what the machine varies by and no formula can know (`p99_factor` allows for it).
    """

    p50: float
    p99: float
    spread: float

    def to_json(self) -> dict[str, float]:
        return {name: round(value, 3) for name, value in asdict(self).items()}


def held_out_errors(samples: Sequence[Sample]) -> Errors:
    """Errors on every third size in the order of `samples`, by a model of the others. Raises ValueError where those
    are fewer than three samples."""
    mean_over_p99 = median_ms(samples)
    held_out = list(mean_over_p99)[::3]
    model = fit([s for s in samples if s.work not in held_out])
    off = [abs(model.mean_ms(work) - mean_over_p99[work]) / max(MIN_MS, mean_over_p99[work]) for work in held_out]
    spread = [abs(s.ms - mean_over_p99[s.work]) / max(MIN_MS, mean_over_p99[s.work]) for s in samples]
    return Errors(float(np.quantile(off, 0.5)), float(np.quantile(off, 0.99)), float(np.quantile(spread, 0.99)))
