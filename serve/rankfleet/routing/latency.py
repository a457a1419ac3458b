"""How long a tier takes: t = α + β·tokens + γ·Σ length², measured per tier and device.

β is the work of the matrix products, γ that of attention, α what every batch costs.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rankfleet.core.messages import Work
from rankfleet.scheduling.ladder import Option


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

    def option(self, tier: str, quality: float, work: Work) -> Option:
        """What a queue needs to know: the cost of any batch, and what this work adds, at the 99th percentile."""
        added_ms = self.beta_ms * work.tokens + self.gamma_ms * work.squares
        return Option(tier, quality, self.alpha_ms * self.p99_factor, added_ms * self.p99_factor)

    def to_json(self) -> dict[str, float]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> "LatencyModel":
        return LatencyModel(**{name: float(data[name]) for name in LatencyModel.__annotations__})


def fit(samples: Sequence[Sample]) -> LatencyModel:
    """Least squares on relative errors with coefficients of at least 0.

    A coefficient that comes out negative is noise around zero: it is set to zero and the others are fitted
    again. Raises ValueError for fewer than three samples.
    """
    if len(samples) < 3:
        raise ValueError(f"a latency model needs at least 3 samples, got {len(samples)}")
    ms = np.array([s.ms for s in samples])
    terms = np.array([[1.0, s.work.tokens, s.work.squares] for s in samples])
    active = [0, 1, 2]
    coefficients = np.zeros(3)
    while active:
        solved = np.linalg.lstsq(terms[:, active] / ms[:, None], np.ones(len(ms)), rcond=None)[0]
        if (solved >= 0).all():
            coefficients[active] = solved
            break
        active.pop(int(solved.argmin()))
    predicted = np.maximum(terms @ coefficients, 1e-9)
    alpha, beta, gamma = coefficients.tolist()
    return LatencyModel(alpha, beta, gamma, max(1.0, float(np.quantile(ms / predicted, 0.99))))


@dataclass(frozen=True)
class Errors:
    """Relative errors |predicted ÷ measured − 1|: the median and the 99th percentile."""

    p50: float
    p99: float


def errors(model: LatencyModel, samples: Sequence[Sample]) -> Errors:
    """How far the model's mean prediction is off on samples it was not fitted to."""
    off = [abs(model.mean_ms(s.work) / s.ms - 1) for s in samples]
    return Errors(float(np.quantile(off, 0.5)), float(np.quantile(off, 0.99)))
