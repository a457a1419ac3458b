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


class Choices:
    """The choices that a group has made for a model, numbered from 1 on, each with the replicas that follow it.

    A choice is never changed, and a newer one is made only once no replica follows the last: so replicas that start
    at the same time, after all others have gone, cannot keep an old one alive by seeing each other.
    """

    def __init__(self, store: Store, group: str, model: str, replica: str) -> None:
        """replica: the one that asks. model: its fingerprint."""
        self._store, self._replica = store, replica
        self._choices, self._followers = f"{group}/{model}/choices/", f"{group}/{model}/followers/"

    def newest(self) -> int:
        """The number of the last choice; 0 if there is none yet."""
        return max((int(key.removeprefix(self._choices)) for key in self._store.keys(self._choices)), default=0)

    def is_followed(self, number: int, living: Collection[str]) -> bool:
        """Whether another living replica follows a choice. It removes those that are gone."""
        prefix = f"{self._followers}{number}/"
        others = {key.removeprefix(prefix) for key in self._store.keys(prefix)} - {self._replica}
        for gone in others.difference(living):
            self._store.delete(prefix + gone)
        return not others.isdisjoint(living)

    def follow(self, number: int) -> None:
        self._store.put(f"{self._followers}{number}/{self._replica}", "")

    def read(self, number: int) -> Precision | None:
        """A choice; None if it has been replaced and removed."""
        stored = self._store.get(f"{self._choices}{number}")
        return None if stored is None else Precision(**json.loads(stored))

    def make(self, number: int, precision: Precision) -> None:
        """Make a choice, unless another replica was quicker, and remove the one that it replaces."""
        self._store.put(f"{self._choices}{number}", json.dumps(precision.to_json()))
        self._store.delete(f"{self._choices}{number - 1}")


def follow_first(
    store: Store, replica: str, living: Callable[[], Collection[str]], group: str, model: str, decide: Decide
) -> Precision:
    """The precision in which a group computes a model: what another living replica follows, else what `decide` says.

    replica: the name of this one. living: names of all replicas that run or start. model: its fingerprint.
    """
    choices = Choices(store, group, model, replica)
    while True:
        number = choices.newest()
        if number == 0 or not choices.is_followed(number, living()):
            number += 1
            choices.follow(number)  # first, so that none that starts meanwhile finds the choice without a follower
            choices.make(number, decide())
        choices.follow(number)
        if (precision := choices.read(number)) is not None:
            return precision


def share_in_cluster(group: str, model: str, decide: Decide) -> Precision:
    """`follow_first` among the replicas of this Ray cluster."""
    return follow_first(ClusterStore(), own_replica(), living_replicas, group, model, decide)
