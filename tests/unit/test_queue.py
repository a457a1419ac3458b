import math

from rankfleet.scheduling.binding import Waiting
from rankfleet.scheduling.ladder import Option, ladder
from rankfleet.scheduling.queue import TokenQueue


def put(queue: TokenQueue[str], item: str, deadline: float = math.inf, tier: str = "t", tokens: int = 10) -> None:
    """Ten tokens take a millisecond."""
    queue.put(Waiting(tokens, deadline, ladder([Option(tier, 0.5, 0.0, tokens / 10)]), item), 0.0)


def items(queue: TokenQueue[str], now_s: float = 0.0) -> list[str]:
    return [waiting.item for waiting in queue.take(now_s).batch]


def test_earliest_deadline_first_then_order_of_arrival() -> None:
    queue: TokenQueue[str] = TokenQueue(10)
    for name, deadline in (("late", 9.0), ("none", math.inf), ("soon", 1.0), ("none too", math.inf)):
        put(queue, name, deadline)
    assert [items(queue) for _ in range(4)] == [["soon"], ["late"], ["none"], ["none too"]]
    assert items(queue) == []


def test_a_batch_holds_one_tier_and_at_most_the_bound() -> None:
    queue: TokenQueue[str] = TokenQueue(30)
    for name, tier in (("a1", "a"), ("b1", "b"), ("a2", "a"), ("a3", "a"), ("a4", "a"), ("b2", "b")):
        put(queue, name, tier=tier)
    assert items(queue) == ["a1", "a2", "a3"]
    assert items(queue) == ["b1", "b2"]
    assert items(queue) == ["a4"]


def test_a_batch_ends_where_the_next_in_line_does_not_fit() -> None:
    queue: TokenQueue[str] = TokenQueue(30)
    put(queue, "first", tokens=20)
    put(queue, "large", tokens=20)
    put(queue, "small", tokens=10)
    assert items(queue) == ["first"]
    assert items(queue) == ["large", "small"]


def test_a_chunk_above_the_bound_goes_alone() -> None:
    queue: TokenQueue[str] = TokenQueue(30)
    put(queue, "huge", deadline=1.0, tokens=500)
    put(queue, "small")
    assert items(queue) == ["huge"]
    assert items(queue) == ["small"]


def test_backlog_is_the_predicted_time_of_all_that_waits() -> None:
    queue: TokenQueue[str] = TokenQueue(30)
    put(queue, "a", 1.0, tokens=20)
    put(queue, "b", 2.0, tokens=30)
    assert queue.backlog_ms == 5.0
    queue.take(0.0)
    assert queue.backlog_ms == 3.0


def test_what_is_late_already_is_given_up() -> None:
    # 100 tokens take 10 ms.
    queue: TokenQueue[str] = TokenQueue(100)
    for name, deadline in (("lost", 4.0), ("lost too", 4.5), ("just lost", 5.009), ("urgent", 5.25)):
        put(queue, name, deadline, tokens=100)
    put(queue, "patient", tokens=100)
    taken = queue.take(5.0)
    assert [w.item for w in taken.hopeless] == ["lost", "lost too", "just lost"]
    assert [w.item for w in taken.batch] == ["urgent"]
    assert items(queue, 5.0) == ["patient"]
    assert queue.backlog_ms == 0.0


def test_what_nobody_waits_for_is_forgotten() -> None:
    queue: TokenQueue[str] = TokenQueue(100)
    put(queue, "gone", 1.0)
    put(queue, "kept", 2.0)
    queue.remove(lambda item: item == "gone")
    assert queue.backlog_ms == 1.0
    assert items(queue) == ["kept"]


def test_one_client_after_another_gets_the_best_tier_however_fast_they_come() -> None:
    queue: TokenQueue[str] = TokenQueue(1000)
    steps = ladder([Option("small", 0.4, 0.0, 1.0), Option("large", 0.6, 0.0, 100.0)])

    def tier_of(idle: bool) -> set[str]:
        tiers = set()
        for i in range(50):
            now_s = 0.002 * i
            queue.put(Waiting(10, now_s + 0.2, steps, "one"), now_s, idle)
            tiers.add(queue.take(now_s).bound.tier)
        return tiers

    assert tier_of(idle=True) == {"large"}
    assert "small" in tier_of(idle=False)
