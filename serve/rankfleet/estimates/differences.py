"""Differences between two arms of an experiment, which may be looked at after every request.

A unit (a user, say) sends many requests that resemble each other, so that requests are no independent samples. Every
measure here is a ratio of sums over units, and its variance is that between units, by the delta method (Deng et al.,
"Applying the delta method in metric analytics", KDD 2018):

    R = ΣY ⁄ ΣN        Var R ≈ Σ (Y − R·N)² ⁄ (ΣN)²

with Y the sum of a unit's values and N the number of its requests.

A usual 95% interval is right for one look. Who looks again and again, and stops when it excludes 0, is wrong far more
often than in 5% of all cases. The intervals here are those of the mixture sequential probability ratio test (mSPRT,
Robbins 1970; Johari et al., "Always valid inference", Operations Research 2022): all of them together hold the true
difference with 95%, however often they are looked at.
"""

import math
from dataclasses import dataclass

import numpy as np

ALPHA = 0.05
MIN_UNITS = 50  # effective ones of an arm. With fewer the variance is too uncertain for the normal approximation


@dataclass(frozen=True)
class Ratio:
    """A measure of one arm: its value, its standard error, and how many units it comes from.

    units: the effective number, (Σn)² ⁄ Σn² with n the requests of a unit (Kish 1965): a few units that send most of
        the requests tell no more than a few.
    """

    value: float
    standard_error: float
    units: float

    @staticmethod
    def of(sums: np.ndarray, counts: np.ndarray, weights: np.ndarray | None = None) -> "Ratio":
        """sums, counts: float [units] or [units, periods], Y and N above.

        weights: float [periods], which add up to 1: the value is the weighted mean of the periods' ratios, so that two
        arms whose share of the traffic has changed in between can be compared. A period of weight 0 does not count.

        Where all values are the same, as of a rare event that has not happened yet, the variance would be 0. It is at
        least what one usual unit would add whose value was off by 1. NaN without any request.
        """
        weights = np.ones(1) if weights is None else weights
        sums, counts = (each.reshape(len(each), -1)[:, weights > 0] for each in (sums, counts))
        seen = counts.sum(axis=1) > 0
        sums, counts, weights, units = sums[seen], counts[seen], weights[weights > 0], int(seen.sum())
        totals = counts.sum(axis=0)
        if not units or not totals.all():
            return Ratio(math.nan, math.inf, 0.0)
        ratios = sums.sum(axis=0) / totals
        value = float(ratios @ weights)
        if units == 1:
            return Ratio(value, math.inf, 1.0)
        influences = (sums - counts * ratios) @ (weights / totals)
        parts = counts @ (weights / totals)  # of each unit in the whole; they add up to 1
        variance = max(float(influences @ influences), 1 / units**2) * units / (units - 1)
        return Ratio(value, math.sqrt(variance), float(1 / (parts @ parts)))


def half_width(standard_error: float, scale: float, alpha: float = ALPHA) -> float:
    """Half the width of the always-valid interval of a difference.

        √( s² (s² + τ²) ⁄ τ² · (2 ln(1 ⁄ α) + ln((s² + τ²) ⁄ s²)) )

    standard_error: s, of the difference. scale: τ, the size of difference that matters: at the number of requests at
    which such a difference can just be told, the interval is nearly as narrow as it can be.
    """
    if math.isinf(standard_error):
        return math.inf
    ratio = (scale / standard_error) ** 2
    return standard_error * math.sqrt((1 + ratio) / ratio * (2 * math.log(1 / alpha) + math.log1p(ratio)))


@dataclass(frozen=True)
class Difference:
    """Treatment minus control, with its always-valid interval."""

    value: float
    low: float
    high: float
    standard_error: float

    @staticmethod
    def between(control: Ratio, treatment: Ratio, scale: float, alpha: float = ALPHA) -> "Difference":
        """scale, alpha: as in `half_width`. The interval is everything while an arm has fewer than MIN_UNITS."""
        value = treatment.value - control.value
        error = math.hypot(control.standard_error, treatment.standard_error)
        width = math.inf if min(control.units, treatment.units) < MIN_UNITS else half_width(error, scale, alpha)
        return Difference(value, value - width, value + width, error)


def standard_error_for(width: float, scale: float, alpha: float = ALPHA) -> float:
    """The standard error at which the interval's half width is this, by bisection; `half_width` grows with it."""
    low, high = 0.0, width
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if half_width(middle, scale, alpha) < width else (low, middle)
    return low
