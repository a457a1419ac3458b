"""Which replica gets a chunk."""

import pytest

from rankfleet.router.inflight import BacklogReport, InFlight


def place(books: InFlight, request: str, ms: float, *others_ms: float) -> str:
    """Choose among a, b, … and enter it."""
    names = "abc"[: len(others_ms)]
    chosen = names[books.choose(names, others_ms)]
    books.add(chosen, request, ms)
    return chosen


def test_chunks_of_one_request_go_to_different_replicas() -> None:
    for n in (2, 3):
        books = InFlight()
        assert len({place(books, "r", 5.0, *[0] * n) for _ in range(n)}) == n


def test_the_least_predicted_time_wins_and_not_the_fewest_chunks() -> None:
    books = InFlight()
    books.add("a", "large", 100.0)
    chosen = [place(books, f"small{i}", 20.0, 0, 0) for i in range(5)]
    assert chosen == ["b", "b", "b", "b", "b"]
    assert place(books, "next", 20.0, 0, 0) in "ab"  # 100 ms each
    assert place(books, "after", 20.0, 0, 0) in "ab"


def test_idle_replicas_take_turns() -> None:
    books = InFlight()
    chosen = []
    for i in range(4):
        chosen.append(place(books, str(i), 5.0, 0, 0))
        books.close(chosen[-1], str(i))
    assert sorted(chosen) == ["a", "a", "b", "b"]


def test_without_predicted_times_the_fewest_chunks_win() -> None:
    books = InFlight()
    books.add("a", "x", 0.0)
    assert place(books, "y", 0.0, 0, 0) == "b"
    assert {place(books, "z", 0.0, 0, 0), place(books, "z", 0.0, 0, 0)} == {"a", "b"}


def test_work_of_other_routers_counts() -> None:
    books = InFlight()
    books.add("a", "x", 10.0)
    assert place(books, "y", 10.0, 0, 21) == "a"  # 10 ms of one's own, 21 of others
    assert place(books, "z", 10.0, 0, 21) == "a"  # 20 and 21
    assert place(books, "last", 10.0, 0, 21) == "b"


def test_a_report_drains_with_time() -> None:
    report = BacklogReport(at_s=10.0, backlog_s=0.4, others_s=0.1)
    assert [report.left(now_s) for now_s in (10.0, 10.1, 10.4, 11.0)] == pytest.approx([1.0, 0.75, 0.0, 0.0])
    assert BacklogReport(10.0, 0.0).left(10.0) == 0.0


def test_chunks_that_are_done_are_forgotten() -> None:
    books = InFlight()
    books.add("a", "r", 10.0)
    books.add("a", "r", 30.0)
    assert books.close("a", "r") + books.close("a", "r") == 40.0
    assert books.close("a", "r") == 0.0
    assert books.close("b", "never heard of") == 0.0
    assert [place(books, str(i), 5.0, 0, 0) for i in range(2)] in (["a", "b"], ["b", "a"])
