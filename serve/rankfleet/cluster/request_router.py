"""Chooses the replica for each chunk: the request router that Serve uses for groups.

Nothing here is shared with the rest of the process: see `cluster/envelope.py`.
"""

import time
from typing import Any

from ray.serve.request_router import FIFOMixin, PendingRequest, ReplicaID, RequestRouter, RunningReplica

from rankfleet.cluster.envelope import Envelope, ledger_of, publish
from rankfleet.cluster.ray_private import deployment_of
from rankfleet.router.replica_record import Entry


class LeastWorkRouter(FIFOMixin, RequestRouter):
    """Places each chunk by the ledger of its group, and tells the ledger which replicas run.

    Serve makes one for each group in each process of the router, on the event loop of its requests. Chunks are
    assigned in order of arrival.
    """

    def initialize_state(self, **_: Any) -> None:
        self._ledger = ledger_of(deployment_of(self))

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        self._publish()

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_died(replica_id)
        self._publish()

    def _publish(self) -> None:
        """Tell the ledger which replicas run, what they host and in which precision, and which cannot follow the fleet
        file."""
        reports = {
            replica_id.unique_id: replica.routing_stats
            for replica_id, replica in self.curr_replicas.items()
            if "hosts" in (replica.routing_stats or {})
        }
        publish(self._ledger, frozenset(replica.unique_id for replica in self.curr_replicas), reports)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """One group of one replica. If that does not accept, Serve pauses and asks again."""
        names = [replica.replica_id.unique_id for replica in candidate_replicas]
        entry = entry_of(pending_request) or Entry(0.0, 0.0, 0.0)  # a call for a latency, say
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True
        return [[candidate_replicas[self._ledger.choose(entry, names, time.perf_counter())]]]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: object) -> None:
        """Serve may give a chunk the replica that was chosen for another one."""
        if (entry := entry_of(pending_request)) is not None:
            self._ledger.place(entry, replica_id.unique_id, time.perf_counter())


def entry_of(pending: PendingRequest | None) -> Entry | None:
    """The entry of the chunk that a call carries; None for calls other than `score`."""
    arguments = pending.args if pending is not None else ()
    return next((argument.entry for argument in arguments if isinstance(argument, Envelope)), None)
