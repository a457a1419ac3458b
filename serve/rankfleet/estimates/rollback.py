"""Whether an arm of an experiment is so much worse than the control that it is stopped.

Each measure is a share of bad outcomes: requests that failed, budgets that were missed, answers slower than a given
latency. An arm is stopped when its share p is certainly above what is allowed:

    p > max(floor, c + margin)        c: the control's share

It is tested every second, so that a usual test would stop good arms sooner or later. Here the bounds of p and c are
confidence sequences: with probability 1 − α a bound holds at all looks together (Robbins 1970; Howard et al., "Time-
uniform confidence sequences", 2021). With k bad outcomes of n, a share p is excluded once

    B(k + ½, n − k + ½) ⁄ B(½, ½) ⁄ (pᵏ (1 − p)ⁿ⁻ᵏ)  ≥  1 ⁄ α

which is exact for few outcomes too. An arm needs bad outcomes in MIN_BAD buckets to be stopped: those of one moment
resemble each other, and a small arm may have two or three of them.

Outcomes of one user resemble each other. Outcomes are therefore counted by bucket of units, and k and n divided by the
design effect (Rao and Scott 1992): the variance of the bad outcomes between buckets, by the jackknife, ÷ that of
independent ones. Both have one bucket of mean size with bad outcomes only added to them, so that an arm without any is
as uncertain as its buckets are few. Without this, one user whose requests always fail could stop an arm. Different
buckets are taken as independent: an outage that only one arm meets counts as the arm's.

An experiment stops one or more good arms with a probability of at most ALPHA. It is shared by the arms, the measures,
and the periods after whose end counts begin anew: the j-th has 1 ⁄ (j (j + 1)) of it, and all together 1.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from rankfleet.core.experiment_state import COLUMNS
from rankfleet.core.experiments import Rollback

ALPHA = 0.05
MIN_BAD = 5
SLOW_SHARE = 0.01  # of the answers above the 99th percentile
BIN_RATIO = 1.05  # of the bounds of two neighbouring bins of latency
BINS = 300  # up to 1.05³⁰⁰ ms, more than half an hour
MIN_TIMED = 200  # answers from which a 99th percentile is taken


def latency_bin(ms: float) -> int:
    """The bin of a latency; bin i holds those up to 1.05ⁱ ms."""
    return min(BINS - 1, max(0, math.ceil(math.log(ms) / math.log(BIN_RATIO)))) if ms > 0 else 0


def latency_p99(latencies: np.ndarray) -> float | None:
    """The 99th percentile in ms, as the upper bound of its bin. latencies: int [bins], counts; None for too few."""
    sums = latencies.cumsum()
    if sums[-1] < MIN_TIMED:
        return None
    return float(BIN_RATIO ** int(np.searchsorted(sums, (1 - SLOW_SHARE) * sums[-1])))


@dataclass(frozen=True)
class Share:
    """Independent outcomes that tell as much as those counted: `bad` of `of`."""

    bad: float
    of: float

    @staticmethod
    def effective(bad: np.ndarray, of: np.ndarray) -> "Share":
        """bad, of: int [buckets], the outcomes of each bucket; buckets without any do not count."""
        total, all_bad = int(of.sum()), int(bad.sum())
        if not total:
            return Share(0.0, 0.0)
        share, usual = all_bad / total, total / int(np.count_nonzero(of))
        residuals = (bad - share * of) / np.maximum(1 - of / total, 1e-9)
        effect = max(1.0, float((residuals @ residuals + usual**2) / (all_bad * (1 - share) + usual)))
        return Share(all_bad / effect, total / effect)

    def excluded(self, alpha: float) -> Callable[[float], bool]:
        """Tells whether a share, above 0 and below 1, is outside the confidence sequence of level 1 − alpha."""
        bad, good = self.bad, self.of - self.bad
        mixture = math.lgamma(bad + 0.5) + math.lgamma(good + 0.5) - math.lgamma(self.of + 1.0) - math.log(math.pi)
        return lambda p: mixture - bad * math.log(p) - good * math.log1p(-p) >= -math.log(alpha)

    def upper(self, alpha: float) -> float:
        """The highest share that is not excluded, by bisection; 1 without outcomes."""
        low, high, excluded = (self.bad / self.of if self.of else 0.0), 1.0, self.excluded(alpha)
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (low, middle) if excluded(middle) else (middle, high)
        return high

    def is_above(self, p: float, alpha: float) -> bool:
        """Whether the true share is certainly above p."""
        return 0 < p < 1 and self.bad > p * self.of and self.excluded(alpha)(p)


@dataclass(frozen=True)
class Measure:
    """bad, of: columns of counts. floor, margin: see above. text: what is bad, for people. allowed: what would be
    good enough, for people."""

    bad: str
    of: str
    floor: float
    margin: float
    text: str
    allowed: str


def measures_of(rollback: Rollback) -> list[Measure]:
    """Those that are tested."""
    found: list[Measure] = []
    if (margin := rollback.error_rate) is not None:
        allowed = f"{margin:.2%} more are allowed"
        found.append(Measure("errors", "requests", 0.0, margin, "requests failed", allowed))
    if (margin := rollback.attainment) is not None:
        allowed = f"{margin:.2%} more are allowed"
        found.append(Measure("missed", "budgets", 0.0, margin, "budgets were missed", allowed))
    if (times := rollback.latency_p99) is not None:
        allowed = f"{SLOW_SHARE:.2%} are allowed"
        text = f"answers took longer than {times:g} times the control's 99th percentile"
        found.append(Measure("slow", "timed", SLOW_SHARE, 0.0, text, allowed))
    return found


def worse_arms(
    arms: Mapping[str, np.ndarray], control: str, rollback: Rollback, others: int, period: int
) -> dict[str, str]:
    """By arm that is certainly worse than allowed, the reason for people.

    arms: int [buckets, columns] by name, with columns as in `COLUMNS`.
    others: how many arms the experiment has beside the control. period: 1 for its first, at least 1 more for each later
    one.
    """
    tested = measures_of(rollback)
    if control not in arms or len(arms) < 2 or not tested:
        return {}
    alpha = ALPHA / (period * (period + 1)) / (others * len(tested)) / 2  # half for either bound
    found: dict[str, str] = {}
    for measure in tested:
        bad, of = COLUMNS.index(measure.bad), COLUMNS.index(measure.of)
        reference = Share.effective(arms[control][:, bad], arms[control][:, of])
        allowed = max(measure.floor, reference.upper(alpha) + measure.margin)
        for arm, counts in arms.items():
            share = Share.effective(counts[:, bad], counts[:, of])
            if arm == control or arm in found or np.count_nonzero(counts[:, bad]) < MIN_BAD:
                continue
            if share.is_above(allowed, alpha):
                told, compared = (percent(each[:, bad].sum(), each[:, of].sum()) for each in (counts, arms[control]))
                found[arm] = f"{told} {measure.text}, and {compared} of the control's; {measure.allowed}"
    return found


def percent(bad: int, of: int) -> str:
    """For people: `12.5% of 80`."""
    return f"{bad / of if of else 0:.1%} of {of:,}"
