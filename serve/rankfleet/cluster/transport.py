"""Chunks to a replica group through Serve, and what can happen on the way as errors of ours."""

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

WATCH_S = 0.5
# What says that the replica is gone, not that it failed. A call it cut off ends as cancelled.
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
    """A chunk that is out. heard_s: when it was sent, or its replica was known to be alive since."""

    envelope: Envelope
    response: Any
    predicted_s: float
    heard_s: float
    given_up: str = ""


class ServeGroup:
    """A replica group behind its deployment handle."""

    def __init__(
        self,
        name: str,
        handle: Any,
        view: ReplicaView,
        on_lost: Callable[[str], None] = lambda group: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """on_lost hears the group's name whenever a chunk is lost with its replica."""
        self._name = name
        self._handle = handle
        self._view = view
        self._on_lost = quietly(on_lost)
        self._clock = clock
        self._calls: dict[int, ChunkCall] = {}
        self._remote: Any = None
        self._watching: asyncio.Task[None] | None = None

    async def score(self, chunk: Chunk, predicted_s: float) -> ChunkScores:
        """Serve does not retry what was in flight on a replica that died: this says so by ReplicaLost. Raises the
        replica's own errors as themselves, ScoringFailed for any other fault in it, Unavailable when the group runs
        no replica."""
        envelope = Envelope(chunk)
        call = ChunkCall(envelope, self._method().remote(envelope), predicted_s, self._clock())
        self._calls[id(call)] = call
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())
        try:
            scores: ChunkScores = await call.response
        except BaseException as error:
            fault = self._fault(error, call)
            if fault is error:
                raise
            raise fault from error
        finally:
            del self._calls[id(call)]
        self._heard(scores.replica)
        self._view.answered(scores.replica, scores.backlog_s, scores.others_s)
        return scores

    def _method(self) -> Any:
        """The method's own handle, made once: on the loop of requests, where handles begin to work."""
        if self._remote is None:
            # Chunks are plain data: pickle takes half the time of Serve's default, which could send code as well.
            self._remote = self._handle.options(
                method_name="score", request_serialization="pickle", response_serialization="pickle"
            )
        return self._remote

    def _fault(self, error: BaseException, call: ChunkCall) -> BaseException:
        """The error of ours that stands for it; the same where it already is one, or the caller has gone."""
        if call.given_up == "unassigned":
            return Unavailable(f"group {self._name} has had no replica for {PATIENCE_S:.0f} s; see `ray status`")
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            return error
        fault = translate(error, self._name, call.envelope.replica)
        if isinstance(fault, NotHosted):  # it is well, but others are asked first for a while
            self._view.eject(call.envelope.replica)
        if isinstance(fault, ReplicaLost):
            why = call.given_up or type(error).__name__
            log.warning("replica %s of group %s is lost with a chunk: %s", fault.replica or "?", self._name, why)
            self._on_lost(self._name)
            if fault.replica:
                self._view.eject(fault.replica)
        return fault

    def _heard(self, replica: str) -> None:
        now = self._clock()
        for call in self._calls.values():
            if call.envelope.replica == replica:
                call.heard_s = now

    async def _watch(self) -> None:
        """Give up on replicas that say nothing any more: the other end of a dead network does not hang up."""
        woken = self._clock()
        while self._calls:
            await asyncio.sleep(WATCH_S)
            late_s = self._clock() - woken - WATCH_S
            woken = self._clock()
            self.check(woken, late_s)

    def check(self, now_s: float, late_s: float = 0.0) -> None:
        """One look at all that is out. late_s: for which this process itself heard nothing."""
        for call in self._calls.values():
            call.heard_s += late_s
            if not call.envelope.replica:
                if now_s - call.heard_s > PATIENCE_S:
                    call.given_up = "unassigned"
            elif now_s > silent_at_s(call.heard_s, call.predicted_s):
                call.given_up = "silent"
            if call.given_up:
                call.response.cancel()


def translate(error: BaseException, group: str, replica: str) -> BaseException:
    """What went wrong, as an error of ours: ReplicaLost where another replica may do better."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, RankfleetError):
        return cause
    if isinstance(cause, GONE) or (isinstance(cause, grpc.RpcError) and cause.code() in GONE_CODES):
        return ReplicaLost(f"a replica of group {group} went away", replica)
    if isinstance(cause, DeploymentUnavailableError):
        return Unavailable(f"group {group} failed to deploy; see `serve status`")
    return ScoringFailed(f"group {group} failed on this request: {type(cause).__name__}: {cause}")
