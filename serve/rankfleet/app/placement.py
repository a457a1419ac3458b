"""Places chunks by predicted work: Serve's request router for model deployments."""

import asyncio
from typing import Any

from ray.serve.request_router import FIFOMixin, PendingRequest, ReplicaID, RequestRouter, RunningReplica

from rankfleet.core.messages import Chunk
from rankfleet.scheduling.placement import Books


class LeastWork(FIFOMixin, RequestRouter):
    """Runs in each router, on the loop of its requests. The order of requests stays that of arrival."""

    def initialize_state(self, **_: Any) -> None:
        self._books = Books()
        self._chosen: dict[asyncio.Future[RunningReplica], str] = {}

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """One candidate: Serve asks again where it does not accept."""
        counts = self.replica_queue_len_cache
        ids = [replica.replica_id for replica in candidate_replicas]
        place = self._books.choose([each.unique_id for each in ids], [counts.get(each) for each in ids])
        if pending_request is not None:
            self._reserve(candidate_replicas[place].replica_id.unique_id, pending_request)
        return [[candidate_replicas[place]]]

    def _reserve(self, replica: str, pending: PendingRequest) -> None:
        """Count a chunk from now on, and put it right when Serve has sent it elsewhere or not at all."""
        request = pending.metadata.internal_request_id
        chunk = pending.args[0] if pending.args else None
        if (before := self._chosen.get(pending.future)) is not None:
            self._books.close(before, request)
        else:
            pending.future.add_done_callback(lambda sent: self._settle(sent, request))
        self._chosen[pending.future] = replica
        self._books.add(replica, request, chunk.least_ms if isinstance(chunk, Chunk) else 0.0)

    def _settle(self, sent: "asyncio.Future[RunningReplica]", request: str) -> None:
        chosen = self._chosen.pop(sent)
        to = None if sent.cancelled() else sent.result().replica_id.unique_id
        if to != chosen:
            ms = self._books.close(chosen, request)
            if to is not None:
                self._books.add(to, request, ms)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        self._books.close(replica_id.unique_id, internal_request_id)
