"""What is said of an experiment: what may be compared, differences, and the verdict."""

import math
from typing import Any

import numpy as np
import pytest

from rankfleet.core.experiments import Experiment
from rankfleet.experiments.assignment import check_assignments, mismatch_p
from rankfleet.experiments.measures import measure_of
from rankfleet.experiments.report import Report, report_of, to_json
from rankfleet.experiments.requests import Requests, dcg
from rankfleet.experiments.words import comparison_table, notes, traffic_table, verdicts
from tests.unit.recorded import experiment, requests

HALVES = {"control": 50.0, "small": 50.0}


def halves(each: int, **columns: Any) -> Requests:
    """As many users in each arm, one request of each, in turn. columns: (of control's, of small's) requests."""
    arms = ["control", "small"] * each
    buckets = [number for pair in zip(range(each), range(5000, 5000 + each), strict=True) for number in pair]
    arrays = {name: [value for pair in zip(*values, strict=True) for value in pair] for name, values in columns.items()}
    return requests(arms, buckets, **arrays)


def report(recorded: Requests, **settings: Any) -> Report:
    return report_of("exp", experiment(HALVES, **settings), recorded)


def verdict(recorded: Requests, **settings: Any) -> tuple[str, str]:
    (only,) = verdicts(report(recorded, **settings))
    return only.kind, only.text


def every(period: int, each: int, value: float, other: float) -> list[float]:
    """`value` for each request that period divides, else `other`."""
    return [value if number % period == 0 else other for number in range(each)]


def test_clicks_are_measured_by_the_rank_of_the_first() -> None:
    recorded = requests(["control"] * 3, [0, 1, 2], first_clicks=[1.0, 4.0, np.inf], clicks_known=True)
    assert recorded.values(measure_of("ctr@3")).tolist() == [1, 0, 0]
    assert recorded.values(measure_of("ctr@10")).tolist() == [1, 1, 0]
    assert recorded.values(measure_of("mrr@10")).tolist() == [1, 0.25, 0]
    assert recorded.values(measure_of("mrr@3")).tolist() == [1, 0, 0]


def test_clicks_that_nobody_sends_are_unknown_and_not_absent() -> None:
    assert np.isnan(requests(["control"], [0]).values(measure_of("ctr@10"))).all()
    assert np.isnan(requests(["control"], [0]).values(measure_of("conversion"))).all()


def test_labels_give_ndcg() -> None:
    """Labels 0, 2, 1 in the order returned: 2 ⁄ log2 3 + 1 ⁄ log2 4 = 1.7619; ideal 2 + 1 ⁄ log2 3 = 2.6309."""
    recorded = requests(["control"] * 2, [0, 1], labelled={1: ([0.0, 2.0, 1.0], [2.0, 1.0])})
    values = recorded.values(measure_of("ndcg@10"))
    assert math.isnan(values[0])
    assert values[1] == pytest.approx(1.7619 / 2.6309, abs=1e-4)
    assert dcg([3.0]) == 3.0


def test_a_faster_arm_that_is_not_worse_is_shipped() -> None:
    """1,000 users in each arm, half of whom click; control takes 10 or 12 ms in turn, small 8 or 10."""
    click = every(2, 1000, 1.0, math.inf)
    kind, text = verdict(
        halves(
            1000,
            total_ms=(every(2, 1000, 10.0, 12.0), every(2, 1000, 8.0, 10.0)),
            first_clicks=(click, click),
        ),
        margins={"attainment": 0.05},
    )
    assert kind == "ship"
    # Standard error √(2 · 1 ⁄ 999) = .0447, τ = 5% of 11 ms = .55; ± by the formula, with α = .05 ⁄ 2.
    assert text == "small: 2.0 ± 0.2 ms faster, not worse by more than 5.00% attainment: ship it"


def test_an_arm_that_loses_more_clicks_than_allowed_is_stopped() -> None:
    recorded = halves(2000, first_clicks=(every(2, 2000, 1.0, math.inf), every(10, 2000, 1.0, math.inf)))
    kind, text = verdict(recorded_with_clicks(recorded), margins={"ctr@10": 0.1})
    assert kind == "stop"
    assert text.startswith("small: CTR@10 40.00% ±")
    assert text.endswith("lower, more than the 10.00% CTR@10 allowed: stop it")


def recorded_with_clicks(recorded: Requests) -> Requests:
    from dataclasses import replace

    return replace(recorded, clicks_known=True)


def test_what_is_not_known_yet_says_how_many_requests_it_takes() -> None:
    click = every(2, 200, 1.0, math.inf)
    found = report(recorded_with_clicks(halves(200, first_clicks=(click, click))), margins={"ctr@10": 0.02})
    (latency, ctr) = found.comparisons
    assert (latency.measure.name, ctr.finding) == ("latency_ms", "open")
    # With x = (τ ⁄ s)², α = .05 ⁄ 2 and τ the margin, half the width is the margin where (1 + x)(2 ln 40 + ln(1 + x)) =
    # x², x = 10.7: s = .02 ⁄ √10.7 = .00611. Each arm's variance is ¼ ⁄ n: s² = 2 · ¼ ⁄ n, n = 13,390 in each arm,
    # of which 200 are there.
    assert ctr.needed == pytest.approx(26_780 - 400, rel=0.02)
    (only,) = verdicts(found)
    assert only.kind == "not yet"
    assert "about 27,000 more requests (CTR@10 0.00% ±" in only.text


def test_requests_of_before_the_split_are_none_of_those_that_count() -> None:
    """As above, after 10,000 requests that control alone has answered."""
    click = every(2, 200, 1.0, math.inf)
    settings = experiment(
        {"control": 100, "small": 0},
        margins={"ctr@10": 0.02},
        schedule=[{"at": "2026-12-01T00:00:00Z", "weights": {"control": 50, "small": 50}}],
    )
    arms = ["control"] * 10_000 + ["control", "small"] * 200
    buckets = [*range(10_000), *(number for pair in zip(range(200), range(5000, 5200), strict=True) for number in pair)]
    clicks = [math.inf] * 10_000 + [value for each in click for value in (each, each)]
    recorded = requests(arms, buckets, steps=[0] * 10_000 + [1] * 400, first_clicks=clicks)
    found = report_of("exp", settings, recorded_with_clicks(recorded))
    assert found.comparisons[1].needed == pytest.approx(26_780 - 400, rel=0.02)


def test_few_units_give_no_verdict_whatever_they_did() -> None:
    kind, text = verdict(halves(49, total_ms=([10.0] * 49, [1000.0] * 49)))
    assert (kind, text) == (
        "not yet",
        "small: not yet: each arm needs at least 50 units; control has 49 and small has 49",
    )


def test_an_experiment_without_requests_has_a_report_too() -> None:
    empty = requests([], [])
    assert verdict(empty)[0] == "not yet"
    assert to_json(report(empty))["arms"]["small"]["requests"] == 0


def test_units_that_are_not_shared_as_planned_block_the_verdict() -> None:
    """600 users of small are lost of 1,000: χ² = (1000 − 700)² ⁄ 700 · 2 = 257."""
    whole = halves(1000)
    lost = (whole.arms == 1) & (np.arange(2000) < 1200)
    kind, text = verdict(whole.where(~lost))
    assert kind == "blocked"
    assert "control has 1,000 where 700 were expected, small has 400 where 700 were expected" in text
    assert "requests of one arm are lost before they are written" in text


def test_the_likely_cause_of_a_mismatch_is_named() -> None:
    from dataclasses import replace

    whole = halves(1000)
    at_second = replace(whole, routers=np.where(np.arange(2000) % 4 < 2, "r1", "r2"))
    kept = ~((at_second.routers == "r2") & (at_second.arms == 1))
    assert "only at router r2" in verdict(at_second.where(kept))[1]
    weights = experiment({"control": 90, "small": 10})
    (blocked,) = verdicts(report_of("exp", weights, whole))
    assert blocked.kind == "blocked"
    assert "requests were assigned otherwise than the fleet file says" in blocked.text


def test_the_test_of_shares() -> None:
    # χ² = 2 · 25² ⁄ 525 … of 550 and 500 where 525 each are expected: 2.381, p = .1228.
    assert mismatch_p({"a": 550, "b": 500}, {"a": 1, "b": 1}) == pytest.approx(0.1228, abs=1e-4)
    assert mismatch_p({"a": 10, "b": 1}, {"a": 1, "b": 0}) == 0.0
    assert mismatch_p({"a": 10}, {"a": 1}) == 1.0
    assert mismatch_p({}, {"a": 1, "b": 1}) == 1.0


def test_what_was_assigned_otherwise_is_left_out() -> None:
    """Bucket 10 is control's."""
    recorded = requests(["control", "small", "small"], [10, 10, 6000])
    found = check_assignments(recorded, experiment(HALVES), "control")
    assert (found.kept.tolist(), found.otherwise) == ([True, False, True], 1)


def test_users_whom_a_step_has_moved_count_in_either_arm() -> None:
    """All 1,000 users are control's first; then the step gives half of them to small. Without those, control would have
    kept its users of before and small would have none."""
    settings = experiment(
        {"control": 100, "small": 0},
        schedule=[{"at": "2026-12-01T00:00:00Z", "weights": {"control": 50, "small": 50}}],
    )
    users = [10 * number for number in range(1000)]
    arms = ["control"] * 1000 + ["control" if user < 5000 else "small" for user in users]
    found = report_of("exp", settings, requests(arms, users * 2, steps=[0] * 1000 + [1] * 1000))
    assert (found.compared, found.assignments.otherwise, found.assignments.mismatch) == (2000, 0, None)
    assert [arm.units for arm in found.arms] == [1000, 500]


def test_after_a_stop_the_arm_s_users_are_control_s_and_nothing_is_compared_any_more() -> None:
    arms = ["control", "small", "control", "small", "control", "control"]
    recorded = requests(arms, [1, 5001, 2, 5002, 5001, 3])
    found = check_assignments(recorded, experiment(HALVES), "control")
    assert found.stopped_at == {"small": 4.0}
    assert found.kept.tolist() == [True, True, True, True, False, False]
    (stopped,) = verdicts(report_of("exp", experiment(HALVES), recorded))
    assert (stopped.kind, stopped.text) == ("stopped", "small was stopped at 1970-01-01 00:00:04 UTC")


def test_a_ramp_on_a_slow_day_does_not_make_the_arm_slow() -> None:
    """Small has a tenth of the users on a fast day (10 ms) and half of them on a slow one (20 ms), and is 1 ms faster
    on both. Taken together its mean would be higher than control's."""
    settings = experiment(
        {"control": 90, "small": 10},
        schedule=[{"at": "2026-12-01T00:00:00Z", "weights": {"control": 50, "small": 50}}],
    )
    # The step gives buckets 5,000 to 8,999 to small, which had those from 9,000.
    first = [("control", number % 5000, 0, 10.0 + number % 2) for number in range(900)]
    first += [("small", 9000 + number, 0, 9.0 + number % 2) for number in range(100)]
    second = [("control", 1000 + number, 1, 20.0 + number % 2) for number in range(500)]
    second += [("small", 5000 + number, 1, 19.0 + number % 2) for number in range(500)]
    rows = first + second
    recorded = requests(
        [row[0] for row in rows],
        [row[1] for row in rows],
        steps=[row[2] for row in rows],
        total_ms=[row[3] for row in rows],
    )
    latency = report_of("exp", settings, recorded).comparisons[0]
    assert latency.difference.value == pytest.approx(-1.0)
    assert latency.finding == "better"


def test_one_user_s_many_requests_are_not_many_samples() -> None:
    """100 users in each arm, one of small's with 1,000 slow requests: latency is not known to be worse."""
    arms = ["control"] * 100 + ["small"] * 100 + ["small"] * 1000
    buckets = [*range(100), *range(5000, 5100), *[5000] * 1000]
    times = [10.0 + number % 2 for number in range(200)] + [30.0] * 1000
    found = report(requests(arms, buckets, total_ms=times))
    assert found.comparisons[0].difference.value > 10
    assert found.comparisons[0].finding == "open"
    assert "a few units send most of the requests" in verdicts(found)[0].text


def test_errors_and_missed_budgets_count_against_an_arm() -> None:
    failed = [bool(number % 2) for number in range(500)]
    recorded = halves(500, failed=([False] * 500, failed), met=([1.0] * 500, [0.0 if bad else 1.0 for bad in failed]))
    kind, text = verdict(recorded)
    assert kind == "stop"
    assert "attainment 50.00% ±" in text
    assert "error rate 50.00% ±" in text


def test_tables_show_every_arm_and_difference() -> None:
    found = report(halves(100))
    header, rows = traffic_table(found)
    assert rows[1] == ["small", "100", "100", "10.0 ms", "10.0 ms", "10.0 ms", "0.00%", "small 100%"]
    assert len(header) == len(rows[0])
    header, rows = comparison_table(found)
    assert [row[1] for row in rows] == ["latency", "attainment", "error rate"]
    assert {len(row) for row in rows} == {len(header)}
    assert [*notes(found)][-1].startswith("All differences together hold with 95% confidence")


def test_an_experiment_s_own_control_is_what_others_are_compared_with() -> None:
    swapped: Experiment = experiment(HALVES, control="small")
    (only,) = verdicts(report_of("exp", swapped, halves(100)))
    assert only.arm == "control"
