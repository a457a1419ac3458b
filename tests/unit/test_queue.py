"""The queue of a replica: order, expiry, siblings, and the share of best-effort work."""

import math
import random

import pytest

from rankfleet.core.sections import Scheduling
from rankfleet.estimates.frontier import Frontier
from rankfleet.replica.batching import QueuedChunk
from rankfleet.replica.queue import TokenQueue, next_deficit_ms
from tests.unit.fakes import tier_option


def put(
    queue: TokenQueue[str],
    item: str,
    deadline: float = math.inf,
    tier: str = "t",
    tokens: int = 10,
    request: str | None = None,
    now_s: float = 0.0,
) -> int:
    """Ten tokens take a millisecond. Times are in seconds."""
    frontier = Frontier.of([tier_option(tier, 0.5, tokens / 10)])
    return queue.put(QueuedChunk(tokens, deadline, frontier, item, request), now_s)


def items(queue: TokenQueue[str], now_s: float = 0.0) -> list[str]:
    return [chunk.item for chunk in queue.take(now_s).batch]


def test_earliest_deadline_first_then_order_of_arrival() -> None:
    queue: TokenQueue[str] = TokenQueue(10)
    for name, deadline in (("late", 9.0), ("none", math.inf), ("soon", 1.0), ("none too", math.inf)):
        put(queue, name, deadline)
    assert [items(queue) for _ in range(4)] == [["soon"], ["late"], ["none"], ["none too"]]
    assert items(queue) == []


def test_a_batch_has_one_tier_and_at_most_max_tokens() -> None:
    queue: TokenQueue[str] = TokenQueue(30)
    for name, tier in (("a1", "a"), ("b1", "b"), ("a2", "a"), ("a3", "a"), ("a4", "a"), ("b2", "b")):
        put(queue, name, tier=tier)
    assert items(queue) == ["a1", "a2", "a3"]
    assert items(queue) == ["b1", "b2"]
    assert items(queue) == ["a4"]


def test_a_batch_ends_at_the_first_chunk_that_does_not_fit() -> None:
    queue: TokenQueue[str] = TokenQueue(30)
    put(queue, "first", tokens=20)
    put(queue, "large", tokens=20)
    put(queue, "small", tokens=10)
    assert items(queue) == ["first"]
    assert items(queue) == ["large", "small"]


def test_a_chunk_above_max_tokens_is_scored_alone() -> None:
    queue: TokenQueue[str] = TokenQueue(30)
    put(queue, "huge", deadline=1.0, tokens=500)
    put(queue, "small")
    assert items(queue) == ["huge"]
    assert items(queue) == ["small"]


def test_backlog_is_the_predicted_time_of_all_waiting_chunks() -> None:
    queue: TokenQueue[str] = TokenQueue(30)
    put(queue, "a", 1.0, tokens=20)
    put(queue, "b", 2.0, tokens=30)
    assert queue.backlog_ms == 5.0
    queue.take(0.0)
    assert queue.backlog_ms == 3.0


def test_chunks_that_are_late_already_are_infeasible() -> None:
    # 100 tokens take 10 ms.
    queue: TokenQueue[str] = TokenQueue(100)
    for name, deadline in (("lost", 4.0), ("lost too", 4.5), ("just lost", 5.009), ("urgent", 5.25)):
        put(queue, name, deadline, tokens=100)
    put(queue, "best effort", tokens=100)
    taken = queue.take(5.0)
    assert [chunk.item for chunk in taken.infeasible] == ["lost", "lost too", "just lost"]
    assert [chunk.item for chunk in taken.batch] == ["urgent"]
    assert items(queue, 5.0) == ["best effort"]
    assert queue.backlog_ms == 0.0


def test_a_cancelled_chunk_leaves_the_queue_and_the_backlog() -> None:
    queue: TokenQueue[str] = TokenQueue(100)
    gone = put(queue, "gone", 1.0)
    kept = put(queue, "kept", 2.0)
    queue.cancel(gone)
    assert (len(queue), queue.backlog_ms) == (1, 1.0)
    assert items(queue) == ["kept"]
    queue.cancel(kept)  # has left already
    assert len(queue) == 0


def test_an_infeasible_chunk_expires_while_the_device_is_busy() -> None:
    # 100 tokens take 10 ms: the latest start is 10 ms before the deadline.
    queue: TokenQueue[str] = TokenQueue(100)
    for name, deadline in (("soon", 5.0), ("large", 5.005), ("best effort", math.inf)):
        put(queue, name, deadline, tokens=200 if name == "large" else 100)
    assert queue.latest_start_s == pytest.approx(4.985)
    assert queue.expire(4.98) == []
    assert [chunk.item for chunk in queue.expire(4.986)] == ["large"]
    assert queue.latest_start_s == pytest.approx(4.99)
    assert [chunk.item for chunk in queue.expire(5.0)] == ["soon"]
    assert queue.latest_start_s == math.inf
    assert (queue.expire(1e9), queue.backlog_ms) == ([], 10.0)


def test_chunks_of_one_request_are_adjacent() -> None:
    queue: TokenQueue[str] = TokenQueue(10)
    for name, deadline, request in (("a1", 9.0, "a"), ("b", 9.001, None), ("a2", 9.002, "a"), ("early", 8.0, None)):
        put(queue, name, deadline, request=request)
    assert [items(queue) for _ in range(4)] == [["early"], ["a1"], ["a2"], ["b"]]
    # Once all chunks have left, a request of that name is a new one.
    put(queue, "c", 1.0)
    put(queue, "a3", 2.0, request="a")
    assert items(queue) == ["c"]


def test_if_one_chunk_is_infeasible_its_siblings_are_not_scored() -> None:
    # A millisecond each; the third of a would end at 3 ms.
    queue: TokenQueue[str] = TokenQueue(10)
    for name in ("a1", "a2", "a3"):
        put(queue, name, 0.0025, request="a")
    put(queue, "b", 0.004)
    taken = queue.take(0.0)
    assert [chunk.item for chunk in taken.batch] == ["b"]
    assert [chunk.item for chunk in taken.infeasible] == ["a1", "a2", "a3"]
    assert (len(queue), queue.backlog_ms) == (0, 0.0)


def test_a_request_of_many_chunks_is_one_arrival() -> None:
    queue: TokenQueue[str] = TokenQueue(10)
    put(queue, "usual", 0.1)
    for _ in range(9):
        put(queue, "large", 3600.0, request="a")
    assert queue._arrivals.stats.typical_budget_ms == 100.0


def test_a_request_is_removed_and_expires_with_all_its_chunks() -> None:
    queue: TokenQueue[str] = TokenQueue(10)
    put(queue, "a1", 1.0, request="a")
    put(queue, "b", 1.0)
    put(queue, "a2", 1.0, request="a")
    assert [chunk.item for chunk in queue.remove_request("a")] == ["a1", "a2"]
    put(queue, "c1", 5.0, tokens=10, request="c")
    put(queue, "c2", 5.0, tokens=30_000, request="c")  # 3 s: lost at 2.5
    assert [chunk.item for chunk in queue.expire(2.5)] == ["b", "c1", "c2"]


def test_best_effort_work_gets_its_share_of_the_device_time() -> None:
    """Urgent chunks of 10 ms keep coming; best-effort chunks take 20 ms and have a share of a fifth. Their deficit is
    16 ms after 80 ms of urgent work, and 20 after 100 ms."""
    queue: TokenQueue[str] = TokenQueue(200, scheduling=Scheduling(best_effort_share=0.2))
    for _ in range(3):
        put(queue, "best effort", tokens=200)
    order, now_s = [], 0.0
    for _ in range(24):
        put(queue, "urgent", now_s + 0.1, tokens=100, now_s=now_s)
        taken = queue.take(now_s)
        order.append(taken.batch[0].item)
        now_s += taken.decision.predicted_ms / 1e3
    # The urgent chunk that arrived while a best-effort one ran is scored with the next: two fit into a batch of 200.
    assert [i for i, name in enumerate(order) if name == "best effort"] == [10, 18]
    assert queue.backlog_ms == pytest.approx(20)


def test_without_a_share_best_effort_work_waits_for_all_other_work() -> None:
    queue: TokenQueue[str] = TokenQueue(100, scheduling=Scheduling(best_effort_share=0.0))
    put(queue, "best effort", tokens=100)
    for turn in range(50):
        put(queue, "urgent", turn / 100 + 0.05, tokens=100, now_s=turn / 100)
        assert items(queue, turn / 100) == ["urgent"]
    assert items(queue, 1.0) == ["best effort"]


def test_no_deficit_accrues_while_no_best_effort_chunk_waits() -> None:
    queue: TokenQueue[str] = TokenQueue(100, scheduling=Scheduling(best_effort_share=0.5))
    for turn in range(9):
        put(queue, "urgent", turn / 100 + 0.05, tokens=100, now_s=turn / 100)
        queue.take(turn / 100)
    assert queue.deficit_ms == 0.0


def test_a_deficit_grows_by_the_share_and_falls_by_the_time_received() -> None:
    assert next_deficit_ms(5.0, batch_ms=10.0, best_effort_ms=0.0, share=0.5) == 10.0
    assert next_deficit_ms(5.0, batch_ms=10.0, best_effort_ms=10.0, share=0.5) == 0.0
    assert next_deficit_ms(8.0, batch_ms=10.0, best_effort_ms=4.0, share=0.5) == 9.0


def test_the_device_is_never_idle_while_a_feasible_chunk_waits() -> None:
    """Random work on a virtual clock. Whenever the device is free and some chunk alone would be in time there is a
    batch; and every chunk leaves once, in a batch or as infeasible."""
    rng = random.Random(3)
    queue: TokenQueue[int] = TokenQueue(120)
    arrivals = sorted(rng.uniform(0, 3) for _ in range(600))
    now_s, free_s, out, waiting = 0.0, 0.0, [], {}
    for number, now_s in enumerate([*arrivals, math.inf]):
        while len(queue) and free_s < now_s:
            taken = queue.take(free_s)
            feasible = [n for n, (deadline_s, ms) in waiting.items() if free_s + ms / 1e3 <= deadline_s]
            assert bool(taken.batch) == bool(feasible)
            for chunk in (*taken.batch, *taken.infeasible):
                out.append(chunk.item)
                del waiting[chunk.item]
            free_s += taken.decision.predicted_ms / 1e3
        if now_s == math.inf:
            break
        free_s = max(free_s, now_s)
        tokens, budget_s = rng.randint(5, 100), rng.choice([0.01, 0.03, 0.2, math.inf])
        waiting[number] = (now_s + budget_s, tokens / 10)
        frontier = Frontier.of([tier_option("t", 0.5, tokens / 10)])
        queue.put(QueuedChunk(tokens, now_s + budget_s, frontier, number), now_s)
    assert sorted(out) == list(range(600))


def test_requests_that_find_the_replica_idle_get_the_best_tier_however_often_they_come() -> None:
    queue: TokenQueue[str] = TokenQueue(1000)
    frontier = Frontier.of([tier_option("small", 0.4, 1.0), tier_option("large", 0.6, 100.0)])

    def tiers_of(device_idle: bool) -> set[str]:
        tiers = set()
        for i in range(50):
            now_s = 0.002 * i
            queue.put(QueuedChunk(10, now_s + 0.2, frontier, "one"), now_s, device_idle)
            tiers.add(queue.take(now_s).decision.tier)
        return tiers

    assert tiers_of(device_idle=True) == {"large"}
    assert "small" in tiers_of(device_idle=False)
