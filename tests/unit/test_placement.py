"""Which replica gets a chunk."""

from rankfleet.scheduling.placement import Books


def place(books: Books, request: str, ms: float, *ongoing: int | None) -> str:
    """Choose among a, b, … and enter it."""
    names = "abc"[: len(ongoing)]
    chosen = names[books.choose(names, ongoing)]
    books.add(chosen, request, ms)
    return chosen


def test_chunks_of_one_request_go_to_different_replicas() -> None:
    for n in (2, 3):
        books = Books()
        assert len({place(books, "r", 5.0, *[0] * n) for _ in range(n)}) == n


def test_the_least_predicted_time_wins_and_not_the_fewest_chunks() -> None:
    books = Books()
    books.add("a", "large", 100.0)
    chosen = [place(books, f"small{i}", 20.0, 1, 0) for i in range(5)]
    assert chosen == ["b", "b", "b", "b", "b"]
    assert place(books, "next", 20.0, 1, 5) in "ab"  # 100 ms each
    assert place(books, "after", 20.0, 1, 5) in "ab"


def test_idle_replicas_take_turns() -> None:
    books = Books()
    chosen = []
    for i in range(4):
        chosen.append(place(books, str(i), 5.0, 0, 0))
        books.close(chosen[-1], str(i))
    assert sorted(chosen) == ["a", "a", "b", "b"]


def test_where_nothing_is_known_of_times_the_fewest_chunks_win() -> None:
    books = Books()
    books.add("a", "x", 0.0)
    assert place(books, "y", 0.0, 1, 0) == "b"
    assert {place(books, "z", 0.0, None, None), place(books, "z", 0.0, None, None)} == {"a", "b"}


def test_the_work_of_other_senders_counts() -> None:
    books = Books()
    books.add("a", "x", 10.0)
    # At b are two chunks of others, about 10 ms each.
    assert place(books, "y", 10.0, 1, 2) == "a"
    assert place(books, "z", 10.0, 2, 4) == "a"  # 20 ms and 40


def test_what_is_back_is_forgotten() -> None:
    books = Books()
    books.add("a", "r", 10.0)
    books.add("a", "r", 30.0)
    assert books.close("a", "r") + books.close("a", "r") == 40.0
    assert books.close("a", "r") == 0.0
    assert books.close("b", "never heard of") == 0.0
    assert [place(books, str(i), 5.0, 0, 0) for i in range(2)] in (["a", "b"], ["b", "a"])
