"""Which replica of a group gets a chunk: Serve's request router for groups."""

import asyncio
from typing import Any

from ray.serve.request_router import FIFOMixin, PendingRequest, ReplicaID, RequestRouter, RunningReplica

from rankfleet.core.messages import Chunk
from rankfleet.router.inflight import InFlight
from rankfleet.router.replica_view import Envelope, replica_view_of


class LeastWork(FIFOMixin, RequestRouter):
    """The replica with the least predicted work of those that take any. Runs in each router, on the loop of its
    requests, and says which replicas there are. The order of requests stays that of arrival."""

    def initialize_state(self, **_: Any) -> None:
        self._view = replica_view_of(self._deployment_id.name)
        self._in_flight = InFlight()
        self._chosen: dict[asyncio.Future[RunningReplica], str] = {}

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        self._tell()

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_died(replica_id)
        self._tell()

    def _tell(self) -> None:
        said = {
            replica_id.unique_id: replica.routing_stats
            for replica_id, replica in self.curr_replicas.items()
            if "hosts" in (replica.routing_stats or {})
        }
        self._view.update(
            frozenset(replica.unique_id for replica in self.curr_replicas),
            {name: frozenset(stats["hosts"]) for name, stats in said.items()},
            [(stats["settings"], stats["fault"]) for stats in said.values() if stats["fault"]],
        )

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """One candidate: Serve asks again where it does not accept."""
        names = [replica.replica_id.unique_id for replica in candidate_replicas]
        sent = envelopes(pending_request) if pending_request is not None else []
        eligible = self._view.eligible(names, [name for each in sent for name in wanted(each.chunk)])
        some = [names[place] for place in eligible]
        place = eligible[self._in_flight.choose(some, self._view.others_ms(some))]
        if pending_request is not None:
            self._reserve(names[place], pending_request)
        return [[candidate_replicas[place]]]

    def _reserve(self, replica: str, pending: PendingRequest) -> None:
        """Count a chunk from now on, and put it right when Serve has sent it elsewhere or not at all."""
        request = pending.metadata.internal_request_id
        if (before := self._chosen.get(pending.future)) is not None:
            self._in_flight.close(before, request)
        else:
            pending.future.add_done_callback(lambda sent: self._settle(sent, request))
        self._chosen[pending.future] = replica
        self._in_flight.add(replica, request, sum(envelope.chunk.min_ms for envelope in envelopes(pending)))

    def _settle(self, sent: "asyncio.Future[RunningReplica]", request: str) -> None:
        chosen = self._chosen.pop(sent)
        failed = sent.cancelled() or sent.exception() is not None
        to = None if failed else sent.result().replica_id.unique_id
        if to != chosen:
            ms = self._in_flight.close(chosen, request)
            if to is not None:
                self._in_flight.add(to, request, ms)

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: object) -> None:
        for envelope in envelopes(pending_request):
            envelope.replica = replica_id.unique_id

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        self._in_flight.close(replica_id.unique_id, internal_request_id)


def wanted(chunk: Chunk) -> list[str]:
    """Fingerprints, any of which a replica has to host."""
    return (
        [chunk.weights]
        if chunk.weights is not None
        else [chunk.models[tier] for tier in chunk.tiers if tier in chunk.models]
    )


def envelopes(pending: PendingRequest) -> list[Envelope]:
    """None for calls that carry no chunk."""
    return [argument for argument in pending.args if isinstance(argument, Envelope)]
