"""What can happen to a chunk on its way: Ray's own errors, and fakes for the handle and its responses."""

import asyncio
import pickle
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    RayActorError,
    RayTaskError,
    TaskCancelledError,
)
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError

from rankfleet.cluster.transport import ServeGroupClient, as_rankfleet_error
from rankfleet.core.errors import (
    Expired,
    NotHosted,
    Overloaded,
    RankfleetError,
    ReplicaLost,
    ScoringFailed,
    Unavailable,
)
from rankfleet.core.messages import Chunk, ChunkScores
from rankfleet.core.pairs import TokenizedPairs
from rankfleet.router.replica_view import EJECTION_S, Envelope, ReplicaView
from rankfleet.router.retry import PATIENCE_S
from tests.unit.fakes import FakeClock

PAIRS = TokenizedPairs(np.arange(4, dtype=np.int32), np.array([4], np.int32), np.array([2], np.int32))
CHUNK = Chunk(("small",), PAIRS)
SCORES = ChunkScores(np.array([1.0], np.float32), 1.0, 2.0, "r1", 0.0, "small")


GROUP = DeploymentID("demo", "rankfleet")


def raised_in_replica(error: Exception) -> BaseException:
    """An error as a handle's response raises it in the router."""
    wrapped = RayTaskError("score", "traceback", error)
    return wrapped.as_instanceof_cause()


def rpc_error(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())


@pytest.mark.parametrize(
    "error",
    [
        RayActorError(),
        ActorDiedError(),
        NodeDiedError("the node is gone"),
        ReplicaUnavailableError(ReplicaID("r1", GROUP)),
        ActorUnavailableError("gone", b"\0" * 16),
        TaskCancelledError(),
        asyncio.CancelledError(),
        rpc_error(grpc.StatusCode.UNAVAILABLE),
        rpc_error(grpc.StatusCode.CANCELLED),
        rpc_error(grpc.StatusCode.INTERNAL),
        raised_in_replica(TaskCancelledError()),
    ],
    ids=repr,
)
def test_a_replica_that_went_away_is_lost_and_not_failed(error: BaseException) -> None:
    fault = as_rankfleet_error(error, "demo", "r1")
    assert isinstance(fault, ReplicaLost)
    assert fault.replica == "r1"


@pytest.mark.parametrize(
    "error", [Expired("too late"), Overloaded("full", 2.5), Unavailable("none")], ids=lambda e: type(e).__name__
)
def test_rankfleets_errors_come_back_unchanged(error: RankfleetError) -> None:
    fault = as_rankfleet_error(raised_in_replica(error), "demo", "r1")
    assert type(fault) is type(error)
    assert str(fault) == str(error)


def test_other_errors_of_a_replica_say_what_they_were() -> None:
    fault = as_rankfleet_error(raised_in_replica(MemoryError("out of memory")), "demo", "r1")
    assert isinstance(fault, ScoringFailed)
    assert str(fault) == "group demo failed on this request: MemoryError: out of memory"
    too_long = as_rankfleet_error(rpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED), "demo", "r1")
    assert isinstance(too_long, ScoringFailed), "another replica would not take it either"


def test_a_group_that_failed_to_deploy_is_unavailable() -> None:
    fault = as_rankfleet_error(DeploymentUnavailableError(GROUP), "demo", "")
    assert isinstance(fault, Unavailable)
    assert str(fault) == "group demo failed to deploy; see `serve status`"


@pytest.mark.parametrize("error", [ReplicaLost("gone", "r1"), Overloaded("full", 2.5), ScoringFailed("broken")])
def test_errors_can_be_pickled(error: RankfleetError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


class Response:
    """What `handle.score.remote` gives: awaited for the scores, cancelled from outside."""

    def __init__(self) -> None:
        self.future: asyncio.Future[ChunkScores] = asyncio.get_running_loop().create_future()

    def __await__(self) -> Generator[Any, None, ChunkScores]:
        return self.future.__await__()

    def cancel(self) -> None:
        self.future.set_exception(TaskCancelledError())


class Handle:
    """Serve's handle: every chunk goes to `replica`, and `then` says what becomes of it."""

    def __init__(self, replica: str = "r1", then: Callable[[Response], None] = lambda response: None) -> None:
        self.replica, self.then = replica, then
        self.responses: list[Response] = []

    def options(self, method_name: str, **_: str) -> "Handle":
        assert method_name == "score"
        return self

    def remote(self, envelope: Envelope) -> Response:
        envelope.replica = self.replica
        response = Response()
        self.responses.append(response)
        self.then(response)
        return response


def fails(error: BaseException) -> Callable[[Response], None]:
    return lambda response: response.future.set_exception(error)


async def test_a_lost_replica_is_counted_and_ejected_for_a_while() -> None:
    clock, lost = FakeClock(), list[str]()
    view = ReplicaView(clock)
    view.update(frozenset({"r1", "r2"}))
    group = ServeGroupClient("demo", Handle(then=fails(ActorDiedError())), view, lost.append, clock)
    with pytest.raises(ReplicaLost) as fault:
        await group.score(CHUNK, 0.1)
    assert (fault.value.replica, lost) == ("r1", ["demo"])
    assert view.eligible(["r1", "r2"]) == [1]
    clock.now += EJECTION_S
    assert view.eligible(["r1", "r2"]) == [0, 1]


async def test_an_answer_reports_the_replicas_work_for_other_routers() -> None:
    view = ReplicaView(FakeClock())
    view.update(frozenset({"r1"}))
    scores = replace(SCORES, backlog_s=0.4, others_s=0.1)
    await ServeGroupClient("demo", Handle(then=lambda response: response.future.set_result(scores)), view).score(
        CHUNK, 0.1
    )
    assert view.others_ms(["r1"]) == [100.0]


async def test_a_replica_is_not_lost_when_the_caller_is_cancelled() -> None:
    lost: list[str] = []
    group = ServeGroupClient("demo", Handle(), ReplicaView(), lost.append)
    task = asyncio.create_task(group.score(CHUNK, 0.1))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert lost == []


async def test_a_chunk_is_lost_when_its_replica_cuts_the_call_off() -> None:
    group = ServeGroupClient("demo", Handle(then=fails(asyncio.CancelledError())), ReplicaView())
    with pytest.raises(ReplicaLost):
        await group.score(CHUNK, 0.1)


async def test_a_replica_that_falls_silent_is_lost() -> None:
    clock, handle = FakeClock(), Handle()
    group = ServeGroupClient("demo", handle, ReplicaView(), clock=clock)
    waiting = asyncio.create_task(group.score(CHUNK, 0.1))
    await asyncio.sleep(0)
    group.check(clock.now + 5.0)
    assert not handle.responses[0].future.done()
    group.check(clock.now + 5.1)
    with pytest.raises(ReplicaLost):
        await waiting


async def test_a_replica_that_answers_other_chunks_is_not_silent() -> None:
    clock, handle = FakeClock(), Handle()
    group = ServeGroupClient("demo", handle, ReplicaView(), clock=clock)
    slow = asyncio.create_task(group.score(CHUNK, 0.1))
    quick = asyncio.create_task(group.score(CHUNK, 0.1))
    await asyncio.sleep(0)
    clock.now += 4.0
    handle.responses[1].future.set_result(SCORES)
    await quick
    group.check(clock.now + 4.0)
    assert not slow.done()
    group.check(clock.now + 4.0, late_s=4.0)  # this process itself slept: it heard nothing of anybody
    clock.now += 4.0
    group.check(clock.now + 4.9)
    assert not handle.responses[0].future.done()
    slow.cancel()


async def test_a_group_without_a_replica_is_unavailable_after_a_while() -> None:
    clock, handle = FakeClock(), Handle(replica="")
    group = ServeGroupClient("demo", handle, ReplicaView(), clock=clock)
    waiting = asyncio.create_task(group.score(CHUNK, 0.1))
    await asyncio.sleep(0)
    group.check(clock.now + PATIENCE_S - 1)
    assert not handle.responses[0].future.done()
    group.check(clock.now + PATIENCE_S + 1)
    with pytest.raises(Unavailable, match="has had no replica for 120 s"):
        await waiting


def test_a_replica_receives_the_chunk_alone() -> None:
    envelope = Envelope("chunk")
    envelope.replica = "r1"
    assert pickle.loads(pickle.dumps(envelope)) == "chunk"


def test_a_view_reports_changes_and_never_rules_out_all_replicas() -> None:
    view, heard = ReplicaView(FakeClock()), list[frozenset[str]]()
    view.update(frozenset({"a", "b"}))
    view.listen(heard.append)
    view.eject("a")
    view.eject("b")
    assert view.eligible(["a", "b"]) == [0, 1]
    view.update(frozenset({"b"}))
    assert heard == [{"a", "b"}, {"b"}]


def test_a_view_knows_the_replicas_work_for_other_routers() -> None:
    clock = FakeClock()
    view = ReplicaView(clock)
    view.update(frozenset({"a", "b"}))
    view.answered("a", backlog_s=0.4, others_s=0.1)
    view.answered("gone", backlog_s=0.4, others_s=0.1)
    assert view.others_ms(["a", "b", "gone"]) == [100.0, 0.0, 0.0]
    clock.now += 0.1
    assert view.others_ms(["a"]) == [pytest.approx(75.0)]
    view.update(frozenset({"b"}))
    assert view.others_ms(["a"]) == [0.0]


async def test_a_replica_that_does_not_host_the_model_is_ejected_and_not_lost() -> None:
    clock, lost = FakeClock(), list[str]()
    view = ReplicaView(clock)
    view.update(frozenset({"r1", "r2"}))
    wrong = raised_in_replica(NotHosted("this replica does not host tier 'small'"))
    group = ServeGroupClient("demo", Handle(then=fails(wrong)), view, lost.append, clock)
    with pytest.raises(NotHosted):
        await group.score(CHUNK, 0.1)
    assert lost == [], "it is well"
    assert view.eligible(["r1", "r2"]) == [1]


def test_replicas_that_host_the_model_are_eligible() -> None:
    view = ReplicaView(FakeClock())
    view.update(frozenset({"r1", "r2", "r3"}), {"r1": frozenset({"a1", "b1"}), "r2": frozenset({"a2", "b1"})})
    names = ["r1", "r2", "r3"]
    assert view.eligible(names, ["a2"]) == [1, 2], "r3 has not said what it hosts"
    assert view.eligible(names, ["b1"]) == [0, 1, 2]
    assert view.eligible(["r1"], ["a2"]) == [0], "where none is left, it says so itself"
    assert view.hosting(["a1", "b1"]) == (1, 3)
    view.eject("r2")
    assert view.eligible(names, ["a2"]) == [2]
