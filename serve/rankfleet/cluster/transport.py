"""Sends chunks to a replica group through Serve, and turns what can go wrong on the way into Rankfleet's errors."""

import asyncio
from typing import Any

import grpc
from ray.exceptions import NodeDiedError, RayActorError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError

from rankfleet.cluster.envelope import Envelope
from rankfleet.cluster.ray_private import start_handle
from rankfleet.core.errors import RankfleetError, ReplicaLost, ScoringFailed, Unavailable
from rankfleet.core.messages import Chunk, ChunkScores
from rankfleet.estimates.latency import LatencyModel
from rankfleet.router.replica_record import Entry
from rankfleet.router.retry import GROUP_GONE

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


class ServeGroupClient:
    """A replica group, called through its deployment handle."""

    def __init__(self, name: str, handle: Any) -> None:
        self._name = name
        self._handle = handle
        self._remote: Any = None

    async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
        """Scores of a chunk, by the replica that `LeastWorkRouter` chooses for its entry.

        Raises ReplicaLost if the replica went away, because Serve does not retry what was in flight there. Errors that
        the replica raised on purpose come back as they are, others as ScoringFailed. Raises Unavailable if the group
        was removed or failed to deploy.
        """
        response = self._method().remote(Envelope(chunk, entry))
        try:
            scores: ChunkScores = await response
        except BaseException as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                response.cancel()  # nobody waits for the answer any more
                raise
            raise as_rankfleet_error(error, self._name, entry.replica) from error
        return scores

    def start(self) -> None:
        """Follow the group's replicas. Otherwise they would be unknown before the first request."""
        start_handle(self._handle)

    async def latency(self) -> dict[str, LatencyModel]:
        """Latency models of one of the replicas, by fingerprint. Raises what Serve raises."""
        models: dict[str, LatencyModel] = await self._handle.latency.remote()
        return models

    def _method(self) -> Any:
        """The handle of `score`, made once, on the event loop of requests: a handle works on the loop it is made on."""
        if self._remote is None:
            # Chunks are plain data, for which pickle takes half the time of Serve's default, cloudpickle.
            self._remote = self._handle.options(
                method_name="score", request_serialization="pickle", response_serialization="pickle"
            )
        return self._remote


def as_rankfleet_error(error: BaseException, group: str, replica: str) -> RankfleetError:
    """Rankfleet's error for what Serve raised: ReplicaLost if another replica may succeed."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, RankfleetError):
        return cause
    where = f"replica {replica} of group {group}" if replica else f"a replica of group {group}"
    if isinstance(cause, GONE) or (isinstance(cause, grpc.RpcError) and cause.code() in GONE_CODES):
        return ReplicaLost(f"{where} went away: {type(cause).__name__}")
    if isinstance(cause, DeploymentUnavailableError):
        return Unavailable(f"group {group} {GROUP_GONE}")
    return ScoringFailed(f"{where} failed on this request: {type(cause).__name__}: {cause}")
