"""What the controller tells people of the fleet: what is kept of decisions, and how it gets to who reads it."""

import asyncio
import logging
from collections.abc import Callable

import pytest

from rankfleet.autoscaler.board import Board, BoardKeeper, Change, GroupBoard, parse_board, troubles_in
from rankfleet.autoscaler.policy import Decision
from rankfleet.autoscaler.reports import Report, router_report
from rankfleet.cluster.fleet_board import KEY, WAIT_S, BoardReader, BoardWriter
from rankfleet.core.autoscaling import Autoscaling
from rankfleet.estimates.load import OfferedLoad
from tests.unit.fakes import FakeClock, FakeStore, on_virtual_time

GROW = Decision(4, "panic", "a surge: need 3.28 replicas")
STAY = Decision(4, "steady", "enough for the load: need 3.10 replicas")


def test_the_last_change_stays_beside_the_present_decision() -> None:
    keeper = BoardKeeper()
    assert keeper.decided("demo", GROW, 2, 2, 100.0)
    assert not keeper.decided("demo", GROW, 2, 2, 101.0), "Serve has not followed yet"
    assert not keeper.decided("demo", STAY, 4, 3, 102.0)
    keeper.fixed("big", 2, 1)
    board = keeper.board(["demo", "big"], {}, 112.0)
    assert board.groups["demo"] == GroupBoard(
        "steady", STAY.reason, 4, 3, Change(1, 12.0, 2, 4, "a surge: need 3.28 replicas")
    )
    assert board.groups["big"] == GroupBoard(
        "fixed", "the fleet file sets the same number for `min` and `max`", 2, 1, None
    )
    assert parse_board(board.to_json()) == board


def test_changes_are_counted_and_the_same_one_may_come_again() -> None:
    keeper = BoardKeeper()
    for target, after in ((1, 2), (2, 1), (1, 2)):
        assert keeper.decided("demo", Decision(after, "growing", "why"), target, target, 0.0)
        assert not keeper.decided("demo", Decision(after, "steady", "why"), after, after, 0.5)
    assert keeper.board(["demo"], {}, 2.0).groups["demo"].last_change == Change(3, 2.0, 1, 2, "why")
    assert keeper.board([], {}, 2.0).groups == {}, "the group is gone"


@pytest.mark.parametrize("text", [None, "", "no JSON", "[]", '{"groups": {"demo": 1}}', '{"groups": {"demo": {}}}'])
def test_what_is_no_board_is_an_empty_one(text: str | None) -> None:
    assert parse_board(text) == Board()


def test_routers_report_what_they_refused_and_ejected() -> None:
    report = router_report(
        7, OfferedLoad.of(["demo"]), {"demo": 0.1}, Autoscaling(), {}, {"demo": 1, "big": 0}, {"overloaded": 30}
    )
    assert troubles_in({"r": Report(report, True)}) == {
        "r": {"ejected:demo": 1, "ejected:big": 0, "refused:overloaded": 30}
    }


def test_the_board_is_written_once_a_second_and_never_twice_at_a_time() -> None:
    store, waiting = FakeStore(), list[Callable[[], None]]()
    writer = BoardWriter(store, start=waiting.append)
    boards = [Board(troubles={"r": {"refused:overloaded": n}}) for n in range(5)]
    writer.write(lambda: boards[0], 10.0)
    writer.write(lambda: boards[1], 12.0)  # the store is slow
    waiting.pop()()
    assert (waiting, parse_board(store.texts[KEY])) == ([], boards[0])
    writer.write(lambda: boards[2], 12.1)
    waiting.pop()()
    writer.write(lambda: boards[3], 13.0)
    assert waiting == []
    writer.write(lambda: boards[4], 13.2)
    waiting.pop()()
    assert parse_board(store.texts[KEY]) == boards[4]


def test_a_board_that_cannot_be_made_is_logged_and_the_next_one_written(caplog: pytest.LogCaptureFixture) -> None:
    store = FakeStore()
    writer = BoardWriter(store, start=lambda write: write())
    with caplog.at_level(logging.WARNING):
        writer.write(lambda: Board(groups={"demo": 1 / 0}), 10.0)  # type: ignore[dict-item]
    assert "division by zero" in caplog.text
    writer.write(Board, 11.0)
    assert parse_board(store.texts[KEY]) == Board()


@on_virtual_time
async def test_a_reader_asks_once_a_second_and_ages_go_on() -> None:
    clock, store = FakeClock(), FakeStore()
    reader = BoardReader(store, clock)
    assert await reader.read() == Board()
    group = GroupBoard("steady", "enough", 2, 2, Change(1, 12.0, 1, 2, "a surge"))
    store.texts[KEY] = Board({"demo": group}).to_json()
    clock.now += 0.5
    assert (await reader.read(), store.asked) == (Board(), 1)
    clock.now += 0.5
    assert (await reader.read()).groups == {"demo": group}
    clock.now += 0.25
    assert (await reader.read()).groups == {"demo": group.older(0.25)}
    store.fails = True
    clock.now += 9.75
    assert (await reader.read()).groups["demo"].last_change == Change(1, 22.0, 1, 2, "a surge")
    assert store.asked == 3


@on_virtual_time
async def test_a_store_that_hangs_holds_no_reply_up_and_is_not_asked_again() -> None:
    clock, asked = FakeClock(), []

    async def hang(*call: object) -> None:
        asked.append(call)
        await asyncio.Event().wait()

    reader = BoardReader(FakeStore(), clock, hang)
    assert await reader.read() == Board()
    clock.now += 60.0
    assert await reader.read() == Board()
    assert asyncio.get_running_loop().time() == 2 * WAIT_S
    assert len(asked) == 1
