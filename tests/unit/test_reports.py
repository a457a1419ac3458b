"""Which report of a source is its last, how old it is, and which settings are the newest: all by the reader's clock."""

from typing import Any

import pytest
from ray.serve._private.common import TimeStampedValue as Point

from rankfleet.autoscaler.reports import LastReports, last_values
from rankfleet.autoscaler.settings import NewestSettings

A, B = {"set:margin": 0.1, "gpus:g": 1.0}, {"set:margin": 0.2, "gpus:g": 1.0}


def numbered(**numbers: float) -> dict[str, dict[str, list[Point]]]:
    """Serve's metrics of sources that have sent the report with this number."""
    return {"report": {source: [Point(0.0, number)] for source, number in numbers.items()}}


def test_the_report_with_the_highest_number_is_the_last() -> None:
    # The clock of r was set back by half a second after report 7, so that report 8 stands before it.
    series = {
        "report": {"r": [Point(10.0, 6), Point(10.3, 8), Point(10.5, 7)], "s": [Point(99.0, 1)]},
        "load": {"r": [Point(10.0, 60.0), Point(10.3, 80.0), Point(10.5, 70.0)], "s": [Point(99.0, 10.0)]},
        "gone": {"r": [Point(10.0, 1.0), Point(10.5, 1.0)]},
    }
    assert last_values(series) == {"r": {"report": 8.0, "load": 80.0}, "s": {"report": 1.0, "load": 10.0}}


@pytest.mark.parametrize(
    "series",
    [
        {"load": {"r": [Point(1.0, 2.0)]}},
        {"report": {"r": []}},
        {"report": {"r": [Point(1.0, -1.0)]}},
        {"report": {"r": [Point(1.0, float("nan"))]}},
        {"report": {"r": [Point(1.0, 10**400)]}},
        {"report": {"r": 5}},
        {"report": None},
        "much",
    ],
)
def test_a_source_without_a_number_has_no_report(series: Any) -> None:
    assert last_values(series) == {}


def test_a_value_that_makes_no_sense_is_left_out() -> None:
    series: Any = numbered(r=3) | {"a": {"r": [Point(0.0, 1e13)]}, "b": {"r": None}, "c": {"r": [Point(0.0, 2.0)]}}
    assert last_values(series) == {"r": {"report": 3.0, "c": 2.0}}


def fresh(reports: LastReports, series: Any, now_s: float) -> set[str]:
    return {name for name, report in reports.read(series, now_s).items() if report.is_fresh}


def test_a_report_is_fresh_for_five_seconds_after_its_number_was_first_seen() -> None:
    reports = LastReports()
    assert fresh(reports, numbered(r=7, s=9), 100.0) == {"r", "s"}
    assert fresh(reports, numbered(r=8, s=9), 104.0) == {"r", "s"}
    assert fresh(reports, numbered(r=8, s=9), 105.0) == {"r", "s"}
    assert fresh(reports, numbered(r=8, s=9), 105.1) == {"r"}
    assert fresh(reports, numbered(r=8, s=1), 109.1) == {"s"}  # s has restarted and counts from 1
    assert reports.read({}, 110.0) == {}


def test_sources_that_have_gone_are_forgotten() -> None:
    reports = LastReports()
    for number in range(1000):
        reports.read(numbered(**{f"r{number}": 1.0}), number)
    assert len(reports._came) == 1


def test_the_newest_settings_are_those_that_a_router_turned_to_last() -> None:
    newest = NewestSettings(5.0)
    seen = [
        newest.read(routers, now_s)
        for now_s, routers in enumerate(
            [
                {"r": A, "s": A},
                {"r": B, "s": A},  # r is the first to turn
                {"r": B},  # s is left out for a moment
                {"r": B, "s": A},
                {"r": B, "s": B},
                {"r": B, "s": B, "t": A},  # t has started with an older file
                {"r": B, "s": B, "t": B},
                {"r": B, "s": A, "t": B},  # the file is taken back
                {"r": A, "s": A, "t": A},
            ]
        )
    ]
    assert seen == [A, B, B, B, B, B, B, A, A]


def test_a_router_that_turns_while_it_is_left_out_is_seen_to_turn() -> None:
    newest = NewestSettings(5.0)
    assert newest.read({"r": A, "s": A}, 0.0) == A
    assert newest.read({}, 1.0) == A
    assert newest.read({"r": B, "s": A}, 2.0) == B


def test_a_router_that_was_silent_for_long_does_not_bring_back_old_settings() -> None:
    newest = NewestSettings(5.0)
    newest.read({"r": A, "s": A}, 0.0)
    assert newest.read({"r": B}, 1.0) == B
    assert newest.read({"r": B, "s": A}, 60.0) == B


def test_if_no_router_has_the_newest_settings_any_more_others_count() -> None:
    newest = NewestSettings(5.0)
    newest.read({"r": A, "s": A}, 0.0)
    assert newest.read({"r": A, "s": B}, 1.0) == B
    assert newest.read({"r": A}, 2.0) == A
    assert newest.read({}, 3.0) == A


def test_load_and_drain_times_do_not_count_as_settings() -> None:
    assert NewestSettings(5.0).read({"r": A | {"report": 3.0, "drain_s:g": 0.1, "offered_load_s:g": 7.0}}, 0.0) == A
