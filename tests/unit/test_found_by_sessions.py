"""What random sessions (test_random_session.py) have found, each as a plain test."""

import asyncio
import math
from contextvars import Context, ContextVar

import numpy as np
import pytest

from rankfleet.core.errors import Expired, ScoringFailed, Unavailable
from rankfleet.core.messages import Chunk, ChunkScores
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.router.dispatch import Dispatcher
from rankfleet.router.fleet import FleetView
from rankfleet.router.ledger import Ledger
from rankfleet.router.replica_record import Entry
from rankfleet.router.retry import Attempts, Deadline
from rankfleet.simulate.virtual_time import VirtualLoop, run
from tests.unit.fakes import fleet, one_tier

PAIR = TokenizedPairs(np.zeros(8, np.int32), np.array([8], np.int32), np.array([4], np.int32))


def test_a_task_on_the_virtual_loop_keeps_its_context() -> None:
    variable: ContextVar[int] = ContextVar("variable")

    async def set_it_and_read_it_later() -> int:
        variable.set(7)
        await asyncio.sleep(1.0)
        return variable.get()

    assert Context().run(run, set_it_and_read_it_later()) == 7  # an empty context is false


def test_a_replica_is_not_silent_while_a_chunk_still_waits_for_it_to_start() -> None:
    ledger = Ledger()
    ledger.open(entry := Entry(10.0, 100.0, sent_s=0.0), 0.0)
    ledger.place(entry, "a", 20.0)
    assert list(ledger.silent(25.0)) == []
    assert list(ledger.silent(25.1)) == [entry]


def test_a_ledger_without_chunks_has_no_backlog() -> None:
    ledger = Ledger()
    entries = [Entry(ms, 100.0, 0.0) for ms in (0.1, 0.2, 0.3)]
    for entry in entries:
        ledger.open(entry, 0.0)
    for entry in entries:
        ledger.close(entry, 0.0)
    assert ledger.backlog_s(1, 0.0) == 0.0  # 0.1 + 0.2 + 0.3 − 0.1 − 0.2 − 0.3 is 5.6e-17


def test_a_chunk_that_is_sent_after_its_deadline_waits_for_the_rest_of_the_grace() -> None:
    assert Deadline(9.0).wait_s(9.25) == pytest.approx(0.75)
    assert Deadline(9.0).wait_s(11.0) == 0.0


def test_a_chunk_of_before_does_not_count_at_a_replica_that_serve_lists_again() -> None:
    ledger = Ledger(running=frozenset("a"))
    old, *new = [Entry(10.0, 100.0, 0.0, frontier=one_tier(10.0)) for _ in range(3)]
    ledger.open(old, 0.0)
    ledger.place(old, "a", 0.0)
    ledger.update(frozenset())
    ledger.update(frozenset("a"))
    for entry in new:
        ledger.open(entry, 0.0)
        ledger.place(entry, "a", 0.0)
    ledger.close(old, 0.0)
    assert ledger.backlog_s(1, 0.0) == pytest.approx(0.02)


def test_a_replica_whose_queue_was_too_long_is_asked_again_when_another_fails() -> None:
    attempts = Attempts("demo", Deadline(1.0, grace_s=math.inf), first_s=0.0, min_ms=5.0)
    assert attempts.after(Expired("the budget ended in the queue"), "a", has_other=True, now_s=1.0) == 0.0
    assert attempts.after(ScoringFailed("out of memory"), "b", has_other=True, now_s=1.1) == 0.0
    assert attempts.tried == ["b"]


class SilentGroup:
    """Places each chunk at once, and never answers."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
        loop = asyncio.get_running_loop()
        self._ledger.place(entry, "a", loop.time())
        return await loop.create_future()


def test_silence_is_noticed_although_another_chunk_expires_in_the_same_round_of_the_event_loop() -> None:
    loop = VirtualLoop()  # type: ignore[abstract]
    config, ledger = fleet(), Ledger()
    dispatcher = Dispatcher(config, FleetView(config, {"demo": ledger}), {"demo": SilentGroup(ledger)}, loop.time)
    # The check at 5.5 s finds both silent. The first expires at 5.6 s. Both timers fire late, at 5.7 s.
    first = loop.create_task(dispatcher.score(("large",), PAIR, Deadline(4.6)))
    second = loop.create_task(dispatcher.score(("large",), PAIR))
    loop.run_until_complete(asyncio.sleep(5.4))
    loop.stall(0.3)
    loop.run_until_complete(asyncio.wait({first, second}))
    with pytest.raises(Expired):
        first.result()
    with pytest.raises(Unavailable, match="4 replicas went away"):
        second.result()


class LateGroup:
    """Lets the chunks of a cut request expire, and keeps what it was sent."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []

    async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
        self.chunks.append(chunk)
        if chunk.request is not None:
            raise Expired("the budget ended in the queue")
        return ChunkScores(np.zeros(len(chunk.pairs), np.float32), 0.0, 0.0, "a", 0.0, chunk.tier)


def test_a_part_of_a_late_request_does_not_expire_with_the_parts_that_still_have_their_deadline() -> None:
    config, ledger, group = fleet(), Ledger(running=frozenset("ab")), LateGroup()
    each = np.full(256, 32, np.int32)
    pairs = TokenizedPairs(np.zeros(each.sum(), np.int32), each, each)

    async def score() -> None:
        clock = asyncio.get_running_loop().time
        dispatcher = Dispatcher(config, FleetView(config, {"demo": ledger}), {"demo": group}, clock)
        await dispatcher.score(("large",), pairs, Deadline(0.5, grace_s=math.inf))

    run(score())
    assert [(chunk.slack_ms, chunk.request is None) for chunk in group.chunks] == [
        (497.0, False),
        (997.0, True),
        (497.0, False),
        (997.0, True),
    ]
