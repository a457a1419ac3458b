"""The report of an experiment: each arm's figures, differences to control, and a verdict."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rankfleet.core.experiments import Experiment
from rankfleet.estimates.differences import ALPHA, MIN_UNITS, Difference, Ratio, standard_error_for
from rankfleet.experiments.assignment import Assignments, check_assignments, units_by_arm
from rankfleet.experiments.measures import LATENCY, Measure, margins_of
from rankfleet.experiments.requests import Requests

QUANTILES = (0.5, 0.95, 0.99)
LATENCY_SHARE = 0.05  # of control's mean: the difference of latency for which intervals are narrowest

Finding = Literal["better", "worse", "not worse", "open"]


@dataclass(frozen=True)
class ArmFigures:
    """What one arm's requests got. latency_ms: by quantile. tiers: share of the answers by tier. measures: by name,
    mean and number of requests that have one."""

    name: str
    requests: int
    units: int
    latency_ms: dict[float, float]
    degraded: float
    tiers: dict[str, float]
    measures: dict[str, tuple[float, int]]


@dataclass(frozen=True)
class Comparison:
    """One measure of one arm against control.

    margin: how much worse is still acceptable; None where a worse value does not forbid the arm.
    finding: `better` than control; `not worse` by the margin or more; `worse`, by more than the margin if there is one;
        `open`, not known yet.
    needed: how many more requests of the two arms it is likely to take until the measure is decided; None if it is, and
        where nothing can be said.
    """

    arm: str
    measure: Measure
    control_value: float
    value: float
    difference: Difference
    margin: float | None
    finding: Finding
    needed: int | None


@dataclass(frozen=True)
class Report:
    """All that is known of an experiment."""

    name: str
    control: str
    arms: tuple[ArmFigures, ...]
    comparisons: tuple[Comparison, ...]
    assignments: Assignments
    compared: int
    first_at: float
    last_at: float


def report_of(name: str, experiment: Experiment, requests: Requests) -> Report:
    """requests: of the experiment; may be none."""
    control = experiment.control_arm
    assignments = check_assignments(requests, experiment, control)
    kept = requests.where(assignments.kept)
    margins = margins_of(experiment)
    known = [each for each in margins if not np.isnan(kept.values(each)).all()] if len(kept) else []
    measures = list(dict.fromkeys([LATENCY, *known]))
    treatments = [arm for arm in requests.arm_names if arm != control]
    alpha = ALPHA / max(1, len(measures) * len(treatments))  # all intervals hold together
    comparisons = [
        compare(kept, control, arm, measure, margins.get(measure), alpha)
        for arm in treatments
        for measure in (measures if len(kept) else [])
    ]
    return Report(
        name,
        control,
        tuple(figures_of(requests, arm, [*margins]) for arm in requests.arm_names),
        tuple(comparisons),
        assignments,
        len(kept),
        float(requests.at.min()) if len(requests) else math.nan,
        float(requests.at.max()) if len(requests) else math.nan,
    )


def figures_of(requests: Requests, arm: str, measures: list[Measure]) -> ArmFigures:
    """Of all requests of an arm, also of those that are left out of comparisons."""
    own = requests.where(requests.arms == requests.arm_names.index(arm))
    answered = own.where(~own.failed)
    quantiles = np.quantile(answered.total_ms, QUANTILES) if len(answered) else [math.nan] * len(QUANTILES)
    tiers, counts = np.unique(answered.tiers, return_counts=True)
    means = {}
    for measure in measures:
        values = own.values(measure)
        values = values[~np.isnan(values)]
        if len(values):
            means[measure.name] = (float(values.mean()), len(values))
    return ArmFigures(
        arm,
        len(own),
        units_by_arm(own)[arm],
        dict(zip(QUANTILES, (float(ms) for ms in quantiles), strict=True)),
        float(answered.degraded.mean()) if len(answered) else 0.0,
        {str(tier): int(count) / len(answered) for tier, count in zip(tiers, counts, strict=True)},
        means,
    )


def compare(
    requests: Requests, control: str, arm: str, measure: Measure, margin: float | None, alpha: float
) -> Comparison:
    """One measure of one arm against control, in the steps of the schedule in which both have requests.

    Each step weighs by n₁·n₂ ⁄ (n₁ + n₂), with n the arms' requests: the weights that make the variance least if all
    requests vary alike. Without them an arm that grew on a slow day would look slow.
    """
    (control_sums, control_counts), (sums, counts) = (per_unit(requests, each, measure) for each in (control, arm))
    n_control, n_arm = control_counts.sum(axis=0), counts.sum(axis=0)
    both = np.where(n_control * n_arm > 0, n_control * n_arm / np.maximum(n_control + n_arm, 1), 0.0)
    if not both.any():
        nothing = Difference(math.nan, -math.inf, math.inf, math.inf)
        return Comparison(arm, measure, math.nan, math.nan, nothing, margin, "open", None)
    weights = both / both.sum()
    before, after = (
        Ratio.of(each_sums, each_counts, weights)
        for each_sums, each_counts in ((control_sums, control_counts), (sums, counts))
    )
    scale = margin or LATENCY_SHARE * abs(before.value) or measure.margin
    difference = Difference.between(before, after, scale, alpha)
    finding = finding_of(difference, measure, margin)
    pair = np.isin(requests.arms, [requests.arm_names.index(each) for each in (control, arm)])
    used = int((pair & (both > 0)[requests.steps]).sum())
    needed = None
    if finding == "open" and margin is not None:
        needed = requests_needed(difference, measure, margin, scale, alpha, used)
    return Comparison(arm, measure, before.value, after.value, difference, margin, finding, needed)


def per_unit(requests: Requests, arm: str, measure: Measure) -> tuple[np.ndarray, np.ndarray]:
    """(sums, counts) of an arm: float [units, steps]."""
    steps = int(requests.steps.max()) + 1
    values = requests.values(measure)
    chosen = (requests.arms == requests.arm_names.index(arm)) & ~np.isnan(values)
    units, places = np.unique(requests.units[chosen], return_inverse=True)
    cells = places * steps + requests.steps[chosen]
    shape, size = (len(units), steps), len(units) * steps
    return (
        np.bincount(cells, values[chosen], size).reshape(shape),
        np.bincount(cells, minlength=size).astype(float).reshape(shape),
    )


def finding_of(difference: Difference, measure: Measure, margin: float | None) -> Finding:
    low, high = sorted((measure.sign * difference.low, measure.sign * difference.high))  # higher is better
    if low > 0:
        return "better"
    if margin is not None and low > -margin:
        return "not worse"
    return "worse" if high < -(margin or 0.0) else "open"


def requests_needed(
    difference: Difference, measure: Measure, margin: float, scale: float, alpha: float, used: int
) -> int | None:
    """How many more requests until the interval, narrower and around the same difference, no longer holds the margin.
    None while nothing is known of the difference's error. used: those of the two arms so far, in the steps that are
    compared, also those that do not have the measure."""
    room = abs(margin + measure.sign * difference.value)
    if room == 0 or not math.isfinite(difference.standard_error):
        return None
    wanted = standard_error_for(room, scale, alpha)
    return math.ceil(used * max(0.0, (difference.standard_error / wanted) ** 2 - 1))


def to_json(report: Report) -> dict[str, Any]:
    """The report as plain data. Unknown numbers are null."""

    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        "experiment": report.name,
        "control": report.control,
        "first_at": finite(report.first_at),
        "last_at": finite(report.last_at),
        "requests_compared": report.compared,
        "confidence": 1 - ALPHA,
        "min_units": MIN_UNITS,
        "arms": {
            arm.name: {
                "requests": arm.requests,
                "units": arm.units,
                "latency_ms": {f"p{100 * q:g}": finite(ms) for q, ms in arm.latency_ms.items()},
                "degraded": arm.degraded,
                "tiers": arm.tiers,
                "measures": {name: {"value": value, "requests": n} for name, (value, n) in arm.measures.items()},
            }
            for arm in report.arms
        },
        "comparisons": [
            {
                "arm": each.arm,
                "measure": each.measure.name,
                "control": finite(each.control_value),
                "value": finite(each.value),
                "difference": finite(each.difference.value),
                "low": finite(each.difference.low),
                "high": finite(each.difference.high),
                "margin": each.margin,
                "finding": each.finding,
                "more_requests_needed": each.needed,
            }
            for each in report.comparisons
        ],
        "stopped_at": report.assignments.stopped_at,
        "assigned_otherwise": report.assignments.otherwise,
        "mismatch": report.assignments.mismatch and vars(report.assignments.mismatch),
    }
