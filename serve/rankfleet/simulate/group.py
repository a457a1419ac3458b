"""A replica group in the simulator: workers as they serve traffic, whose devices take the predicted time."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from rankfleet.core.messages import Chunk, ChunkScores
from rankfleet.estimates.load import LoadCounters
from rankfleet.replica.worker import Worker
from rankfleet.router.ledger import Ledger
from rankfleet.router.replica_record import Entry
from rankfleet.simulate.scaling import GroupSnapshot


@dataclass
class SimulatedReplica:
    """One replica. started: whether it takes work. ongoing: chunks that wait or are being scored."""

    name: str
    worker: Worker
    started: bool = False
    ongoing: int = 0


class SimulatedGroup:
    """The replicas of one group, which can start and drain. Runs on the event loop of the simulation."""

    def __init__(
        self,
        name: str,
        ledger: Ledger,
        new_worker: Callable[[str], Worker],
        hop: Callable[[], Awaitable[object]],
    ) -> None:
        """
        new_worker: makes the worker of a replica, by the replica's name
        hop: the router's work for a chunk on its way to a replica, and for its scores on their way back
        """
        self._name = name
        self._ledger = ledger
        self._new_worker = new_worker
        self._hop = hop
        self._made = 0
        self._waiting = 0  # chunks that came while no replica took work
        self._available = asyncio.Event()
        self.replicas: list[SimulatedReplica] = []  # that take work, or will when they have started
        self.draining: list[SimulatedReplica] = []  # that take no more and still finish what they have

    async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
        """As `GroupClient` says; waits while no replica takes work, as Serve does."""
        self._waiting += 1
        try:
            while not (taking := [replica for replica in self.replicas if replica.started]):
                await self._available.wait()
        finally:
            self._waiting -= 1
        names = [replica.name for replica in taking]
        replica = taking[self._ledger.choose(entry, names, asyncio.get_running_loop().time())]
        replica.ongoing += 1
        try:
            await self._hop()
            scores = await replica.worker.submit(chunk)
            await self._hop()
            return scores
        finally:
            replica.ongoing -= 1

    @property
    def all_replicas(self) -> list[SimulatedReplica]:
        """Draining ones too."""
        return self.replicas + self.draining

    @property
    def ready(self) -> int:
        """How many replicas take work."""
        return sum(replica.started for replica in self.replicas)

    def scale_to(self, target: int, start_s: float) -> None:
        """Start replicas up to the target, which take work `start_s` later; or let the newest drain down to it."""
        self.draining = [replica for replica in self.draining + self.replicas[target:] if replica.ongoing]
        del self.replicas[target:]
        while len(self.replicas) < target:
            name = f"{self._name}-{self._made}"
            self._made += 1
            self.replicas.append(replica := SimulatedReplica(name, self._new_worker(name)))
            if start_s > 0:
                asyncio.get_running_loop().call_later(start_s, self._start, replica)
            else:
                replica.started = True
        self._publish()

    def _start(self, replica: SimulatedReplica) -> None:
        replica.started = True
        self._publish()

    def _publish(self) -> None:
        """Say which replicas take work, as Serve does."""
        self._ledger.update(frozenset(replica.name for replica in self.replicas if replica.started))
        if self.ready:
            self._available.set()
        else:
            self._available.clear()

    def snapshot(self, offered: LoadCounters) -> GroupSnapshot:
        """What a scaler may see. Draining replicas still report. offered: the router's counters."""
        every = self.all_replicas
        sources = {f"replica {replica.name}": replica.worker.load.counters for replica in every}
        return GroupSnapshot(
            ready=self.ready,
            all=len(self.replicas),
            sources=sources | {"router": offered},
            backlog_s=sum(replica.worker.load.backlog_s for replica in every),
            ongoing=sum(replica.ongoing for replica in every) + self._waiting,
        )
