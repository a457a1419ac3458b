"""Sends chunks to a replica group through Serve, and turns what can go wrong on the way into Rankfleet's errors."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
from ray.exceptions import NodeDiedError, RayActorError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError

from rankfleet.core.errors import NotHosted, RankfleetError, ReplicaLost, ScoringFailed, Unavailable
from rankfleet.core.messages import Chunk, ChunkScores
from rankfleet.core.quiet import quietly
from rankfleet.router.replica_view import Envelope, ReplicaView
from rankfleet.router.retry import PATIENCE_S, silent_at_s

WATCH_PERIOD_S = 0.5  # how often calls are checked for replicas that have fallen silent
# Errors that mean the replica is gone, not that the chunk failed. A call that the replica cut off ends as cancelled.
GONE = (RayActorError, NodeDiedError, TaskCancelledError, ReplicaUnavailableError, asyncio.CancelledError)
GONE_CODES = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}

log = logging.getLogger("ray.serve")


@dataclass
class ChunkCall:
    """A chunk that was sent and is not answered yet. `alive_s`: when its replica was last known to be alive, at first
    when the chunk was sent. `given_up`: why its answer is not waited for; empty while it is."""

    envelope: Envelope
    response: Any
    predicted_s: float
    alive_s: float
    given_up: str = ""


class ServeGroupClient:
    """A replica group, called through its deployment handle."""

    def __init__(
        self,
        name: str,
        handle: Any,
        view: ReplicaView,
        on_lost: Callable[[str], None] = lambda group: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`on_lost`: called with the group's name for each chunk that is lost with its replica."""
        self._name = name
        self._handle = handle
        self._view = view
        self._on_lost = quietly(on_lost)
        self._clock = clock
        self._calls: dict[int, ChunkCall] = {}
        self._remote: Any = None
        self._watching: asyncio.Task[None] | None = None

    async def score(self, chunk: Chunk, predicted_s: float) -> ChunkScores:
        """Scores of a chunk. `predicted_s`: the time that its replica should need.

        Raises ReplicaLost if the replica went away, because Serve does not retry what was in flight there. Errors that
        the replica raised on purpose come back as they are, others as ScoringFailed. Raises Unavailable if the group
        has no replica.
        """
        envelope = Envelope(chunk)
        call = ChunkCall(envelope, self._method().remote(envelope), predicted_s, self._clock())
        self._calls[id(call)] = call
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())
        try:
            scores: ChunkScores = await call.response
        except BaseException as error:
            ours = self._error_of(error, call)
            if ours is error:
                raise
            raise ours from error
        finally:
            del self._calls[id(call)]
        self._mark_alive(scores.replica)
        self._view.answered(scores.replica, scores.backlog_s, scores.others_s)
        return scores

    def _method(self) -> Any:
        """The handle of `score`, made once, on the event loop of requests: a handle works on the loop it is made on."""
        if self._remote is None:
            # Chunks are plain data, for which pickle takes half the time of Serve's default, cloudpickle.
            self._remote = self._handle.options(
                method_name="score", request_serialization="pickle", response_serialization="pickle"
            )
        return self._remote

    def _error_of(self, error: BaseException, call: ChunkCall) -> BaseException:
        """Rankfleet's error for what a call raised; the same object if it is one, or if the caller was cancelled."""
        if call.given_up == "unassigned":
            return Unavailable(f"group {self._name} has had no replica for {PATIENCE_S:.0f} s; see `ray status`")
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            return error
        ours = as_rankfleet_error(error, self._name, call.envelope.replica)
        if isinstance(ours, NotHosted):  # the replica is healthy, but others are asked first for a while
            self._view.eject(call.envelope.replica)
        if isinstance(ours, ReplicaLost):
            why = call.given_up or type(error).__name__
            log.warning("replica %s of group %s was lost with a chunk: %s", ours.replica or "?", self._name, why)
            self._on_lost(self._name)
            if ours.replica:
                self._view.eject(ours.replica)
        return ours

    def _mark_alive(self, replica: str) -> None:
        now = self._clock()
        for call in self._calls.values():
            if call.envelope.replica == replica:
                call.alive_s = now

    async def _watch(self) -> None:
        """Check all calls periodically while there are any. A connection over a dead network is not closed, so that a
        replica behind it just falls silent."""
        woken_s = self._clock()
        while self._calls:
            await asyncio.sleep(WATCH_PERIOD_S)
            late_s = self._clock() - woken_s - WATCH_PERIOD_S
            woken_s = self._clock()
            self.check(woken_s, late_s)

    def check(self, now_s: float, late_s: float = 0.0) -> None:
        """Cancel the calls whose replica has fallen silent, and those that got no replica in time.

        `late_s`: seconds for which this process did not run, so that it could hear from no replica.
        """
        for call in self._calls.values():
            call.alive_s += late_s
            if not call.envelope.replica:
                if now_s - call.alive_s > PATIENCE_S:
                    call.given_up = "unassigned"
            elif now_s > silent_at_s(call.alive_s, call.predicted_s):
                call.given_up = "silent"
            if call.given_up:
                call.response.cancel()


def as_rankfleet_error(error: BaseException, group: str, replica: str) -> BaseException:
    """Rankfleet's error for what Serve raised: ReplicaLost if another replica may succeed."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, RankfleetError):
        return cause
    if isinstance(cause, GONE) or (isinstance(cause, grpc.RpcError) and cause.code() in GONE_CODES):
        return ReplicaLost(f"a replica of group {group} went away", replica)
    if isinstance(cause, DeploymentUnavailableError):
        return Unavailable(f"group {group} failed to deploy; see `serve status`")
    return ScoringFailed(f"group {group} failed on this request: {type(cause).__name__}: {cause}")
