"""Chooses the replica for each chunk: the request router that Serve uses for groups."""

import asyncio
from typing import Any

from ray.serve.request_router import FIFOMixin, PendingRequest, ReplicaID, RequestRouter, RunningReplica

from rankfleet.cluster.ray_private import deployment_of
from rankfleet.core.messages import Chunk
from rankfleet.router.inflight import InFlight
from rankfleet.router.replica_view import Envelope, replica_view_of


class LeastWorkRouter(FIFOMixin, RequestRouter):
    """Sends each chunk to the replica with the least predicted work among those that host its model.

    Serve makes one for each group in each process of the router, on the event loop of its requests. It also tells the
    router which replicas run. Chunks are assigned in order of arrival.
    """

    def initialize_state(self, **_: Any) -> None:
        self._view = replica_view_of(deployment_of(self))
        self._in_flight = InFlight()
        # Replica chosen for each request that Serve has not assigned yet.
        self._chosen: dict[asyncio.Future[RunningReplica], str] = {}

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        self._publish()

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_died(replica_id)
        self._publish()

    def _publish(self) -> None:
        """Tell the router which replicas run, what they host, and which cannot follow the fleet file."""
        reports = {
            replica_id.unique_id: replica.routing_stats
            for replica_id, replica in self.curr_replicas.items()
            if "hosts" in (replica.routing_stats or {})
        }
        self._view.update(
            frozenset(replica.unique_id for replica in self.curr_replicas),
            {name: frozenset(stats["hosts"]) for name, stats in reports.items()},
            [(stats["settings"], stats["fault"]) for stats in reports.values() if stats["fault"]],
        )

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """One group of one replica. Serve calls again if that replica does not accept."""
        names = [replica.replica_id.unique_id for replica in candidate_replicas]
        sent = envelopes(pending_request) if pending_request is not None else []
        eligible = self._view.eligible(names, [name for each in sent for name in usable_models(each.chunk)])
        eligible_names = [names[index] for index in eligible]
        index = eligible[self._in_flight.choose(eligible_names, self._view.others_ms(eligible_names))]
        if pending_request is not None:
            self._reserve(names[index], pending_request)
        return [[candidate_replicas[index]]]

    def _reserve(self, replica: str, pending: PendingRequest) -> None:
        """Count a chunk as in flight from now on. Corrected when Serve assigns it to another replica or to none."""
        request = pending.metadata.internal_request_id
        if (before := self._chosen.get(pending.future)) is not None:
            self._in_flight.close(before, request)
        else:
            pending.future.add_done_callback(lambda assigned: self._correct(assigned, request))
        self._chosen[pending.future] = replica
        self._in_flight.add(replica, request, sum(envelope.chunk.min_ms for envelope in envelopes(pending)))

    def _correct(self, assigned: "asyncio.Future[RunningReplica]", request: str) -> None:
        chosen = self._chosen.pop(assigned)
        failed = assigned.cancelled() or assigned.exception() is not None
        replica = None if failed else assigned.result().replica_id.unique_id
        if replica != chosen:
            ms = self._in_flight.close(chosen, request)
            if replica is not None:
                self._in_flight.add(replica, request, ms)

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: object) -> None:
        for envelope in envelopes(pending_request):
            envelope.replica = replica_id.unique_id

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        self._in_flight.close(replica_id.unique_id, internal_request_id)


def usable_models(chunk: Chunk) -> list[str]:
    """Fingerprints of which a replica has to host at least one to score this chunk."""
    if chunk.weights is not None:
        return [chunk.weights]
    return [chunk.models[tier] for tier in chunk.tiers if tier in chunk.models]


def envelopes(pending: PendingRequest) -> list[Envelope]:
    """The chunks that a call carries; empty for calls other than `score`."""
    return [argument for argument in pending.args if isinstance(argument, Envelope)]
