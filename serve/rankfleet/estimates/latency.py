"""How long a batch of a tier takes: t = α + β·tokens + γ·Σ length², measured per tier and device.

α is the fixed cost of a batch, β the cost of the matrix products per token, γ that of attention per squared length.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from rankfleet.core.work import Work

MIN_MS = 1.0  # the rest of a request costs more than that: below it a relative error says nothing
SPREAD_MS = 10.0  # batches vary by as much as if each took this longer than it does


@dataclass(frozen=True)
class Sample:
    """One timed batch."""

    work: Work
    ms: float


class Cost(NamedTuple):
    """What a chunk costs at one tier: 99th percentiles, and for means two that say so.

    fixed_ms: what any batch of this tier costs, however small
    marginal_ms: what this chunk adds to a batch
    amortized_ms: marginal_ms + fixed_ms · (tokens of the chunk ÷ tokens of a full batch, at most 1)
    mean_ms: of the chunk alone in a batch; the 99th percentile is fixed_ms + marginal_ms
    mean_amortized_ms: the measure of load
    """

    fixed_ms: float
    marginal_ms: float
    amortized_ms: float
    mean_ms: float
    mean_amortized_ms: float


@dataclass(frozen=True)
class LatencyModel:
    """The time of a batch on one device.

    alpha_ms: per batch
    beta_ms: per token
    gamma_ms: per squared token, summed over pairs
    p99_factor: 99th percentile of (measured + SPREAD_MS) ÷ (predicted + SPREAD_MS), so that a plan that "fits" does so
        for slow batches too. All batches vary by a few milliseconds, whatever they take: were that a share of their
        time, short ones would make the 99th percentile of long ones look far higher than it is.
    """

    alpha_ms: float
    beta_ms: float
    gamma_ms: float
    p99_factor: float = 1.0

    def mean_ms(self, work: Work) -> float:
        """Mean time of a batch of this work."""
        return self.alpha_ms + self.beta_ms * work.tokens + self.gamma_ms * work.squares

    def p99_ms(self, work: Work) -> float:
        """99th percentile of the time of a batch of this work."""
        return self.mean_ms(work) * self.p99_factor + self._spread_ms

    @property
    def _spread_ms(self) -> float:
        """The part of the 99th percentile that does not grow with the batch."""
        return (self.p99_factor - 1.0) * SPREAD_MS

    def cost(self, work: Work, batch_tokens: int) -> Cost:
        """What a chunk of this work costs. batch_tokens: of a full batch."""
        mean_ms, share = self.mean_ms(work), min(1.0, work.tokens / batch_tokens)
        fixed_ms = self.alpha_ms * self.p99_factor + self._spread_ms
        marginal_ms = (mean_ms - self.alpha_ms) * self.p99_factor
        mean_amortized_ms = mean_ms - self.alpha_ms * (1.0 - share)
        return Cost(fixed_ms, marginal_ms, marginal_ms + fixed_ms * share, mean_ms, mean_amortized_ms)

    def to_json(self) -> dict[str, float]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> "LatencyModel":
        """Raises ValueError for values that no fit can give."""
        values = {name: float(data[name]) for name in LatencyModel.__annotations__}
        if not all(math.isfinite(value) and value >= 0 for value in values.values()) or values["p99_factor"] < 1:
            raise ValueError(f"times must be finite and not negative, and p99_factor at least 1: {values}")
        return LatencyModel(**values)


def fit(samples: Sequence[Sample]) -> LatencyModel:
    """Non-negative least squares on relative errors, on the median time of each size of batch.

    A coefficient that comes out negative is noise around zero: it is set to zero and the others are fitted again.
    p99_factor is as in `LatencyModel`, over all samples. With fewer than about 200 samples it is a lower quantile, such
    that the two slowest do not count: while a machine starts up the slowest may be anything.
    Raises ValueError for fewer than three samples.
    """
    if len(samples) < 3:
        raise ValueError(f"a latency model needs at least 3 samples, got {len(samples)}")
    medians_ms = median_ms(samples)
    ms = np.array(list(medians_ms.values()))
    terms = np.array([[1.0, work.tokens, work.squares] for work in medians_ms])
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
    errors = [(s.ms - mean_ms) / (mean_ms + SPREAD_MS) for s in samples for mean_ms in (model.mean_ms(s.work),)]
    slow = float(np.quantile(errors, min(0.99, (len(samples) - 3) / (len(samples) - 1))))
    return replace(model, p99_factor=1.0 + max(0.0, slow))


def median_ms(samples: Sequence[Sample]) -> dict[Work, float]:
    """The median time of each size of batch, in the order in which the sizes first appear."""
    by_size: dict[Work, list[float]] = {}
    for sample in samples:
        by_size.setdefault(sample.work, []).append(sample.ms)
    return {work: float(np.median(ms)) for work, ms in by_size.items()}


@dataclass(frozen=True)
class Errors:
    """How far predictions are off, relative to what was measured. Times below MIN_MS count as MIN_MS.

    p50, p99: |predicted ÷ measured − 1| over sizes of batch that the model was not fitted to; measured is the median
        of a size
    spread: 99th percentile of |batch ÷ median of its size − 1|: what the machine varies by, which no formula can know
        and `p99_factor` allows for
    """

    p50: float
    p99: float
    spread: float

    def to_json(self) -> dict[str, float]:
        return {name: round(value, 3) for name, value in asdict(self).items()}


def held_out_errors(samples: Sequence[Sample]) -> Errors:
    """Errors on every third size, in the order of `samples`, by a model fitted to the others.

    Raises ValueError if those are fewer than three samples.
    """
    medians_ms = median_ms(samples)
    held_out = list(medians_ms)[::3]
    model = fit([s for s in samples if s.work not in held_out])
    errors = [abs(model.mean_ms(work) - medians_ms[work]) / max(MIN_MS, medians_ms[work]) for work in held_out]
    spread = [abs(s.ms - medians_ms[s.work]) / max(MIN_MS, medians_ms[s.work]) for s in samples]
    return Errors(float(np.quantile(errors, 0.5)), float(np.quantile(errors, 0.99)), float(np.quantile(spread, 0.99)))
