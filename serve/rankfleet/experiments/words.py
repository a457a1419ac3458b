"""The report of an experiment in words: a verdict for each arm, and tables."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from rankfleet.estimates.differences import MIN_UNITS
from rankfleet.experiments.assignment import Mismatch
from rankfleet.experiments.report import ArmFigures, Comparison, Report

Kind = Literal["ship", "stop", "not yet", "stopped", "blocked"]
Table = tuple[list[str], list[list[str]]]


@dataclass(frozen=True)
class Verdict:
    """What to do with an arm, and why."""

    arm: str
    kind: Kind
    text: str


def verdicts(report: Report) -> list[Verdict]:
    """Of every arm but control."""
    return [verdict_of(report, arm.name) for arm in report.arms if arm.name != report.control]


def verdict_of(report: Report, arm: str) -> Verdict:
    if (mismatch := report.assignments.mismatch) is not None:
        return Verdict(arm, "blocked", f"no verdict on {arm}: {mismatch_text(mismatch)}")
    mine = [each for each in report.comparisons if each.arm == arm]
    guarded = [each for each in mine if each.margin is not None]
    worse = [each for each in guarded if each.finding == "worse"]
    open_ones = [each for each in guarded if each.finding == "open"]
    if arm in report.assignments.stopped_at:
        stopped = f"{arm} was stopped at {time_text(report.assignments.stopped_at[arm])}"
        shown = " and ".join(difference_text(each) for each in worse)
        return Verdict(arm, "stopped", f"{stopped}: {shown}" if shown else stopped)
    if worse:
        found = " and ".join(f"{difference_text(each)}, more than the {margin_text(each)} allowed" for each in worse)
        return Verdict(arm, "stop", f"{arm}: {found}: stop it")
    if open_ones or not guarded:
        return Verdict(arm, "not yet", f"{arm}: not yet{need_text(report, arm, open_ones)}")
    better = [difference_text(each) for each in mine if each.finding == "better"]
    cost = [difference_text(each) for each in mine if each.finding == "worse"]
    not_worse = [margin_text(each) for each in guarded if each.finding == "not worse"]
    parts = [" and ".join(better)] if better else []
    parts += ["not worse by more than " + " or ".join(not_worse)] if not_worse else []
    parts += [f"but {' and '.join(cost)}"] if cost else []
    advice = "ship it" if better else f"ship it if it is cheaper, else keep {report.control}"
    return Verdict(arm, "ship", f"{arm}: {', '.join(parts)}: {advice}")


def need_text(report: Report, arm: str, open_ones: list[Comparison]) -> str:
    """Why there is no verdict yet, and how many requests it is likely to take."""
    few = [each for each in report.arms if each.units < MIN_UNITS and each.name in (arm, report.control)]
    if few:
        seen = " and ".join(f"{each.name} has {each.units:,}" for each in few)
        return f": each arm needs at least {MIN_UNITS} units; {seen}"
    if not open_ones:
        return ": no request has what the arms are compared by"
    if any(math.isinf(each.difference.high) for each in open_ones):
        return ": a few units send most of the requests, and say as little as a few units do"
    more = max((each.needed for each in open_ones if each.needed is not None), default=0)
    still = "; ".join(difference_text(each) for each in open_ones)
    return f": about {rounded(more):,} more requests ({still})"


def rounded(count: int) -> int:
    """To two digits: an estimate of requests is no more exact."""
    if count < 100:
        return count
    digits = len(str(count)) - 2
    return round(count, -digits)


def difference_text(each: Comparison) -> str:
    """`3.1 ± 0.8 ms faster`, `CTR@10 0.40% ± 0.31% lower`."""
    value, width = each.difference.value, (each.difference.high - each.difference.low) / 2
    if math.isnan(value) or math.isinf(width):
        return f"{each.measure.title} not known yet"
    amount = f"{each.measure.shown(abs(value))} ± {each.measure.shown(width)}"
    if each.measure.unit == "ms":
        return f"{abs(value):.1f} ± {each.measure.shown(width)} {'faster' if value < 0 else 'slower'}"
    return f"{each.measure.title} {amount} {'higher' if value > 0 else 'lower'}"


def margin_text(each: Comparison) -> str:
    """`0.50% CTR@10`."""
    value = each.measure.shown(each.margin or 0.0)
    return value if each.measure.unit == "ms" else f"{value} {each.measure.title}"


def mismatch_text(mismatch: Mismatch) -> str:
    shares = ", ".join(
        f"{arm} has {mismatch.units[arm]:,} where {expected:,.0f} were expected"
        for arm, expected in mismatch.expected.items()
    )
    step = f" since step {mismatch.step} of the schedule" if mismatch.step else ""
    chance = f"p = {mismatch.p:.1g}" if mismatch.p >= 1e-9 else "p < 1e-9"
    return f"units are not shared as planned{step}: {shares} ({chance}). Likely cause: {mismatch.cause}"


def time_text(unix_s: float) -> str:
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M:%S} UTC"


def notes(report: Report) -> Iterator[str]:
    """What was left out, and how to read the intervals."""
    found = report.assignments
    left_out = sum(arm.requests for arm in report.arms) - report.compared
    if left_out:
        reasons = [f"{found.otherwise:,} requests were assigned by other weights"] if found.otherwise else []
        reasons += ["an arm was stopped"] if found.stopped_at else []
        yield f"{left_out:,} requests are left out of the comparison: {', '.join(reasons)}."
    if report.comparisons:
        yield (
            "All differences together hold with 95% confidence, however often you look. A unit's requests are counted "
            "together, not as independent samples."
        )


def traffic_table(report: Report) -> Table:
    """What each arm got."""
    header = ["arm", "requests", "units", "p50", "p95", "p99", "degraded", "answered by"]
    return header, [traffic_row(arm) for arm in report.arms]


def traffic_row(arm: ArmFigures) -> list[str]:
    tiers = ", ".join(f"{name or 'none'} {share:.0%}" for name, share in sorted(arm.tiers.items(), key=lambda x: -x[1]))
    times = [f"{ms:,.1f} ms" if math.isfinite(ms) else "" for ms in arm.latency_ms.values()]
    return [arm.name, f"{arm.requests:,}", f"{arm.units:,}", *times, f"{arm.degraded:.2%}", tiers]


def comparison_table(report: Report) -> Table:
    """Every measure of every arm against control."""
    header = ["arm", "measure", report.control, "arm's", "difference", "may be worse by", "so"]
    rows = []
    for each in report.comparisons:
        shown, width = each.measure.shown, (each.difference.high - each.difference.low) / 2
        known = not math.isnan(each.difference.value)
        sure = f" ± {shown(width)}" if math.isfinite(width) else " ± ?"
        rows.append(
            [
                each.arm,
                each.measure.title,
                shown(each.control_value) if known else "",
                shown(each.value) if known else "",
                shown(each.difference.value, signed=True) + sure if known else "",
                shown(each.margin) if each.margin is not None else "any",
                each.finding,
            ]
        )
    return header, rows
