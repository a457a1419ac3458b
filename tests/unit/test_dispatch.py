"""How work is cut and sent, and what becomes of chunks that replicas refuse, lose or fail: on virtual time."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from rankfleet.core.config import FleetConfig
from rankfleet.core.errors import Expired, NotHosted, RankfleetError, ReplicaLost, ScoringFailed, Unavailable
from rankfleet.core.messages import Chunk, ChunkScores
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.core.work import Work
from rankfleet.estimates.latency import LatencyModel
from rankfleet.router.dispatch import ON_THE_WAY, Dispatcher, slices_of, usable_models
from rankfleet.router.fleet import FleetView
from rankfleet.router.ledger import Ledger
from rankfleet.router.replica_record import Entry
from rankfleet.router.retry import Deadline
from tests.unit.fakes import FakeGroup, fleet, ledgers, on_virtual_time

PAIRS = TokenizedPairs(np.arange(10, dtype=np.int32), np.array([4, 6], np.int32), np.array([2, 2], np.int32))
MANY = TokenizedPairs(np.zeros(8192, np.int32), np.full(64, 128, np.int32), np.full(64, 2, np.int32))
NOT_HOSTED = NotHosted("this replica does not host tier 'small' as the router means it")


@pytest.mark.parametrize(
    ("pairs", "replicas", "chunks"),
    [
        (100, 4, 1),  # 3,200 tokens: not worth cutting
        (128, 4, 2),  # 4,096: two of 2,048
        (1000, 2, 2),  # 32,000: one each
        (1000, 3, 3),
        (1100, 2, 4),  # 35,200: three batches, but then one replica has two of them
        (1000, 1, 2),
    ],
)
def test_every_replica_gets_the_same_number_of_chunks(pairs: int, replicas: int, chunks: int) -> None:
    slices = slices_of(np.full(pairs, 32), Work(pairs, 32 * pairs, 1024 * pairs), 16384, replicas)
    assert len(slices) == chunks
    assert max(map(len, slices)) - min(map(len, slices)) <= 1
    assert sorted(np.concatenate(slices).tolist()) == list(range(pairs))


Behaviour = Callable[[str, int], Awaitable[None]]


class Replicas(FakeGroup):
    """Replicas that the ledger chooses from. Before one answers, it does what `behave` says, which may raise; its
    arguments are the replica's name and how many chunks have been sent before."""

    def __init__(self, ledger: Ledger, names: str, behave: Behaviour) -> None:
        super().__init__()
        self.ledger, self.names, self.behave = ledger, names.split(), behave
        self.asked: list[tuple[float, str]] = []  # when, and who
        self.sent: list[Chunk] = []
        ledger.update(frozenset(self.names))

    async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
        now_s = asyncio.get_running_loop().time()
        name = self.names[self.ledger.choose(entry, self.names, now_s)]
        self.asked.append((now_s, name))
        self.sent.append(chunk)
        assert len(self.sent) < 2000, "sent again and again"
        await self.behave(name, len(self.sent) - 1)
        return replace(await super().score(chunk, entry), replica=name)


@dataclass
class Fleet:
    """A dispatcher over the replicas of one group. lost: what it was told of each lost chunk."""

    one: Dispatcher
    group: Replicas
    view: FleetView
    lost: list[str] = field(default_factory=list)

    @property
    def ledger(self) -> Ledger:
        return self.group.ledger

    async def score(self, at_s: float = math.inf, grace_s: float = 1.0) -> list[float]:
        return (await self.one.score(("small",), PAIRS, Deadline(at_s, grace_s))).logits.tolist()

    @property
    def ready(self) -> int:
        return self.view.replicas("demo", now())


def now() -> float:
    return asyncio.get_running_loop().time()


def fleet_of(
    names: str,
    behave: Behaviour,
    alpha_ms: float = 20.0,
    config: FleetConfig | None = None,
    clock: Callable[[], float] = now,
    group_type: type[Replicas] = Replicas,
) -> Fleet:
    config = config or fleet()
    view = FleetView(config, ledgers(config))
    view.update_latency({tier: LatencyModel(alpha_ms, 0, 0) for tier in config.tiers})
    group = group_type(view.ledgers["demo"], names, behave)
    lost: list[str] = []
    return Fleet(Dispatcher(config, view, {"demo": group}, clock, on_lost=lost.append), group, view, lost)


async def answers(name: str, number: int) -> None:
    """At once."""


async def hangs(name: str, number: int) -> None:
    await asyncio.Event().wait()


def dies(deaths: int, after_s: float = 0.01) -> Behaviour:
    """So many replicas, one after the other."""

    async def behave(name: str, number: int) -> None:
        if number < deaths:
            await asyncio.sleep(after_s)
            raise ReplicaLost(f"replica {name} of group demo went away: ActorDiedError")

    return behave


def raises(error: RankfleetError, *names: str) -> Behaviour:
    """These replicas, or all of them."""

    async def behave(name: str, number: int) -> None:
        if name in names or not names:
            raise error

    return behave


# Transfers


@on_virtual_time
async def test_what_holds_the_router_up_is_not_the_time_of_a_transfer() -> None:
    blocked_s = 0.0

    async def is_held_up(name: str, number: int) -> None:
        nonlocal blocked_s
        await asyncio.sleep(0.157)
        blocked_s += 0.15

    demo = fleet_of("r1", is_held_up)
    demo.one = Dispatcher(fleet(), demo.view, {"demo": demo.group}, now, blocked_s=lambda: blocked_s)
    await demo.score()
    assert demo.view.transfer_ms(now()) == pytest.approx(4.0), "besides 3 ms of queue and engine"


@on_virtual_time
async def test_a_chunk_counts_with_the_most_requests_that_were_on_the_way_beside_it() -> None:
    demo = fleet_of("r1", lambda name, number: asyncio.sleep(0.05 if number == 0 else 0.01))
    first = asyncio.create_task(demo.score())
    await asyncio.sleep(0.045)  # beside its end, and beside the whole of the others
    await asyncio.gather(first, *(demo.score() for _ in range(3)))
    assert demo.view.transfer_ms(now(), others=1) == 0.0
    assert demo.view.transfer_ms(now(), others=3) == pytest.approx(47.0, abs=0.1)


# Losses


@on_virtual_time
async def test_the_next_replica_gets_the_slack_that_is_left() -> None:
    demo = fleet_of("r1 r2 r3", dies(2, after_s=0.03))
    assert await demo.score(0.1) == [4.0, 6.0]
    assert [chunk.slack_ms for chunk in demo.group.sent] == pytest.approx([97, 67, 37]), "3 ms are for the way back"
    assert {name for _, name in demo.group.asked} == {"r1", "r2", "r3"}, "none of them twice"
    assert demo.ready == 1, "the two that died count no more at once"
    assert (demo.view.backlog_s("demo", now()), demo.lost) == (0.0, ["demo", "demo"])


@on_virtual_time
async def test_without_time_for_another_replica_the_chunk_expires() -> None:
    demo = fleet_of("r1", dies(9, after_s=0.03))
    with pytest.raises(Expired, match="r1 went away, and no time was left"):
        await demo.score(0.1)
    assert len(demo.group.sent) == 3  # at 90 ms the 20 that it takes are more than the 10 left
    assert demo.view.backlog_s("demo", now()) == 0.0


@on_virtual_time
async def test_without_a_deadline_the_number_of_attempts_is_bounded() -> None:
    demo = fleet_of("r1 r2 r3 r4 r5", dies(99))
    with pytest.raises(Unavailable) as fault:
        await demo.score()
    names = ", ".join(name for _, name in demo.group.asked)
    assert f"4 replicas went away, one after the other: {names}; " in str(fault.value)
    assert [chunk.slack_ms for chunk in demo.group.sent] == [None] * 4


@on_virtual_time
async def test_without_a_deadline_the_time_is_bounded_too() -> None:
    demo = fleet_of("r1", dies(99, after_s=70.0), alpha_ms=20_000.0)  # 70 s are not five times the predicted time
    with pytest.raises(Unavailable, match="no replica has answered for 140 s; r1 went away"):
        await demo.score()
    assert len(demo.group.sent) == 2


@on_virtual_time
async def test_the_log_names_the_replica_that_was_lost(caplog: pytest.LogCaptureFixture) -> None:
    demo = fleet_of("r1", dies(1))
    await demo.score()
    cause = "replica r1 of group demo went away: ActorDiedError"
    assert [record.getMessage() for record in caplog.records] == [f"group demo lost a chunk: {cause}"]


@pytest.mark.parametrize("error", [ScoringFailed("out of memory"), Expired("the budget ended")])
@on_virtual_time
async def test_errors_of_the_only_replica_are_not_retried(error: RankfleetError) -> None:
    demo = fleet_of("r1", raises(error))
    with pytest.raises(type(error)):
        await demo.score()
    assert (len(demo.group.sent), demo.lost, demo.ready) == (1, [], 1)


@on_virtual_time
async def test_a_replica_that_never_answers_ends_with_the_deadline() -> None:
    demo = fleet_of("r1", hangs)
    with pytest.raises(Expired, match="before a replica answered"):
        await demo.score(2.0)
    assert (now(), demo.lost, demo.ledger.busy) == (3.0, [], False), "a second of grace"


@on_virtual_time
async def test_with_infinite_grace_an_expired_chunk_is_sent_again_with_twice_the_budget() -> None:
    async def expires(name: str, number: int) -> None:
        """Chunks with less than 300 ms expire in the queue, when their slack is used up."""
        slack_ms = demo.group.sent[number].slack_ms
        assert slack_ms is not None
        if slack_ms < 300:
            await asyncio.sleep(slack_ms / 1e3)
            raise Expired("the budget ended in the queue of r1")

    demo = fleet_of("r1", expires)
    assert await demo.score(0.1, grace_s=math.inf) == [4.0, 6.0]
    assert [chunk.slack_ms for chunk in demo.group.sent] == pytest.approx([97, 197, 397])
    assert demo.view.backlog_s("demo", now()) == 0.0
    with pytest.raises(Expired):
        await demo.score(now() + 0.1)


@on_virtual_time
async def test_a_chunk_that_nobody_waits_for_is_not_lost_and_counts_no_more() -> None:
    demo = fleet_of("r1 r2", hangs)
    task = asyncio.create_task(demo.score())
    await asyncio.sleep(1.0)
    assert demo.ledger.busy
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (demo.lost, demo.ledger.busy, demo.ready) == ([], False, 2)


@on_virtual_time
async def test_an_answer_reports_the_replicas_backlog() -> None:
    class Busy(Replicas):
        async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
            return replace(await super().score(chunk, entry), backlog_s=0.4)

    demo = fleet_of("r1", answers, group_type=Busy)
    await demo.score()
    assert demo.view.backlog_s("demo", now()) == pytest.approx(0.4)
    demo.ledger.open(Entry(1000.0, math.inf, now()), now())
    assert demo.view.backlog_s("demo", now()) == pytest.approx(1.4)


# Silence


@on_virtual_time
async def test_a_replica_that_falls_silent_loses_its_chunk_and_counts_again_after_its_ejection() -> None:
    async def first_hangs(name: str, number: int) -> None:
        if number == 0:
            await hangs(name, number)

    demo = fleet_of("r1 r2", first_hangs)
    assert await demo.score() == [4.0, 6.0]
    (_, lost), (at_s, other) = demo.group.asked
    assert 5.0 < at_s <= 5.5, "five seconds of silence, checked twice a second"
    assert (demo.lost, demo.ready, lost != other) == (["demo"], 1, True)
    await asyncio.sleep(4.9)
    assert (await demo.score(), demo.group.asked[-1][1], demo.ready) == ([4.0, 6.0], other, 1)
    await asyncio.sleep(0.1)
    assert demo.ready == 2
    await asyncio.gather(demo.score(), demo.score())
    assert {name for _, name in demo.group.asked[-2:]} == {"r1", "r2"}


@on_virtual_time
async def test_a_replica_that_hangs_draws_one_chunk_between_its_ejections_although_all_others_are_busy() -> None:
    async def behave(name: str, number: int) -> None:
        await (hangs(name, number) if name == "r1" else asyncio.sleep(0.05))

    demo, waiting = fleet_of("r1 r2", behave), []
    for _ in range(45 * 25):  # 40 ms apart, so that r2 is never idle
        waiting.append(asyncio.create_task(demo.score()))
        await asyncio.sleep(0.04)
    await asyncio.gather(*waiting)
    hung = [at_s for at_s, name in demo.group.asked if name == "r1" and at_s > 5.5]
    assert len(hung) == 4, "one each time that an ejection ends"


@on_virtual_time
async def test_a_request_without_a_budget_is_not_kept_waiting_by_a_stopped_replica_while_others_are_busy() -> None:
    async def behave(name: str, number: int) -> None:
        await (hangs(name, number) if name == "r1" else asyncio.sleep(0.5))

    demo = fleet_of("r1 r2 r3", behave)
    for busy in ("r2", "r3"):
        demo.ledger.answered(busy, 12.0, now())
    await demo.score()
    assert (demo.group.asked[0][1], len(demo.group.asked)) == ("r1", 2)
    assert now() <= 6.0, "five seconds of silence, and not five times the mean backlog, which is 8 s"


@on_virtual_time
async def test_a_group_of_one_replica_that_loses_its_chunks_is_asked_again_and_never_asleep() -> None:
    async def two_lost(name: str, number: int) -> None:
        if number == 0:
            await hangs(name, number)
        elif number == 1:
            raise ReplicaLost("replica r1 of group demo went away: StatusCode.UNKNOWN")
        assert (demo.ready, demo.view.awake("demo"), demo.view.asleep) == (1, True, False)

    tiers = {"tiers": ["small", "medium", "large"], "replicas": {"min": 0, "max": 1}}
    demo = fleet_of("r1", two_lost, config=fleet(groups={"demo": tiers}))
    assert await demo.score() == [4.0, 6.0]
    assert ([name for _, name in demo.group.asked], demo.lost) == (["r1", "r1", "r1"], ["demo", "demo"])
    assert not demo.ledger.is_ejected("r1", now())


@on_virtual_time
async def test_a_silent_replica_is_named_when_no_other_is_left() -> None:
    demo = fleet_of("r1", hangs)
    with pytest.raises(Unavailable, match="4 replicas went away, one after the other: r1, r1, r1, r1; ") as fault:
        await demo.score()
    assert str(fault.value.__cause__) == "r1 of group demo fell silent"


@on_virtual_time
async def test_a_replica_that_answers_other_chunks_is_not_silent() -> None:
    async def behave(name: str, number: int) -> None:
        await asyncio.sleep(12.0 if number == 0 else 4.0)

    demo = fleet_of("r1", behave)
    slow = asyncio.create_task(demo.score())
    await asyncio.sleep(0)
    for _ in range(2):
        await demo.score()
    assert not slow.done()
    assert (await slow, now(), demo.lost) == ([4.0, 6.0], 12.0, [])


@on_virtual_time
async def test_a_process_that_did_not_run_for_a_while_takes_nobody_for_silent() -> None:
    async def slow(name: str, number: int) -> None:
        await asyncio.sleep(8.0)

    slept_s = 0.0
    demo = fleet_of("r1", slow, clock=lambda: now() + slept_s)
    waiting = asyncio.create_task(demo.score())
    await asyncio.sleep(4.0)
    slept_s = 20.0
    assert (await waiting, demo.lost) == ([4.0, 6.0], [])


@on_virtual_time
async def test_a_group_without_a_replica_is_unavailable_after_a_while() -> None:
    class Starting(Replicas):
        async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
            await asyncio.Event().wait()
            raise AssertionError

    demo = fleet_of("", answers, group_type=Starting)
    with pytest.raises(Unavailable, match="group demo has had no replica for 120 s; see `ray status`"):
        await demo.score()
    assert (120.0 < now() <= 120.5, demo.lost) == (True, [])


@on_virtual_time
async def test_what_waits_for_a_group_that_is_gone_is_unavailable_as_what_comes_later() -> None:
    class Removed(Replicas):
        async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
            if now() >= 5.0:
                raise Unavailable("the group is gone")
            await asyncio.Event().wait()
            raise AssertionError

    demo = fleet_of("", answers, group_type=Removed)
    waiting = asyncio.create_task(demo.score())
    await asyncio.sleep(5.0)
    with pytest.raises(Unavailable, match="the group is gone"):
        await demo.score()
    with pytest.raises(Unavailable, match="group demo was removed or failed to deploy; see `serve status`"):
        await waiting
    assert now() <= 5.5


@on_virtual_time
async def test_a_chunk_that_waited_for_a_replica_to_start_gets_its_time() -> None:
    class Starting(Replicas):
        async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
            await asyncio.sleep(60.0)
            return await super().score(chunk, entry)

    async def takes_four_seconds(name: str, number: int) -> None:
        await asyncio.sleep(4.0)

    demo = fleet_of("r1", takes_four_seconds, group_type=Starting)
    assert (await demo.score(), now(), demo.lost) == ([4.0, 6.0], 64.0, [])


@on_virtual_time
async def test_silence_is_noticed_though_a_deadline_ends_in_the_same_instant() -> None:
    async def hangs_and_takes_long_to_cancel(name: str, number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(5):
                await asyncio.sleep(0)

    demo = fleet_of("r1", hangs_and_takes_long_to_cancel)
    with_deadline = asyncio.create_task(demo.score(4.5))  # with a second of grace, at 5.5 s
    without = asyncio.create_task(demo.score())
    with pytest.raises(Expired):
        await with_deadline
    with pytest.raises(Unavailable):
        await without
    assert 22.0 <= now() <= 24.0, "four times five seconds, and the period of the checks"


# Two versions of a model


@on_virtual_time
async def test_a_chunk_that_one_replica_refuses_goes_to_the_next_at_once() -> None:
    demo = fleet_of("r1 r2", raises(NOT_HOSTED, "r1"))
    for _ in range(4):
        assert await demo.score() == [4.0, 6.0]
    assert now() == 0.0
    names = [name for _, name in demo.group.asked]
    assert (names.count("r1") > 0, names.count("r2")) == (True, 4)
    assert (demo.lost, demo.ready) == ([], 2), "it is well"


@on_virtual_time
async def test_if_all_refuse_each_is_asked_once_a_round_and_a_pause_is_made() -> None:
    demo = fleet_of("r1 r2 r3", raises(NOT_HOSTED))
    with pytest.raises(Expired, match="none that does answered in time"):
        await demo.score(0.25, grace_s=0.0)
    rounds = [(0.0, ["r1", "r2", "r3"]), (0.1, ["r1", "r2", "r3"]), (0.2, ["r1", "r2", "r3"])]
    for at_s, names in rounds:
        assert sorted(name for asked_s, name in demo.group.asked if asked_s == pytest.approx(at_s)) == names
    assert now() == pytest.approx(0.25), "the last is asked at the deadline"
    assert len(demo.group.asked) == 10


@on_virtual_time
async def test_a_pause_is_made_though_replicas_run_that_host_another_version() -> None:
    config = fleet()
    demo = fleet_of("r1 r2", raises(NOT_HOSTED, "r1"))
    demo.ledger.update(frozenset({"r1", "r2"}), {"r2": frozenset({"another"})})
    one = Dispatcher(config, demo.view, {"demo": demo.group}, now, models={"small": "mine"})
    with pytest.raises(Expired):
        await one.score(("small",), PAIRS, Deadline(0.25, grace_s=0.0))
    assert [name for _, name in demo.group.asked] == ["r1"] * 4, "at 0, 100, 200 and 250 ms"


@on_virtual_time
async def test_a_replica_of_the_routers_version_is_waited_for_while_time_is_left() -> None:
    async def updating(name: str, number: int) -> None:
        if now() < 3.0:
            raise NOT_HOSTED

    demo = fleet_of("r1", updating)
    assert (await demo.score(10.0), now()) == ([4.0, 6.0], pytest.approx(3.0, abs=0.11))
    stuck = fleet_of("r1", raises(NOT_HOSTED))
    start_s = now()
    with pytest.raises(Unavailable, match="for 120 s; is an update stuck"):
        await stuck.score()
    assert now() - start_s == pytest.approx(120.0, abs=0.11)


@pytest.mark.parametrize("batch_tokens", [16384, 2048])
@on_virtual_time
async def test_scores_of_two_models_are_never_joined(batch_tokens: int) -> None:
    own = {"r1": "new", "r2": "old"}

    class Versions(Replicas):
        """Each answers with its own weights, and refuses others."""

        async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
            scores = await super().score(chunk, entry)
            if chunk.weights not in (None, own[scores.replica]):
                raise NOT_HOSTED
            return replace(scores, model=own[scores.replica])

    kept = {"demo": {"tiers": ["small", "medium", "large"], "batch_tokens": batch_tokens}}
    demo = fleet_of("r1 r2", answers, config=fleet(groups=kept), group_type=Versions)
    scored = await demo.one.score(("small",), MANY)
    assert (scored.models, now()) == ({"new"}, 0.0)
    first = [chunk for chunk in demo.group.sent if not chunk.weights]
    assert sum(len(chunk.pairs) for chunk in first) == 64
    assert {chunk.weights for chunk in demo.group.sent} == {None, "new"}, "then all of it by one of them"


@on_virtual_time
async def test_a_chunk_carries_the_fingerprints_of_its_models() -> None:
    demo = fleet_of("r1", answers)
    one = Dispatcher(fleet(), demo.view, {"demo": demo.group}, now, models={"small": "a1", "large": "b2"})
    await one.score(("small",), PAIRS)
    await one.score(("large", "small"), PAIRS)
    assert [chunk.models for chunk in demo.group.sent] == [{"small": "a1"}, {"small": "a1", "large": "b2"}]


def test_a_replica_has_to_host_one_of_a_chunks_models_or_the_weights_of_the_rest_of_its_ranking() -> None:
    chunk = Chunk(("small", "large"), PAIRS, models={"small": "a1", "medium": "b1"})
    assert usable_models(chunk) == ("a1",)
    assert usable_models(replace(chunk, weights="w2")) == ("w2",)
    assert usable_models(Chunk(("small",), PAIRS)) == ()


# Replicas that fail


@on_virtual_time
async def test_a_replica_whose_scorer_fails_is_ejected_and_for_longer_each_time() -> None:
    demo = fleet_of("r1 r2", raises(ScoringFailed("the device is lost"), "r1"))

    for _ in range(200):  # five a second
        assert await demo.score() == [4.0, 6.0]
        await asyncio.sleep(0.2)
    failed_s = [at_s for at_s, name in demo.group.asked if name == "r1"]
    assert np.diff(failed_s) == pytest.approx([5.0, 10.0, 15.0], abs=0.41), "between these, r2 gets all"
    assert demo.lost == []


@on_virtual_time
async def test_a_chunk_that_fails_everywhere_fails_after_two_replicas_and_ejects_nobody() -> None:
    demo = fleet_of("r1 r2 r3", raises(ScoringFailed("tier small gave scores that are not finite")))
    with pytest.raises(ScoringFailed, match="not finite"):
        await demo.score()
    assert len({name for _, name in demo.group.asked}) == len(demo.group.asked) == 2
    assert (demo.ready, demo.lost) == (3, [])


@on_virtual_time
async def test_a_failure_counts_against_its_replica_once_another_has_scored_the_chunk() -> None:
    async def fails_then_dies(name: str, number: int) -> None:
        if number == 0:
            raise ScoringFailed("out of memory")
        if number == 1:
            raise ReplicaLost(f"replica {name} of group demo went away: ActorDiedError")

    demo = fleet_of("r1 r2 r3", fails_then_dies)
    assert await demo.score() == [4.0, 6.0]
    failed, lost, well = (name for _, name in demo.group.asked)
    assert sorted((failed, lost, well)) == ["r1", "r2", "r3"]
    assert [demo.ledger.is_ejected(name, now()) for name in (failed, lost, well)] == [True, True, False]


@on_virtual_time
async def test_of_the_chunks_of_a_request_a_few_are_on_the_way_and_all_count_as_backlog() -> None:
    here = most = 0

    async def work(name: str, number: int) -> None:
        nonlocal here, most
        here += 1
        most = max(most, here)
        await asyncio.sleep(0.1)
        here -= 1

    kept = {"demo": {"tiers": ["small", "medium", "large"], "batch_tokens": 256}}
    demo = fleet_of("r1", work, config=fleet(groups=kept))
    scoring = asyncio.create_task(demo.one.score(("small",), MANY))
    await asyncio.sleep(0.05)
    assert len(demo.ledger.in_flight) == 32
    assert (await scoring).logits.tolist() == [128.0] * 64
    assert (most, now(), demo.ledger.busy) == (ON_THE_WAY, 0.4, False)


@on_virtual_time
async def test_chunks_that_wait_for_their_turn_go_with_a_client_that_has_gone() -> None:
    kept = {"demo": {"tiers": ["small", "medium", "large"], "batch_tokens": 256}}
    demo = fleet_of("r1", hangs, config=fleet(groups=kept))
    scoring = asyncio.create_task(demo.one.score(("small",), MANY))
    await asyncio.sleep(0.05)
    scoring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await scoring
    assert (demo.ledger.busy, demo.view.backlog_s("demo", now()), len(demo.group.sent)) == (False, 0.0, ON_THE_WAY)
    demo.ledger.answered("r1", 5.0, now())
    assert demo.view.backlog_s("demo", now()) == 0.0, "the replica may not know yet that they were withdrawn"
