"""What can happen to a chunk on its way: Ray's own errors, and fakes for the handle and its responses."""

import asyncio
import pickle
from collections.abc import Callable, Generator
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

from rankfleet.cluster.envelope import Envelope
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
from rankfleet.router.replica_record import Entry

PAIRS = TokenizedPairs(np.arange(4, dtype=np.int32), np.array([4], np.int32), np.array([2], np.int32))
CHUNK = Chunk(("small",), PAIRS)
SCORES = ChunkScores(np.array([1.0], np.float32), 1.0, 2.0, "r1", 0.0, "small")


GROUP = DeploymentID("demo", "rankfleet")


def entry() -> Entry:
    return Entry(predicted_ms=10.0, deadline_s=1.0, sent_s=0.0)


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
        rpc_error(grpc.StatusCode.UNKNOWN),
        raised_in_replica(TaskCancelledError()),
    ],
    ids=repr,
)
def test_a_replica_that_went_away_is_lost_and_not_failed(error: BaseException) -> None:
    fault = as_rankfleet_error(error, "demo", "r1")
    assert isinstance(fault, ReplicaLost)
    assert str(fault).startswith("replica r1 of group demo went away: ")


def test_a_loss_says_what_is_known_of_it() -> None:
    assert (
        str(as_rankfleet_error(ActorDiedError(), "demo", "r1")) == "replica r1 of group demo went away: ActorDiedError"
    )
    fault = as_rankfleet_error(ReplicaUnavailableError(ReplicaID("r1", GROUP)), "demo", "")
    assert str(fault) == "a replica of group demo went away: ReplicaUnavailableError"


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
    assert str(fault) == "replica r1 of group demo failed on this request: MemoryError: out of memory"
    too_long = as_rankfleet_error(rpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED), "demo", "r1")
    assert isinstance(too_long, ScoringFailed), "another replica would not take it either"


def test_a_group_that_is_not_deployed_is_unavailable() -> None:
    fault = as_rankfleet_error(DeploymentUnavailableError(GROUP), "demo", "")
    assert isinstance(fault, Unavailable)
    assert str(fault) == "group demo was removed or failed to deploy; see `serve status`"


@pytest.mark.parametrize("error", [ReplicaLost("gone"), Overloaded("full", 2.5), ScoringFailed("broken")])
def test_errors_can_be_pickled(error: RankfleetError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


class Response:
    """What `handle.score.remote` gives: awaited for the scores, cancelled from outside."""

    def __init__(self) -> None:
        self.future: asyncio.Future[ChunkScores] = asyncio.get_running_loop().create_future()
        self.cancelled = False

    def __await__(self) -> Generator[Any, None, ChunkScores]:
        return self.future.__await__()

    def cancel(self) -> None:
        self.cancelled = True


class Handle:
    """Serve's handle: every chunk goes to replica `r1`, and `then` says what becomes of it."""

    def __init__(self, then: Callable[[Response], None] = lambda response: None) -> None:
        self.then = then
        self.chunks: list[Chunk] = []
        self.responses: list[Response] = []

    def options(self, method_name: str, **_: str) -> "Handle":
        assert method_name == "score"
        return self

    def remote(self, envelope: Envelope) -> Response:
        envelope.entry.replica = "r1"
        self.chunks.append(envelope.chunk)
        response = Response()
        self.responses.append(response)
        self.then(response)
        return response


def fails(error: BaseException) -> Callable[[Response], None]:
    return lambda response: response.future.set_exception(error)


async def test_an_answer_comes_back_as_the_replica_gave_it() -> None:
    handle = Handle(then=lambda response: response.future.set_result(SCORES))
    assert await ServeGroupClient("demo", handle).score(CHUNK, entry()) is SCORES
    assert handle.chunks == [CHUNK]


async def test_a_chunk_is_lost_with_the_replica_that_its_entry_names() -> None:
    group = ServeGroupClient("demo", Handle(then=fails(ActorDiedError())))
    with pytest.raises(ReplicaLost, match=r"^replica r1 of group demo went away: ActorDiedError$"):
        await group.score(CHUNK, entry())


async def test_a_chunk_is_lost_when_its_replica_cuts_the_call_off() -> None:
    group = ServeGroupClient("demo", Handle(then=fails(asyncio.CancelledError())))
    with pytest.raises(ReplicaLost, match="went away: CancelledError"):
        await group.score(CHUNK, entry())


async def test_a_refusal_of_the_replica_is_no_loss() -> None:
    wrong = raised_in_replica(NotHosted("this replica does not host tier 'small'"))
    with pytest.raises(NotHosted):
        await ServeGroupClient("demo", Handle(then=fails(wrong))).score(CHUNK, entry())


async def test_a_call_that_nobody_waits_for_is_cancelled() -> None:
    handle = Handle()
    task = asyncio.create_task(ServeGroupClient("demo", handle).score(CHUNK, entry()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [response.cancelled for response in handle.responses] == [True]


def test_a_replica_receives_the_chunk_alone() -> None:
    (pairs,) = pickle.loads(pickle.dumps([Envelope(CHUNK, entry())]))
    assert (type(pairs), pairs.tiers, pairs.pairs.ids.tolist()) == (Chunk, ("small",), [0, 1, 2, 3])
