"""What `rankfleet serve` says while it runs."""

from dataclasses import replace
from typing import Any

from rankfleet.autoscaler.board import Board, Change, GroupBoard
from rankfleet.cli.news import News, View

CHANGE = Change(1, 0.5, 2, 4, "a surge: need 3.28 replicas")


def scaled(change: Change | None) -> View:
    return View(Board({"demo": GroupBoard("steady", "enough", 4, 4, change)}))


def counted(**routers: dict[str, float]) -> View:
    return View(Board(troubles=routers))


def told(news: News, *views: tuple[float, View]) -> list[Any]:
    return [news.lines(view, now_s) for now_s, view in views]


def test_nothing_is_said_where_nothing_happens() -> None:
    quiet = View(
        Board({"demo": GroupBoard("steady", "enough", 1, 1)}, {"r": {"refused:overloaded": 3, "ejected:demo": 0}})
    )
    assert told(News(0.0), *((now_s, quiet) for now_s in (2.0, 4.0, 60.0))) == [[], [], []]


def test_a_change_is_told_once_with_its_reason() -> None:
    view, later = scaled(CHANGE), scaled(replace(CHANGE, age_s=2.5))
    line = "group demo scaled 2 → 4, a surge: need 3.28 replicas"
    assert told(News(0.0), (2.0, scaled(None)), (4.0, view), (6.0, later)) == [
        [],
        [line],
        [],
    ]


def test_changes_within_ten_seconds_are_one_line_after_them() -> None:
    back = scaled(Change(2, 0.5, 4, 2, "fewer have been enough"))
    seen = told(News(0.0), (2.0, scaled(CHANGE)), (4.0, back), (11.9, back), (12.0, back), (14.0, back))
    assert seen[1:] == [[], [], ["group demo scaled 4 → 2, fewer have been enough"], []]


def test_a_controller_that_starts_again_counts_from_one() -> None:
    again = scaled(Change(1, 0.5, 1, 2, "the load needs more"))
    assert told(News(0.0), (2.0, scaled(CHANGE)), (13.0, scaled(None)), (30.0, again))[1:] == [
        [],
        ["group demo scaled 1 → 2, the load needs more"],
    ]


def test_a_lost_replica_is_told_and_that_it_is_back() -> None:
    lost = View(lost={"group demo": 1})
    assert told(News(0.0), (2.0, View()), (4.0, lost), (6.0, lost), (20.0, View()), (22.0, View())) == [
        [],
        ["group demo has lost a replica, 1 run; another one is started"],
        [],
        ["group demo has all its replicas again"],
        [],
    ]


def test_an_ejected_replica_is_told_and_that_none_is_any_more() -> None:
    ejected = counted(r1={"ejected:demo": 1}, r2={"ejected:demo": 0})
    free = counted(r1={"ejected:demo": 0}, r2={"ejected:demo": 0})
    assert told(News(0.0), (2.0, free), (4.0, ejected), (6.0, ejected), (9.0, free), (14.0, free)) == [
        [],
        ["group demo: 1 ejected for lost or failed work, others are preferred for a while"],
        [],
        [],
        ["group demo: none is ejected any more"],
    ]


def test_a_burst_of_refusals_is_told_with_its_codes() -> None:
    few = counted(r1={"refused:overloaded": 4.0})
    burst = counted(r1={"refused:overloaded": 11.0, "refused:expired": 2.0}, r2={"refused:overloaded": 3.0})
    more = counted(r1={"refused:overloaded": 31.0, "refused:expired": 2.0}, r2={"refused:overloaded": 3.0})
    assert told(News(0.0), (2.0, few), (4.0, burst), (6.0, more), (14.0, more), (26.0, more)) == [
        [],
        ["16 requests refused in 4 s: overloaded 14, expired 2"],
        [],
        ["20 requests refused in 10 s: overloaded 20"],
        [],
    ]


def test_refusals_now_and_then_are_no_burst() -> None:
    views = [(2.0 * step, counted(r1={"refused:overloaded": float(step)})) for step in range(1, 60)]
    assert told(News(0.0), *views) == [[]] * 59


def test_a_replica_that_cannot_start_is_told_once() -> None:
    broken = View(failures=["group demo does not start: no space left"])
    assert told(News(0.0), (2.0, broken), (30.0, broken)) == [
        ["warning: group demo does not start: no space left"],
        [],
    ]
