"""One precision for all replicas of a group: the first one decides for a model, and the others follow.

If each decided for itself, replicas on different processors could differ, and chunks of one ranking would have to be
scored again by replicas that agree.
"""

import json
from collections.abc import Callable, Collection
from typing import Protocol

from rankfleet.cluster.ray_private import ClusterStore, living_replicas, own_replica
from rankfleet.estimates.precision import Precision

Decide = Callable[[], Precision]
Share = Callable[[str, str, Decide], Precision]


class Store(Protocol):
    """Texts by key, the same for all replicas: `ClusterStore`, or a fake."""

    def get(self, key: str) -> str | None: ...
    def put(self, key: str, value: str) -> None:
        """Store a value unless the key has one."""

    def delete(self, key: str) -> None: ...
    def keys(self, prefix: str) -> list[str]: ...


def follow_first(
    store: Store, replica: str, living: Callable[[], Collection[str]], group: str, model: str, decide: Decide
) -> Precision:
    """The precision in which a group computes a model: what another living replica follows, else what `decide` says.

    replica: the name of this one. living: names of all replicas that run or start. model: its fingerprint.
    """
    choice, followers = f"{group}/{model}/choice", f"{group}/{model}/followers/"
    # Before it looks for others: of two replicas that start at the same time, at least one sees the other.
    store.put(followers + replica, "")
    alive = living()
    others = {key.removeprefix(followers) for key in store.keys(followers)} - {replica}
    for gone in others.difference(alive):
        store.delete(followers + gone)
    if others.isdisjoint(alive):
        store.delete(choice)  # of replicas that are all gone, perhaps with their processors
    while (stored := store.get(choice)) is None:
        store.put(choice, json.dumps(decide().to_json()))
    return Precision(**json.loads(stored))


def share_in_cluster(group: str, model: str, decide: Decide) -> Precision:
    """`follow_first` among the replicas of this Ray cluster."""
    return follow_first(ClusterStore(), own_replica(), living_replicas, group, model, decide)
