"""Which replica of a group gets a chunk: Serve's request router for groups, and what it knows of their replicas."""

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from ray.serve.request_router import FIFOMixin, PendingRequest, ReplicaID, RequestRouter, RunningReplica

SHUN_S = 5.0  # a replica that lost a chunk gets no other for so long; if it is dead, Serve has noticed by then
Heard = Callable[[frozenset[str]], None]


class Roster:
    """The replicas of one group that take work, as Serve says, less those that have just failed here."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._shunned: dict[str, float] = {}  # name → until
        self._heard: list[Heard] = []
        self.running: frozenset[str] = frozenset()

    def listen(self, heard: Heard) -> None:
        """heard: called with the names of the running replicas, now if they are known, and when they change."""
        self._heard.append(heard)
        if self.running:
            heard(self.running)

    def update(self, running: frozenset[str]) -> None:
        self.running = running
        self._shunned = {name: until for name, until in self._shunned.items() if name in running}
        for heard in self._heard:
            heard(running)

    def shun(self, name: str) -> None:
        """Prefer others for a while."""
        self._shunned[name] = self._clock() + SHUN_S

    def eligible(self, names: Sequence[str]) -> list[int]:
        """Places of the names to choose from: those not shunned, or all where none else is left."""
        if not self._shunned:
            return list(range(len(names)))
        now = self._clock()
        good = [place for place, name in enumerate(names) if self._shunned.get(name, 0.0) <= now]
        return good or list(range(len(names)))


ROSTERS: dict[str, Roster] = {}


def roster_of(group: str) -> Roster:
    """One per group and process: Serve makes the request router, and this is how to meet it."""
    return ROSTERS.setdefault(group, Roster())


class Sending:
    """A chunk on its way out. In the router's process it says who got it; a replica receives the argument alone."""

    def __init__(self, argument: Any) -> None:
        self.argument = argument
        self.replica = ""  # set once a replica has taken it

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self.argument,)


def _itself(argument: Any) -> Any:
    return argument


class Balancer(FIFOMixin, RequestRouter):
    """Two replicas at random of those eligible, the one with fewer chunks of the two."""

    def initialize_state(self, **_: Any) -> None:
        self._roster = roster_of(self._deployment_id.name)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        self._tell()

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_died(replica_id)
        self._tell()

    def _tell(self) -> None:
        self._roster.update(frozenset(replica.unique_id for replica in self.curr_replicas))

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        eligible = self._roster.eligible([r.replica_id.unique_id for r in candidate_replicas])
        return [[candidate_replicas[i] for i in random.sample(eligible, min(2, len(eligible)))]]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: object) -> None:
        for argument in pending_request.args:
            if isinstance(argument, Sending):
                argument.replica = replica_id.unique_id
