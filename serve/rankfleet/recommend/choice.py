"""The choice: the cheapest option that is shown to lose no more than is allowed.

An option's loss is the mean over collections of the mean over queries of nDCG@10 of the best option minus its own,
query by query. Queries differ far more from each other than two options do on one query, so these differences tell
options apart that their means do not. The standard error of the loss over C collections of n queries each, N in all:

    se² = A ÷ N + (q ÷ N)²    with A = N · Σ Σ (d − d̄)² ÷ n² ÷ C²

The last term stands for one query more, on which the option loses q, all that the best has on average: a few queries on
which two options happen to agree are no proof that they always do.

The ends of an interval are d̄ ± z · se with z = Φ⁻¹(1 − 0.05 ÷ k), for the k options that are cheaper than the best.
The upper ends hold with 95% confidence for all of them together (Bonferroni), and so do the lower ends: who picks the
cheapest of k has k chances to be wrong. A verdict needs z · se ≤ m, the distance of d̄ from what is allowed. A and q do
not depend on the number of queries, so that N′ = (A + √(A² + 4q²m² ÷ z²)) · z² ÷ 2m² queries would do.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

LEVEL = 0.95
MIN_QUERIES = 20  # with fewer, the spread of the differences is not known either
ROUNDING = 1e-9  # figures of files are rounded; what is allowed is allowed to the last digit

Verdict = Literal["enough", "loses too much", "cannot tell"]


@dataclass(frozen=True)
class Option:
    """A tier, or a cascade.

    stages: (tier, number of candidates that it scores; None for all), by stage
    quality: nDCG@10, mean over collections of the means over queries
    ms: device time of one request; None if it is not known
    p99_ms: 99th percentile of the time of one request on an idle device; None if it is not known
    values: by collection, float [queries], nDCG@10 of each query; empty if only the mean is known
    """

    stages: tuple[tuple[str, int | None], ...]
    quality: float
    ms: float | None = None
    p99_ms: float | None = None
    values: Sequence[np.ndarray] = ()

    @property
    def tiers(self) -> tuple[str, ...]:
        return tuple(tier for tier, _ in self.stages)

    @property
    def name(self) -> str:
        """`small, then large on 20`, or the tier's name."""
        return ", then ".join(tier if count is None else f"{tier} on {count}" for tier, count in self.stages)


@dataclass(frozen=True)
class Goal:
    """max_loss: nDCG@10 that may be lost against the best option. target: nDCG@10 to be reached instead; None for none.
    slo_ms: what a request may take on an idle device; None for any time. level: confidence of all verdicts together."""

    max_loss: float = 0.01
    target: float | None = None
    slo_ms: float | None = None
    level: float = LEVEL

    @property
    def allowed(self) -> float:
        """Largest loss; against the target, none."""
        return self.max_loss if self.target is None else 0.0


@dataclass(frozen=True)
class Assessment:
    """An option measured by the goal.

    loss: against the best option, or against the target; negative if it is better
    interval: of the loss; None if only means are known, and then the verdict is that of the means
    queries: about how many would tell; None if there are enough, or if only means are known
    """

    option: Option
    loss: float
    interval: tuple[float, float] | None
    verdict: Verdict
    queries: int | None = None


@dataclass(frozen=True)
class Choice:
    """assessed: all options, the cheapest first. chosen: None if no option fits the budget. shown: whether the choice
    is shown to be enough; else it is the best of those that fit."""

    goal: Goal
    best: Option
    assessed: tuple[Assessment, ...]
    chosen: Assessment | None
    shown: bool

    @property
    def untold(self) -> list[Assessment]:
        """The options of which it cannot be told whether they are enough: also dearer ones than the best, each of which
        may be the best on more queries."""
        return [each for each in self.assessed if each.verdict == "cannot tell"]


def choose(options: Sequence[Option], goal: Goal) -> Choice:
    """The cheapest option that is enough and fits the budget; if none is, the best that fits.

    options: at least one, and all with figures for the same queries. Those without a time are compared, not chosen.
    """
    best = max(options, key=lambda option: option.quality)
    tried = [option for option in options if goal.target is not None or by_cost(option) < by_cost(best)]
    assessed = [assess(option, best, goal, max(1, len(tried))) for option in sorted(options, key=by_cost)]
    fitting = [each for each in assessed if fits(each.option, goal)]
    enough = [each for each in fitting if each.verdict == "enough"]
    chosen = enough[0] if enough else max(fitting, key=lambda each: each.option.quality, default=None)
    return Choice(goal, best, tuple(assessed), chosen, bool(enough))


def by_cost(option: Option) -> tuple[float, float]:
    """Sorts by device time, options without one last; at the same time the better first."""
    return math.inf if option.ms is None else option.ms, -option.quality


def fits(option: Option, goal: Goal) -> bool:
    """Whether its time is known, and within the budget if there is one."""
    within = goal.slo_ms is None or (option.p99_ms is not None and option.p99_ms <= goal.slo_ms)
    return option.ms is not None and within


def assess(option: Option, best: Option, goal: Goal, tried: int) -> Assessment:
    """Measure one option by the goal. tried: how many options could be chosen in place of the best, k above."""
    if option is best and goal.target is None:
        return Assessment(option, 0.0, None, "enough")
    loss = (best.quality if goal.target is None else goal.target) - option.quality
    above = loss - goal.allowed
    if not option.values:
        return Assessment(option, loss, None, "enough" if above <= ROUNDING else "loses too much")
    truths = best.values if goal.target is None else [np.full(len(own), goal.target) for own in option.values]
    differences = [truth - own for truth, own in zip(truths, option.values, strict=True)]
    queries, spread = sum(map(len, differences)), spread_of(differences)
    z = NormalDist().inv_cdf(1 - (1 - goal.level) / tried)
    reach = z * math.sqrt(spread / queries + (best.quality / queries) ** 2)
    interval = loss - reach, loss + reach
    if queries >= MIN_QUERIES and above + reach <= ROUNDING:
        return Assessment(option, loss, interval, "enough")
    if queries >= MIN_QUERIES and above - reach > ROUNDING:
        return Assessment(option, loss, interval, "loses too much")
    return Assessment(option, loss, interval, "cannot tell", enough_queries(spread, best.quality, abs(above), z))


def spread_of(differences: Sequence[np.ndarray]) -> float:
    """A, as above. differences: by collection, float [queries]."""
    queries = sum(map(len, differences))
    return queries * sum(float(each.var()) / len(each) for each in differences) / len(differences) ** 2


def enough_queries(spread: float, whole: float, distance: float, z: float) -> int | None:
    """N′, as above, rounded up to two digits, since it is an estimate; None for more than anybody judges.

    spread: A; whole: q; distance: m
    """
    if distance < ROUNDING:
        return None
    root = math.sqrt(spread**2 + (2 * whole * distance / z) ** 2)
    queries = max(MIN_QUERIES, (spread + root) * z**2 / (2 * distance**2))
    unit = 10 ** (math.floor(math.log10(queries)) - 1)
    return math.ceil(queries / unit) * unit if queries < 1e7 else None
