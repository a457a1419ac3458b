"""A replica group that a router hosts in its own process (`in_router` in the fleet file).

The replica is the one that Serve would run in a process of its own. Here the router hands it the fleet files, reports
for it to the ledger, and calls its queue: without Serve, a copy of the chunk, or another process to wake.
"""

import time
from collections.abc import Callable

from rankfleet.cluster.envelope import publish
from rankfleet.cluster.group_deployment import ReplicaGroup
from rankfleet.cluster.transport import as_rankfleet_error
from rankfleet.core.config import FleetConfig
from rankfleet.core.messages import Chunk, ChunkScores
from rankfleet.estimates.latency import LatencyModel
from rankfleet.router.ledger import Ledger
from rankfleet.router.replica_record import Entry


class InRouterGroup:
    """The one replica of a group in this router's process."""

    def __init__(
        self,
        name: str,
        ledger: Ledger,
        replica: str,
        hosted: ReplicaGroup,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """replica: the name that its answers carry."""
        self._name = name
        self._ledger = ledger
        self._replica = replica
        self._hosted = hosted
        self._clock = clock

    async def follow(self, fleet: FleetConfig) -> None:
        """Host what the fleet file says; see `FleetFollower.reconfigure`."""
        await self._hosted.reconfigure(fleet.for_groups)
        self.publish()

    def publish(self) -> None:
        """Tell the ledger what is hosted now, and why the newest file is not, as Serve does of other replicas."""
        stats = self._hosted.record_routing_stats()
        publish(self._ledger, frozenset({self._replica}), {self._replica: stats} if stats else {})

    def start(self) -> None:
        """Nothing is to be connected to."""

    async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
        """As `GroupClient` says. A chunk that nobody waits for any more leaves the queue."""
        self._ledger.place(entry, self._replica, self._clock())
        try:
            return await self._hosted.submit(chunk)
        except Exception as error:
            raise as_rankfleet_error(error, self._name, self._replica) from error

    async def latency(self) -> dict[str, LatencyModel]:
        """Latency models by fingerprint."""
        return await self._hosted.latency()

    def record_load(self) -> None:
        """Export the metrics of the replica's load."""
        self._hosted.record_autoscaling_stats()

    async def check_health(self) -> None:
        """Raises RuntimeError that says what does not work any more."""
        await self._hosted.check_health()
